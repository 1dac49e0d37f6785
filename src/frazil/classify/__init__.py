"""Particles to 2-D class averages, and to good and bad particles.

Every particle is compared with every class, turned and shifted, with its CTF and with the noise that the images show outside
the particles; classes are averages of all particles weighted with their posterior (expectation-maximisation). Poses in the
input are neither needed nor used. Only what lies within the diameter of the particle counts: give `--diameter` where the one
that is found in the images does not fit.

    frazil classify particles.star --out classes
    frazil classify particles.star --classes 50 --diameter 150
    frazil reconstruct classes/outputs/good.star

Makes outputs/classes.mrcs (best class first), classes.star (particles, resolution, sharpness and score of each class),
particles.star, good.star and bad.star (the same rows, divided), and report.html with all classes. Every input column is kept,
and there are new ones: rlnClassNumber; frazilClassPsi, frazilClassOriginXAngst and frazilClassOriginYAngst, the angle and the
shift that bring a particle into its class, counted as RELION counts them; frazilParticleScore, the share of its signal that
is explained. Where the input has no poses the alignment is also in rlnAnglePsi and rlnOriginX/YAngst; poses that are there
stay.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from frazil.config import JobConfig, argument, setting

if TYPE_CHECKING:
    from frazil.engine.job import Job


class Config(JobConfig):
    """Settings of `frazil classify`."""

    particles: Path = argument("particle stack: .star, .cs, .mrcs, or a job that made one")
    images: Path | None = setting(None, "folder the image paths in the stack start from (found by itself as a rule)")
    classes: int = setting(50, "number of classes", ge=1)
    diameter: float | None = setting(
        None, "diameter of the particle, Å (found in the images unless given)", gt=0, allow_inf_nan=False
    )
    shift_range: float | None = setting(
        None, "farthest that a particle lies off the centre of its image, Å (a tenth of the diameter)", ge=0, le=1000
    )
    resolution: float = setting(8.0, "finest resolution used, Å", gt=0, allow_inf_nan=False)
    contrast: Literal["auto", "bright", "dark"] = setting("auto", "whether particles are bright or dark in the images")
    rounds: int = setting(80, "rounds of expectation and maximisation, each with some of the particles", ge=2)
    batch_size: int | None = setting(None, "particles in a round (20 for each class, 300 at least)", ge=1)
    reject: float | None = setting(
        None, "share of the particles to call bad, the worst first (what stands apart unless given)", ge=0, lt=1
    )
    report: bool = setting(True, "draw the classes and write report.html")
    checkpoint_every: int = setting(5, "rounds between two checkpoints", ge=1)


def run(config: Config, job: Job) -> None:
    """Classify: see the module's text."""
    from frazil.classify.verb import classify

    classify(config, job)
