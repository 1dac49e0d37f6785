"""What the maps of the states are worth: their half-maps, and maps of the same states from images alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from frazil.analyze import images_only
from frazil.analyze.agreement import Agreement, compare_with_images
from frazil.analyze.decoding import decode
from frazil.data.mrc import read_volume, write_volume
from frazil.errors import InputError
from frazil.inference.half_map_pair import HalfMapPair, decode_pair, pair_half_maps
from frazil.numerics.shells import first_shell_below, shell_correlation
from frazil.physics.outline import outline

if TYPE_CHECKING:
    from frazil.analyze.reconstruction import Reconstruction
    from frazil.engine.job import Job
    from frazil.inference.half_map import HalfMap
    from frazil.physics.ensemble import Ensemble
    from frazil.physics.grid import Grid

# points that are asked for the width of their kernel, where all are to have the same
ASKED = 3


@dataclass(frozen=True)
class PairSummary:
    """What is kept of a state's half-maps: files, and numbers for tables and curves.

    Attributes:
        resolution: Å at FSC 0.143, corrected for the mask. corrected: the curve on shells 0, 1, ....
        local: Å around every voxel, 0 outside the mask. files: half-map a, half-map b, local resolution.
    """

    resolution: float
    corrected: np.ndarray
    local: np.ndarray
    files: tuple[Path, Path, Path]


def write_pair(pair: HalfMapPair, stem: Path) -> PairSummary:
    """Write STEM_half_a.mrc, STEM_half_b.mrc and STEM_local_resolution.mrc, and summarise."""
    half_a, half_b, resolution = (
        stem.with_name(f"{stem.name}_{end}.mrc") for end in ("half_a", "half_b", "local_resolution")
    )
    files = (half_a, half_b, resolution)
    local = pair.local_resolution()
    for path, volume in zip(files, (pair.a, pair.b, local), strict=True):
        write_volume(path, volume, pair.grid.pixel_size)
    return PairSummary(pair.resolution(), pair.corrected().numpy(), local.numpy(), files)


def decode_pairs(
    halves: tuple[Ensemble, Ensemble],
    points: np.ndarray,
    grid: Grid,
    stems: Sequence[Path],
    job: Job,
    seed: int,
    finest: float = 0.0,
) -> list[PairSummary]:
    """Half-maps of every point from the ensembles of both half-sets.

    Args:
        finest: Å, to which the ensembles were learnt.

    Raises:
        InputError: the halves' latents have another number of coordinates than the points.
    """
    for half in halves:
        if half.latent_dim != points.shape[1]:
            raise InputError(
                f"the ensemble of a half-set has {half.latent_dim} latent coordinates, the points have {points.shape[1]}",
                where="half_a, half_b",
                remedy="run frazil reconstruct again with --again",
            )
    found = []
    with job.progress(len(points), "half-maps", unit="states") as progress:
        for point, stem in zip(points, stems, strict=True):
            latent = torch.from_numpy(point).to(torch.float32)
            found.append(write_pair(decode_pair(halves, latent, grid, seed, finest), stem))
            progress.advance(1)
    return found


@dataclass(frozen=True)
class ImageMaps:
    """Maps of some latent points from images alone.

    Attributes:
        halves: half-maps of each. pairs: what was written of them. counts: images that each kernel reached.
        files: the maps of both halves together.
    """

    halves: list[tuple[torch.Tensor, torch.Tensor]]
    pairs: list[PairSummary]
    counts: list[int]
    files: list[Path]


def maps_from_images(
    reconstruction: Reconstruction,
    ensemble: Ensemble,
    points: np.ndarray,
    grid: Grid,
    stems: Sequence[Path],
    job: Job,
    seed: int,
    alike: bool = False,
) -> ImageMaps:
    """Kernel regression at every point, from the images of the job's particles, with half-maps from its half-sets.

    Particles may be dark or bright in the images: the maps are given the contrast of the ensemble's.

    Args:
        alike: all kernels reach the same number of images, the median of those that some points choose. Maps that are to
            be compared with one another must not differ by how much they are blurred.

    Raises:
        InputError: the job has no latents, its images are not there, or lack poses or half-sets.
    """
    from frazil.data.stack import read_particles

    latent = reconstruction.latent
    if latent is None:
        raise InputError("this job holds no latent.npy: its images have no place", where=reconstruction.folder)
    if reconstruction.run is not None:
        particles = reconstruction.run.particles()
        particles = particles.with_half_set(torch.arange(particles.count) % 2)
    else:
        particles = read_particles(reconstruction.outputs / "particles.star")
    images_only.check_particles(particles)
    job.announce_memory(images_only.memory(grid), "the sums of backprojection at two widths")
    noise = images_only.stack_noise(particles, grid)

    def halves_at(point: np.ndarray, images: int | None) -> tuple[HalfMap, HalfMap, int]:
        squared = images_only.posterior_distance(latent, reconstruction.covariance, point)
        return images_only.map_from_images(particles, squared, grid, reconstruction.symmetry, images, noise)

    reach = None
    if alike:
        some = np.unique(np.linspace(0, len(points) - 1, min(ASKED, len(points))).round().astype(int))
        reach = int(np.median([halves_at(points[k], None)[2] for k in some]))
    halves, pairs, counts, files = [], [], [], []
    with job.progress(len(points), "maps from images alone", unit="states") as progress:
        for point, stem in zip(points, stems, strict=True):
            a, b, count = halves_at(point, reach)
            both = (a + b).volume()
            decoded = torch.from_numpy(next(decode(ensemble, point[None], grid)))
            contrast = -1.0 if float((both * decoded).sum()) < 0 else 1.0
            pair = pair_half_maps(contrast * a.volume(), contrast * b.volume(), grid, seed)
            path = stem.with_name(f"{stem.name}_from_images.mrc")
            write_volume(path, contrast * both, grid.pixel_size)
            pairs.append(write_pair(pair, path.with_suffix("")))
            halves.append((pair.a, pair.b))
            counts.append(count)
            files.append(path)
            progress.advance(1)
    return ImageMaps(halves, pairs, counts, files)


def agreement_of(model: Sequence[Path], images: ImageMaps, grid: Grid) -> list[Agreement]:
    """How the maps of a model agree with those from images alone, inside the outline of both, to their resolution."""
    decoded = [read_volume(path)[0] for path in model]
    common = torch.stack([a + b for a, b in images.halves]).mean(dim=0)
    mask = torch.maximum(outline(common, grid), outline(torch.stack(decoded).mean(dim=0), grid))
    a, b = (torch.stack([pair[i] for pair in images.halves]).mean(dim=0) * mask for i in (0, 1))
    shell = min(first_shell_below(shell_correlation(a, b), 0.143), grid.last_shell)
    return compare_with_images(decoded, images.halves, mask, max(shell, images_only.LEAST_SHELL), images.counts)
