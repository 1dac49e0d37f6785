"""Convert particles between RELION, cryoSPARC, cryoDRGN and NumPy.

`frazil export particles.star --to cryodrgn --out DIR` reads a particle table of any kind and writes `particles.star`
(RELION 3.1), `particles.cs` (cryoSPARC), `pose.pkl` and `ctf.pkl` (cryoDRGN 4), or `arrays.npz` (NumPy) into the job's
outputs. Poses, shifts and CTF are converted to the other program's conventions and units. Only the table is converted: the
images stay where they are and need not even be there. Columns of the input are kept where the output has room for them.
cryoDRGN's `pose.pkl`, `ctf.pkl` and `ind.pkl` can be given to complete or to select the particles.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from frazil.config import JobConfig, argument, setting

if TYPE_CHECKING:
    from frazil.engine.job import Job


class Config(JobConfig):
    """Settings of `frazil export`."""

    particles: Path = argument("particles: .star, .cs, .txt, .mrcs, or a job folder")
    to: Literal["relion", "cryosparc", "cryodrgn", "numpy"] = setting("relion", "program to write for")
    images: Path | None = setting(None, "folder that holds the images, or the one stack to use")
    pixel_size: float | None = setting(None, "pixel size in place of what the file says, Å", gt=0)
    box_size: int | None = setting(None, "box size in place of what the file says, pixels", gt=0)
    poses: Path | None = setting(None, "cryoDRGN pose.pkl to use as poses")
    ctf: Path | None = setting(None, "cryoDRGN ctf.pkl to use as CTF")
    select: Path | None = setting(None, "cryoDRGN ind.pkl: the particles to keep")


def run(config: Config, job: Job) -> None:
    """Read, convert, write. Raises InputError when the particles cannot be read or lack what the output needs."""
    from frazil.data.conversion import convert

    convert(config, job)
