"""Decode latent coordinates into density maps.

Reads the ensemble of a reconstruct job and writes the map at each latent point:

    frazil decode reconstruct/J002 --latent z.npy
    frazil decode reconstruct/J002 --particles 0,17,100-109

`--latent` takes a .npy file of shape (points, latent_dim), or text with one point per line. `--particles` takes rows
of the job's particles (from 0), or a file of rows, and decodes the conformation of each. `--box` decodes onto fewer,
larger voxels over the same extent, which is faster; the pixel size in the header follows.

Where the job holds ensembles of both half-sets, every point is decoded from both: `volume_000_half_a.mrc`,
`volume_000_half_b.mrc` and `volume_000_local_resolution.mrc` (Å) lie beside the map, and `outputs/resolution.csv` says how
far it can be believed. With `--from-images` the maps `volume_000_from_images.mrc` are made without the model, from the
images whose latents are nearest to the point, with half-maps of their own.

The folder of a finished cryoDRGN run (config.yaml, weights, z) can be given in place of a job.

Writes `outputs/volumes/volume_000.mrc` and so on in the order of the points, `outputs/latent.npy` with the points,
`open.cxc` for ChimeraX, with a morph through the maps, and `open.mvsj` for Mol*.
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

    job: Path = argument(
        "folder of a reconstruct job or of one of its discrete states, with an ensemble, or of a finished cryoDRGN run"
    )
    latent: Path | None = setting(None, "latent points: .npy of shape (points, latent_dim), or text, a point per line")
    particles: Path | str | None = setting(
        None, "particles to decode: rows from 0, such as 0,4,10-12, or a file of rows"
    )
    from_images: bool = setting(False, "make each map from its nearest images alone too, without the model")
    box: int | None = setting(None, "voxels along each side of the maps; fewer than the job's are larger voxels")
    pixel_size: float | None = setting(None, "of the images of a cryoDRGN run whose files do not say it, Å", gt=0)

    @field_validator("particles")
    @classmethod
    def _file_or_rows(cls, value: Path | str | None) -> Path | str | None:
        # as a path, the content of a file counts among the inputs of the job
        return Path(value) if value is not None and Path(value).is_file() else value


def run(config: Config, job: Job) -> None:
    """Decode the points that the configuration names."""
    from frazil.analyze.decode_job import run_decode

    run_decode(config, job)
