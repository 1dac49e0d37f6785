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
from frazil.inference.half_map_pair import decode_pair, pair_half_maps
from frazil.numerics.shells import first_shell_below
from frazil.physics.ensemble import Ensemble
from frazil.physics.grid import Grid
from frazil.physics.outline import outline

# how many conformations are shown, and the percentiles of the particles between which they lie
SHOWN, OUTERMOST = 5, (5.0, 95.0)
# particles that are asked for the densest place
MOST_NEAR = 500
# maps are drawn on at most this many voxels a side; those of a neural field, which cost far more, on fewer
LARGEST_DRAWN, LARGEST_FIELD = 128, 64
# what is said in place of a resolution where half-maps do not agree even in the first shell
NOWHERE = "nowhere"


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
    """Rows of particles at equal steps along the first coordinate: real ones, so that no map is of an empty place.

    At each step the nearest fortieth of the particles is taken, and of these the one in the densest place. Steps that lead
    to the same particle count once.
    """
    along = coordinates[:, 0]
    few = min(len(along), max(4, len(along) // 40), MOST_NEAR)
    rows = []
    first, last = np.percentile(along, OUTERMOST)
    for place in np.linspace(first, last, SHOWN):
        near = np.argsort(np.abs(along - place), kind="stable")[:few]
        apart = np.linalg.norm(coordinates[near][:, None] - coordinates[near], axis=-1)
        rows.append(near[np.sort(apart, axis=1)[:, few // 4].argmin()])
    return np.array(list(dict.fromkeys(rows)))


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
    """Corrected FSC between the maps of both half-sets, and the resolution in words.

    That of a map is read at 0.143. That of a change is read at 0.5: directions of change start from the same random volumes
    in both halves and lie in one latent frame, and keep some correlation where they are noise.

    Args:
        finest: Å; what is finer was not learnt from images, and is left out.
        beside: another conformation: what is correlated is then the difference of the two, which is what moves.
    """
    grid = halves[0].grid
    pair = decode_pair(halves, latent, grid, seed, finest)
    if beside is not None:
        other = decode_pair(halves, beside, grid, seed)
        a, b = pair.a - other.a, pair.b - other.b
        # where the density changes: what moves may be too thin for the outline of the molecule
        pair = pair_half_maps(a, b, grid, seed, outline((a + b).abs() / 2, grid), finest)
    curve = pair.corrected()
    shell = first_shell_below(curve, 0.143 if beside is None else 0.5)
    return curve, NOWHERE if shell < 1 else f"{grid.resolution_of(shell):.1f} Å"
