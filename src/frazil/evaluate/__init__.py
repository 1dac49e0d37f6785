"""Compare a result with the truth, in numbers.

A reconstruct job against the job that simulated its particles (``--truth``): the consensus map, the poses after global
alignment and handedness, the latent coordinates and their stated uncertainty, the components of a mixture, and the
decoded map of every state and of a hundred particles; with ``--oracle``, what those images give when everything is known.
Whatever the job did not make is left out. A map against a map: Fourier shell correlation, plain, masked and corrected
for the mask.

Prints a table, or with ``--json`` one JSON object. Angles are in degrees, lengths in Å; names that end in ``_px`` are
in pixels. Areas under FSC curves follow CryoBench: a perfect map has ``perfect_fsc_auc``, not 1.

Examples: ``frazil evaluate reconstruct/J001 --truth simulate/J001 --json``, ``frazil evaluate a.mrc --truth b.mrc``
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

    result: Path = argument("reconstruct job, or a map (.mrc)")
    truth: Path | None = setting(None, "simulate job, or a map (.mrc) to compare with")
    as_json: bool = setting(False, "print one JSON object", flag="json")
    mask: Path | None = setting(None, "soft mask for both maps (drawn round the true states unless given)")
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
