"""Compare a result with the truth, in numbers.

A reconstruct job against the job that simulated its particles (``--truth``): the consensus map, the poses after global
alignment and handedness, the latent coordinates and their stated uncertainty, the components of a mixture, and the
decoded map of every state and of a hundred particles; with ``--oracle``, what those images give when everything is known.
Whatever the job did not make is left out, and images that the truth knows to be junk do not count. Maps of a result whose
poses were found are brought into the frame, hand and centre of the truth by those poses, whatever share of them is wrong;
the classes of a mixture have frames of their own.

A map against a map: Fourier shell correlation, plain, masked and corrected for the mask; with ``--align`` after a search
for rotation, hand and shift. Particles against particles (``--truth other.star``): differences between the poses that two
programs found, matched by image, modulo ``--symmetry`` and hand; ``--particles`` says which of them count.

Prints a table, or with ``--json`` one JSON object. Angles are in degrees, lengths in Å; names that end in ``_px`` are
in pixels. Areas under FSC curves follow CryoBench: a perfect map has ``perfect_fsc_auc``, not 1.

Examples: ``frazil evaluate reconstruct/J001 --truth simulate/J001 --json``, ``frazil evaluate a.mrc --truth b.mrc --align``,
``frazil evaluate reconstruct/J002 --truth relion.star --symmetry O --particles consistent.txt``
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from frazil.config import StageConfig, argument, setting

if TYPE_CHECKING:
    from frazil.engine.job import Job

MAKES_JOB = False


class Config(StageConfig):
    """What to compare."""

    result: Path = argument("reconstruct job, a map (.mrc) or particles (.star)")
    truth: Path | None = setting(
        None, "simulate job, a map (.mrc), or particles with reference poses (.star) to compare with"
    )
    as_json: bool = setting(False, "print one JSON object", flag="json")
    mask: Path | None = setting(None, "soft mask for both maps (drawn round the true states unless given)")
    align: bool = setting(
        False, "find rotation, hand and shift of the map (of a job: its consensus) against the truth before comparing"
    )
    particles: Path | None = setting(
        None, "particles that count: a .star file, or text with a row number (from 1) or image name on each line"
    )
    symmetry: str = setting("C1", "point group of the object, for the poses")
    images: int = setting(100, "particles whose own map is decoded and compared with its true one; 0 for none", ge=0)
    oracle: bool = setting(
        False, "the same figures of maps backprojected from the simulated images of each state at their true poses"
    )
    threads: int | None = setting(None, "number of CPU threads (all cores unless given)", ge=1)


def run(config: Config, job: Job | None = None) -> dict[str, Any] | str:
    """The figures: a dictionary with ``--json``, a table otherwise."""
    from frazil.evaluate.verb import evaluate, table

    figures = evaluate(config)
    return figures if config.as_json else table(figures)
