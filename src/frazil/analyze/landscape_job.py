"""The landscape of a job: its maps decoded, taken apart, written and drawn."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from frazil.analyze import decoding
from frazil.analyze.components import finite_rows
from frazil.analyze.landscape import Landscape, explore, landscape_mask, place_particles, state_maps
from frazil.analyze.pictures import Look
from frazil.data.mrc import read_volume, write_volume
from frazil.engine.files import write_npy, write_text
from frazil.errors import InputError
from frazil.figures import latent as latent_figures
from frazil.figures import raymarch, strips, style
from frazil.figures.section import Section
from frazil.physics.grid import Grid

if TYPE_CHECKING:
    from frazil.analyze import Config
    from frazil.engine.job import Job
    from frazil.physics.ensemble import Ensemble


@dataclass(frozen=True)
class LandscapeResult:
    """What the landscape gives to the rest of the analysis.

    Attributes:
        section: of the report. particles: (N, K) volume coordinates of every particle. state: (N,) its landscape state.
        files: the mean map of every landscape state.
    """

    section: Section
    particles: np.ndarray
    state: np.ndarray
    files: list[Path]


def run_landscape(config: Config, job: Job, ensemble: Ensemble, latent: np.ndarray, look: Look) -> LandscapeResult:
    """Decode maps at k-means centres, take them apart, and write tables, maps and figures into `outputs/landscape/`.

    Raises:
        InputError: the mask does not fit, or the maps are empty.
    """
    settings = config.landscape
    grid = decoding.decoding_grid(ensemble.grid, min(settings.box, ensemble.grid.box_size))
    rows = finite_rows(latent)
    count = min(settings.maps, len(rows))
    job.announce_memory(3.0 * 4 * count * grid.box_size**3, f"{count} maps of {grid.box_size}³ voxels")
    mask = None if settings.mask is None else _read_mask(settings.mask, grid)
    centres, nearest = _centres(latent[rows].astype(np.float64), count, config.seed)
    points = latent[rows[centres]].astype(np.float64)
    volumes = np.empty((count, *(grid.box_size,) * 3), dtype=np.float32)
    with job.progress(count, "landscape", unit="maps") as progress:
        for i, volume in enumerate(decoding.decode(ensemble, points, grid)):
            volumes[i] = volume
            progress.advance(1)
    mask = landscape_mask(volumes, grid.pixel_size) if mask is None else mask
    weight = np.bincount(nearest, minlength=count)
    found = explore(volumes, mask, weight, settings.components, settings.states, config.seed)
    placed = place_particles(latent, points, found.coordinates)
    state = np.full(len(latent), -1, dtype=np.int64)
    state[rows] = found.state[nearest]
    files = _write(job, found, volumes, mask, grid, points, rows[centres], placed)
    return LandscapeResult(_section(found, volumes, grid, placed, look), placed, state, files)


def _centres(cloud: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(particle nearest to each k-means centre, centre of each particle)."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import pairwise_distances_argmin

    if count >= len(cloud):
        return np.arange(len(cloud)), np.arange(len(cloud))
    starts: Any = 1
    found = MiniBatchKMeans(count, random_state=seed, n_init=starts, batch_size=max(1024, 3 * count)).fit(cloud)
    rows = np.unique(pairwise_distances_argmin(found.cluster_centers_, cloud))
    if len(rows) < count:
        # centres that fell together: the particles farthest from those there are take their places
        from sklearn.metrics import pairwise_distances_argmin_min

        far = np.argsort(-pairwise_distances_argmin_min(cloud, cloud[rows])[1], kind="stable")
        rows = np.concatenate([rows, far[~np.isin(far, rows)][: count - len(rows)]])
    return rows, pairwise_distances_argmin(cloud, cloud[rows])


def _read_mask(path: Path, grid: Grid) -> np.ndarray:
    values, found = read_volume(path)
    if found.box_size != grid.box_size:
        raise InputError(
            f"a mask of {found.box_size} voxels along each side, the maps have {grid.box_size}",
            where=path,
            remedy=f"give --landscape.box {found.box_size}, or resample the mask",
        )
    if not bool((values > 0).any()):
        raise InputError("the mask is empty", where=path, remedy="it is above 0 where maps shall be compared")
    return values.numpy()


def _write(
    job: Job,
    found: Landscape,
    volumes: np.ndarray,
    mask: np.ndarray,
    grid: Grid,
    points: np.ndarray,
    rows: np.ndarray,
    placed: np.ndarray,
) -> list[Path]:
    folder = job.outputs / "landscape"
    folder.mkdir(exist_ok=True)
    write_volume(folder / "mask.mrc", torch.from_numpy(mask.astype(np.float32)), grid.pixel_size)
    write_npy(folder / "latent.npy", points.astype(np.float32))
    write_npy(folder / "coordinates.npy", found.coordinates.astype(np.float32))
    write_npy(folder / "particles.npy", placed.astype(np.float32))
    files = []
    for k, (mean, spread) in enumerate(state_maps(volumes, found)):
        files.append(folder / f"state_{k:03d}_mean.mrc")
        write_volume(files[-1], torch.from_numpy(mean), grid.pixel_size)
        write_volume(folder / f"state_{k:03d}_std.mrc", torch.from_numpy(spread), grid.pixel_size)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["map", "particle", "state", "particles", *(f"volume{i + 1}" for i in range(found.coordinates.shape[1]))]
    )
    for i, place in enumerate(found.coordinates):
        table.writerow([i, rows[i], found.state[i], found.weight[i], *(f"{value:.6g}" for value in place)])
    write_text(folder / "maps.csv", text.getvalue())
    return files


def _section(found: Landscape, volumes: np.ndarray, grid: Grid, placed: np.ndarray, look: Look) -> Section:
    section = Section(
        "Landscape of volumes",
        f"{len(volumes)} decoded maps, compared inside a mask: principal components of the volumes, and"
        f" {found.state_count} clusters of them (average linkage). Valleys of -ln p are where particles gather; it is an"
        " energy only as far as the sample was in equilibrium when it froze.",
    )
    plane = min(2, found.coordinates.shape[1])
    shares = [f"volume PC {i + 1} ({share:.0%})" for i, share in enumerate(found.fraction[:plane])]
    centres = np.stack([found.coordinates[found.state == k, :plane].mean(axis=0) for k in range(found.state_count)])
    section.figures["landscape_energy"] = latent_figures.free_energy(
        placed[:, :plane], "Free-energy-like landscape of the volumes", labels=shares, marks=centres
    )
    section.figures["landscape_maps"] = latent_figures.scatter(
        found.coordinates[:, :plane], found.state, "The decoded maps and their clusters", labels=shares, marks=centres
    )
    if len(found.fraction) > 1:
        section.figures["landscape_variance"] = latent_figures.explained_variance(
            found.fraction, "Variance of the volumes along each component"
        )
    pairs = state_maps(volumes, found)
    names = [str(k) for k in range(len(pairs))]
    level = float(np.median([raymarch.contour_level(mean) for mean, _ in pairs]))
    section.figures["landscape_states"] = strips.surface_strip(
        [mean for mean, _ in pairs],
        names,
        "Mean map of each cluster",
        level=level,
        view=look.view,
        colours=style.state_colours(len(pairs)),
    )
    section.figures["landscape_spreads"] = strips.section_strip(
        [spread for _, spread in pairs][:10],
        names[:10],
        grid.pixel_size,
        "Standard deviation of the maps in each cluster",
        differences=False,
    )
    population, total = found.population, max(int(found.population.sum()), 1)
    rows = [
        (k, int((found.state == k).sum()), int(population[k]), f"{population[k] / total:.1%}")
        for k in range(found.state_count)
    ]
    section.tables.append([("cluster", "maps", "particles", "population"), *rows])
    return section
