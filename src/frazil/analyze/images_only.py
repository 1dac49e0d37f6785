"""Maps of a conformation from images alone: what the data say where a model may imagine.

The images whose latents are nearest to a point are backprojected with weights that fall with their distance: kernel
regression (Nadaraya and Watson 1964), its kernel in latent space, as RECOVAR does it (Gilles and Singer 2025). The distance
of image i from the point z uses the image's own posterior,

    d_i(z)^2 = (z - z_i)^T C_i^-1 (z - z_i) + log det C_i - min_j log det C_j,

twice the negative logarithm of the posterior density of z, so that an image that says little about its conformation stands
far from every point. The weight is that of Epanechnikov's kernel, 1 - d^2 / h^2. The width h is the one whose half-map
predicts best what a few nearest images of the other half-set show: wider is less noisy, but blurs motion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from frazil.errors import InputError
from frazil.inference.backproject import backproject, noise_weights
from frazil.inference.half_map import HalfMap
from frazil.numerics.shells import first_shell_below, low_pass, shell_correlation
from frazil.physics.grid import Grid
from frazil.physics.outline import outline

if TYPE_CHECKING:
    from frazil.data.stack import Particles

# the narrowest kernel tried holds this many images; each next one three times as many
FEWEST_IMAGES, STEP = 100, 3
# kernels are compared at least to this shell
LEAST_SHELL = 3.0


def posterior_distance(
    latent: Float[np.ndarray, "particles latent"],
    covariance: Float[np.ndarray, "particles latent latent"] | None,
    point: Float[np.ndarray, " latent"],
) -> Float[np.ndarray, " particles"]:
    """The squared distance of every image from a latent point; infinite where an image's latent is not finite.

    Without covariances, all images are as uncertain as the cloud is wide.
    """
    known = np.isfinite(latent).all(axis=1)
    squared = np.full(len(latent), np.inf)
    offset = latent[known].astype(np.float64) - point
    if covariance is None:
        spread = np.atleast_2d(np.cov(latent[known].T.astype(np.float64)))
        squared[known] = np.einsum("ni,ij,nj->n", offset, np.linalg.pinv(spread), offset)
        return squared
    posterior = covariance[known].astype(np.float64)
    # the least variance is a small part of the largest: an exact zero has no inverse
    floor = 1e-6 * np.trace(posterior, axis1=1, axis2=2)[:, None, None] * np.eye(latent.shape[1])
    whitened = np.linalg.solve(posterior + floor, offset[..., None])[..., 0]
    volume = np.linalg.slogdet(posterior + floor)[1]
    squared[known] = (offset * whitened).sum(axis=1) + volume - volume.min()
    return squared


def kernel_weights(squared: Float[np.ndarray, " particles"], images: int) -> Float[np.ndarray, " particles"]:
    """Epanechnikov weights that reach zero at the distance of the ``images``-th nearest image."""
    width = np.sort(squared)[min(images, len(squared)) - 1]
    width = width if np.isfinite(width) else squared[np.isfinite(squared)].max()
    weight = 1 - squared / max(float(width), np.finfo(np.float64).tiny)
    return np.clip(np.where(np.isfinite(squared), weight, 0), 0, None)


def map_from_images(
    particles: Particles,
    squared: Float[np.ndarray, " particles"],
    grid: Grid,
    symmetry: str,
    images: int | None,
    noise: Float[np.ndarray, "groups shells"] | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[HalfMap, HalfMap, int]:
    """The two half-maps at a latent point, and the number of images that the kernel reached.

    Args:
        squared: distance of every image from the point, see `posterior_distance`.
        images: that the kernel reaches; None chooses their number by the other half-set.
        noise: `noise_weights` of the particles, where they are at hand.

    Raises:
        InputError: if the particles have no poses or half-sets, or there are fewer than ten.
    """
    check_particles(particles)
    known = int(np.isfinite(squared).sum())
    if known < 10:
        raise InputError(f"{known} images have a latent, at least 10 are needed", where=particles.path)

    def at_width(count: int) -> tuple[HalfMap, HalfMap]:
        weight = torch.from_numpy(kernel_weights(squared, count).astype(np.float32))
        return backproject(particles, grid, symmetry, weight, noise, advance=advance)

    if images is not None:
        return *at_width(min(images, known)), min(images, known)
    counts = [FEWEST_IMAGES * STEP**k for k in range(12) if FEWEST_IMAGES * STEP**k < known] + [known]
    target = at_width(counts[0])
    unseen = HeldOut.of(target)
    best, error, chosen = target, unseen.error(target), counts[0]
    for count in counts[1:]:
        halves = at_width(count)
        found = unseen.error(halves)
        if found < error:
            best, error, chosen = halves, found, count
    return *best, chosen


def check_particles(particles: Particles) -> None:
    """Refuse particles that cannot be backprojected.

    Raises:
        InputError: if they have no poses or half-sets.
    """
    if particles.pose is None or particles.half_set is None:
        what = "poses" if particles.pose is None else "half-sets"
        raise InputError(
            f"the particles of this job have no {what}, maps cannot be made from them",
            where=particles.path,
            remedy="give a job whose particles have poses and half-sets",
        )


def memory(grid: Grid) -> float:
    """Bytes that the sums of four half-maps take, with their completed copies."""
    return 8.0 * HalfMap.memory(grid)


def stack_noise(particles: Particles, grid: Grid) -> Float[np.ndarray, "groups shells"]:
    """The noise weights of a stack, measured once for many maps."""
    return noise_weights(particles, grid)


@dataclass(frozen=True)
class HeldOut:
    """The narrowest kernel's half-maps, which the others are to predict.

    Attributes:
        a, b: the half-maps. mask: where they are compared. shell: what both are filtered to, where the two still agree:
            beyond it there is only noise, which every kernel predicts equally badly.
    """

    a: Float[Tensor, "n n n"]
    b: Float[Tensor, "n n n"]
    mask: Float[Tensor, "n n n"]
    shell: float

    @staticmethod
    def of(halves: tuple[HalfMap, HalfMap]) -> HeldOut:
        """From the sums of the two halves."""
        a, b = (half.volume() for half in halves)
        mask = outline((a + b) / 2, halves[0].grid)
        return HeldOut(a, b, mask, max(first_shell_below(shell_correlation(a * mask, b * mask), 0.143), LEAST_SHELL))

    def error(self, halves: tuple[HalfMap, HalfMap]) -> float:
        """Squared difference between each half-map of another kernel and the map of the other half's images."""
        pairs = ((halves[0], self.b), (halves[1], self.a))
        return sum(
            float((self.mask * low_pass(half.volume() - seen, self.shell) ** 2).sum(dtype=torch.float64))
            for half, seen in pairs
        )
