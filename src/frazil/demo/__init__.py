"""The whole way in a minute or two: from a generated molecule that bends to a report that shows it bending.

    frazil demo

Simulates 2,000 noisy images of a hinge in random orientations, makes a consensus map of them, learns an ensemble of
conformations (the preset frazil: a basis of volumes, in two halves), analyses it, and compares all of it with the truth.
Each step is a command of its own, said before it runs, and leaves a job folder below the demo's: the same command repeats
it. A demo that was stopped goes on where it stopped.

With `--data DIR` it reconstructs the real particles of `DIR/apoferritin/particles/particles.star` instead, with their
octahedral symmetry.

Writes `report.html`, with the latent map, the volumes, the motion as a film and the scores against the truth in one
file, and `outputs/scores.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from frazil.config import JobConfig, setting

if TYPE_CHECKING:
    from frazil.engine.job import Job


class Config(JobConfig):
    """Settings of `frazil demo`."""

    out: Path = setting(Path("demo"), "folder of the demo; the jobs of its steps lie below it")
    data: Path | None = setting(None, "folder with apoferritin/particles/particles.star: run on these real particles")
    count: int = setting(2000, "number of simulated particles", ge=50)
    box: int = setting(64, "side of the simulated images, pixels", ge=16)
    latent_dim: int | None = setting(
        None, "latent coordinates of the ensemble (as many as the images ask for unless given)", ge=1, le=8
    )


def run(config: Config, job: Job) -> None:
    """Run all steps and write the report."""
    from frazil.demo.story import run_demo

    run_demo(config, job)
