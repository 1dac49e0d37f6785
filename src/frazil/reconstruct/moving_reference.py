"""Maps of both half-sets for poses that are still moving: the mean, and the few directions in which images differ most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from frazil.data.stack import Particles
from frazil.inference.half_map import HalfMap
from frazil.numerics.masks import soft_sphere
from frazil.numerics.shells import shell_correlation
from frazil.reconstruct.basis_job import measured_noise
from frazil.reconstruct.linear import Halves, linear_pass, with_random_directions
from frazil.reconstruct.marching import marching_bands
from frazil.reconstruct.maximisation import Stage, Volumes
from frazil.reconstruct.whitened import WhitenedImages

if TYPE_CHECKING:
    from frazil.engine.job import Job
    from frazil.reconstruct import Config

# rounds of expectation and maximisation at every band
PASSES = 6
# correlations of half-maps are believed within these
LEAST_CORRELATION, MOST_CORRELATION = 1e-3, 0.999
# the volumes are zero beyond this share of the box, over an edge of this share
SPHERE, SPHERE_EDGE = 0.42, 0.08


def filtered_maps(a: HalfMap, b: HalfMap) -> tuple[Volumes, Volumes]:
    """The map of each half, Wiener filtered by the correlation of both."""
    correlation = shell_correlation(a.volume(), b.volume())
    believed = correlation.clamp(LEAST_CORRELATION, MOST_CORRELATION).to(torch.float32)
    ratio = believed / (1 - believed)
    return a.volume(ratio)[None], b.volume(ratio)[None]


def moving_maps(
    particles: Particles, means: tuple[Volumes, Volumes], directions: int, config: Config, job: Job
) -> tuple[Volumes, Volumes]:
    """The means with directions of change, learnt from all images at the poses there are: principal components by
    expectation and maximisation, in both halves side by side (see `linear`).
    """
    grid = particles.grid
    band = grid.last_shell
    bands = marching_bands(band)
    images = WhitenedImages(particles, band, measured_noise(particles), sign=1.0, processes=job.processes)
    halves = Halves(*means, torch.ones(len(images), 2), 0.0)
    for limit in bands:
        stage = Stage.of(images, limit, config.symmetry)
        halves = halves.resized(stage.box)
        mask = soft_sphere(stage.box, SPHERE * stage.box, SPHERE_EDGE * stage.box)
        if limit == bands[0]:
            halves = with_random_directions(halves, directions, stage, mask, config.seed)
        for _ in range(PASSES):
            halves, _ = linear_pass(images, halves, stage, mask)
    return halves.resized(grid.box_size).pair
