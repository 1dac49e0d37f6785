"""Conformations of a finished job that are worth showing: which they are, their maps, and what their half-maps say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.data.ensemble import load_ensemble
from frazil.engine.job import Job
from frazil.figures import raymarch
from frazil.numerics.resolution import compare_half_maps
from frazil.numerics.shells import first_shell_below
from frazil.physics.ensemble import Ensemble
from frazil.physics.grid import Grid
from frazil.reconstruct.maps import outline

# where the conformations shown lie: percentiles of the particles along the coordinate that is known best
PERCENTILES = (5.0, 27.5, 50.0, 72.5, 95.0)
# maps are drawn on at most this many voxels a side; those of a neural field, which cost far more, on fewer
LARGEST_DRAWN, LARGEST_FIELD = 128, 64


@final
@dataclass(frozen=True)
class Shown:
    """The conformations of a report.

    Attributes:
        latents: one row per conformation. names: short, as they stand above the maps. volumes: decoded, on `grid`.
        level: contour level of them all. view: rotation that shows them best, object to view.
    """

    latents: Float[Tensor, "shown latent"]
    names: list[str]
    volumes: list[Float[np.ndarray, "n n n"]]
    grid: Grid
    level: float
    view: Float[np.ndarray, "3 3"]


def told_share(
    found: Float[np.ndarray, "particles latent"], spread: Float[np.ndarray, "particles latent latent"]
) -> Float[np.ndarray, " latent"]:
    """The share of each coordinate's variance that is no uncertainty of single particles: 1 is all."""
    variance = found.var(0)
    return variance / np.maximum(variance + np.einsum("nii->i", spread) / len(spread), 1e-30)


def representatives(coordinates: Float[np.ndarray, "particles plane"]) -> Int[np.ndarray, " shown"]:
    """Rows of particles at the percentiles of the first coordinate: real ones, so that no map is of an empty place.

    Around each percentile a tenth of the particles is taken, and of these the one nearest to their mean.
    """
    order = np.argsort(coordinates[:, 0], kind="stable")
    count, reach = len(order), max(1, len(order) // 20)
    rows = []
    for percentile in PERCENTILES:
        middle = round(percentile / 100 * (count - 1))
        near = order[max(0, middle - reach) : middle + reach + 1]
        rows.append(near[np.square(coordinates[near] - coordinates[near].mean(0)).sum(1).argmin()])
    return np.array(rows)


def typical_error(spread: Float[np.ndarray, "particles plane plane"]) -> Float[np.ndarray, "plane plane"]:
    """The covariance of the particle whose error ellipse has the median area."""
    area = np.linalg.det(spread)
    return spread[np.argsort(area)[len(area) // 2]]


def state_latents(
    found: Float[np.ndarray, "particles latent"], probability: Float[np.ndarray, "particles states"]
) -> Float[np.ndarray, "states latent"]:
    """The latent of each discrete state.

    A particle's latent is the mean of the states' weighed by their probabilities, so these follow by least squares.
    """
    solved = np.linalg.lstsq(probability.astype(np.float64), found.astype(np.float64), rcond=None)[0]
    return solved.astype(np.float32)


def decoded(ensemble: Ensemble, latents: Float[Tensor, "shown latent"], names: list[str]) -> Shown:
    """Maps of conformations on a grid fit for drawing."""
    most = LARGEST_FIELD if getattr(ensemble, "kind", "") == "field" else LARGEST_DRAWN
    grid, box = ensemble.grid, min(ensemble.grid.box_size, most)
    grid = Grid(box, grid.extent / box)
    with torch.no_grad():
        volumes = [ensemble.density(z).voxels(grid).float().cpu().numpy() for z in latents]
    level = float(np.median([raymarch.contour_level(volume) for volume in volumes]))
    return Shown(latents, names, volumes, grid, level, raymarch.principal_view(volumes, level))


def half_ensembles(job: Job) -> tuple[Ensemble, Ensemble] | None:
    """The ensembles of both half-sets; None where the job has none."""
    folders = [job.outputs / name for name in ("half_a", "half_b")]
    if not all((folder / "ensemble.json").exists() for folder in folders):
        return None
    return load_ensemble(folders[0]), load_ensemble(folders[1])


def half_map_curve(
    halves: tuple[Ensemble, Ensemble], latent: Tensor, finest: float, seed: int, beside: Tensor | None = None
) -> tuple[Float[Tensor, " shells"], str]:
    """Corrected FSC between the maps of both half-sets, and the resolution at 0.143 in words.

    Args:
        finest: Å; what is finer was not learnt from images, and is left out.
        beside: another conformation: what is correlated is then the difference of the two, which is what moves.
    """
    grid = halves[0].grid
    with torch.no_grad():
        a, b = (half.density(latent).voxels(grid).float() for half in halves)
        mask = outline((a + b) / 2, grid)
        if beside is not None:
            other_a, other_b = (half.density(beside).voxels(grid).float() for half in halves)
            mask = torch.maximum(mask, outline((other_a + other_b) / 2, grid))
            a, b = a - other_a, b - other_b
    last = min(grid.last_shell, round(grid.shell_of(finest)))
    curve = compare_half_maps(a, b, mask, torch.Generator().manual_seed(seed)).corrected[: last + 1]
    shell = first_shell_below(curve, 0.143)
    return curve, "nowhere" if shell < 1 else f"{grid.resolution_of(shell):.1f} Å"
