"""Latent coordinates in, maps out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from frazil.errors import InputError
from frazil.numerics.fourier import resize_volume
from frazil.physics.grid import Grid

if TYPE_CHECKING:
    from frazil.engine.job import Job
    from frazil.physics.ensemble import Ensemble


# voxels along each side of the maps that figures are drawn from
PICTURE_BOX = 128


def read_latent_points(path: Path) -> Float[np.ndarray, "points latent"]:
    """Latent points of a .npy file or of a text file with one point per line.

    A one-dimensional array is returned as it is: whether it is one point or many, only the ensemble can say.

    Raises:
        InputError: no such file, or not a table of numbers.
    """
    if not path.is_file():
        raise InputError(
            "there is no such file", where=path, remedy="give a .npy file, or text with one point per line"
        )
    try:
        table = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, ndmin=2)
        table = np.asarray(table, dtype=np.float64)
    except (ValueError, OSError, EOFError, TypeError) as error:
        raise InputError(
            "not a table of numbers", where=path, remedy="give a .npy file, or text with one point per line"
        ) from error
    return table


def as_latent_points(table: np.ndarray, latent_dim: int, where: Path | str) -> Float[np.ndarray, "points latent"]:
    """The same points as rows of `latent_dim` numbers.

    Raises:
        InputError: another number of coordinates, no point at all, or a coordinate that is not finite.
    """
    if table.ndim == 1:
        table = table[:, None] if latent_dim == 1 else table[None]
    if table.ndim != 2 or table.shape[1] != latent_dim:
        raise InputError(
            f"points of {table.shape[-1] if table.ndim else 0} coordinates, the ensemble has {latent_dim}",
            where=where,
            remedy=f"give an array of shape (points, {latent_dim})",
        )
    if not len(table):
        raise InputError("there is no point in it", where=where, remedy="give at least one")
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(bad):
        raise InputError(
            f"point {bad[0]} is not finite ({len(bad)} of {len(table)} are not)",
            where=f"{where}:{bad[0]}",
            remedy="leave it out",
        )
    return table


def read_particle_rows(text: str, count: int) -> np.ndarray:
    """Rows (0-based) of `0,4,10-12`, or of a .npy or text file of row numbers.

    Raises:
        InputError: text that is neither, or a row that the job does not have.
    """
    path = Path(text)
    where: str | Path = "--particles"
    try:
        if path.is_file():
            where = path
            table = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, ndmin=1)
            rows = np.asarray(table, dtype=np.float64).ravel()
            if (rows != np.rint(rows)).any():
                raise ValueError("fractions")
            rows = rows.astype(np.int64)
        else:
            rows = np.array([row for part in text.split(",") for row in _range(part)], dtype=np.int64)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(
            f"{text!r} is neither a list of rows nor a file of them", where=where, remedy="write for example 0,4,10-12"
        ) from error
    outside = rows[(rows < 0) | (rows >= count)]
    if len(outside) or not len(rows):
        what = f"row {outside[0]} does not exist" if len(outside) else "there is no row in it"
        raise InputError(what, where=where, remedy=f"the job has {count} particles, rows 0 to {count - 1}")
    return rows


def _range(part: str) -> range:
    first, dash, last = part.strip().partition("-")
    return range(int(first), int(last) + 1) if dash else range(int(first), int(first) + 1)


def decoding_grid(grid: Grid, box: int | None) -> Grid:
    """The grid of decoded maps: the ensemble's, or one of fewer, larger voxels over the same extent.

    Raises:
        InputError: a box larger than the ensemble's, or of fewer than 8 voxels.
    """
    if box is None:
        return grid
    if not 8 <= box <= grid.box_size:
        raise InputError(f"a box of {box} voxels cannot be decoded", where="--box", remedy=f"give 8 to {grid.box_size}")
    return Grid(box, grid.extent / box)


def decode(
    ensemble: Ensemble, points: Float[np.ndarray, "points latent"], grid: Grid
) -> Iterator[Float[np.ndarray, "n n n"]]:
    """The map at each latent point, one at a time."""
    for point in points:
        with torch.no_grad():
            yield ensemble.density(torch.from_numpy(point).to(torch.float32)).voxels(grid).float().cpu().numpy()


def decode_to_files(
    ensemble: Ensemble, points: np.ndarray, grid: Grid, paths: Sequence[Path], job: Job, description: str
) -> tuple[list[Float[np.ndarray, "m m m"]], float]:
    """Write the map at each point to its path; a resumed job keeps those it has.

    Returns:
        The maps to draw, reduced to at most `PICTURE_BOX` voxels so that many of them fit in memory, and the pixel size
        of those, Å.
    """
    from frazil.data.mrc import read_volume, write_volume

    shown: list[np.ndarray] = []
    box = min(PICTURE_BOX, grid.box_size)
    with job.progress(len(points), description, unit="maps") as progress:
        for point, path in zip(points, paths, strict=True):
            if job.resumed and path.exists():
                values = read_volume(path)[0]
            else:
                values = torch.from_numpy(next(decode(ensemble, point[None], grid)))
                write_volume(path, values, grid.pixel_size)
            shown.append((values if box == grid.box_size else resize_volume(values, box)).numpy())
            progress.advance(1)
    return shown, grid.extent / box
