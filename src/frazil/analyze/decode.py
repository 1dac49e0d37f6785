"""Decode latent coordinates into density maps.

Reads the ensemble of a reconstruct job and writes the map at each latent point:

    frazil decode reconstruct/J002 --latent z.npy
    frazil decode reconstruct/J002 --particles 0,17,100-109

`--latent` takes a .npy file of shape (points, latent_dim), or text with one point per line. `--particles` takes rows
of the job's particles (from 0), or a file of rows, and decodes the conformation of each. `--box` decodes onto fewer,
larger voxels over the same extent, which is faster; the pixel size in the header follows.

Writes `outputs/volumes/volume_000.mrc` and so on in the order of the points, `outputs/latent.npy` with the points, and
`open.cxc` for ChimeraX.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import field_validator

from frazil.config import JobConfig, argument, setting

if TYPE_CHECKING:
    from frazil.engine.job import Job


class Config(JobConfig):
    """Settings of `frazil decode`."""

    job: Path = argument("folder of a reconstruct job that holds an ensemble")
    latent: Path | None = setting(None, "latent points: .npy of shape (points, latent_dim), or text, a point per line")
    particles: Path | str | None = setting(
        None, "particles to decode: rows from 0, such as 0,4,10-12, or a file of rows"
    )
    box: int | None = setting(None, "voxels along each side of the maps; fewer than the job's are larger voxels")

    @field_validator("particles")
    @classmethod
    def _file_or_rows(cls, value: Path | str | None) -> Path | str | None:
        # as a path, the content of a file counts among the inputs of the job
        return Path(value) if value is not None and Path(value).is_file() else value


def run(config: Config, job: Job) -> None:
    """Decode the points that the configuration names."""
    from frazil.analyze.decode_job import run_decode

    run_decode(config, job)
