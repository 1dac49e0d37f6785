"""The low band of a stack in memory: whitened coefficients and transfer functions, for comparison with many views."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.inference.backproject import ImageSource
from frazil.inference.matching import CoarseImages
from frazil.numerics.fourier import HalfPlane, images_to_coefficients
from frazil.physics.grid import Grid

CHUNK = 256
BYTES_PER_COEFFICIENT = 12


def coarse_size(count: int, plane: HalfPlane) -> int:
    """Bytes that the coefficients of so many images take."""
    return count * plane.count * BYTES_PER_COEFFICIENT


def read_coarse(
    particles: ImageSource,
    grid: Grid,
    plane: HalfPlane,
    noise: Float[Tensor, "groups shells"],
    rows: Tensor,
    advance: Callable[[int], None] = lambda count: None,
) -> CoarseImages:
    """Coefficients of some images on ``plane``, divided by the noise of their optics group; in the order of ``rows``.

    Args:
        grid: that all these images are on. noise: power of a coefficient in each shell.

    Raises:
        InputError: when an image cannot be read or is none.
    """
    gain = noise.rsqrt()[:, plane.shell]
    place = torch.empty(int(rows.max()) + 1 if len(rows) else 0, dtype=torch.int64)
    place[rows] = torch.arange(len(rows))
    values = torch.empty(len(rows), plane.count, 2)
    transfer = torch.empty(len(rows), plane.count)
    for some, images in particles.chunks(CHUNK, rows.sort().values):
        own = gain[particles.group[some]]
        values[place[some]] = torch.view_as_real(images_to_coefficients(images, plane)) * own[..., None]
        optics = particles.optics
        factor = torch.ones(()) if optics is None else optics[some].ctf(grid, plane).to(torch.float32)
        transfer[place[some]] = factor * own
        advance(len(some))
    return CoarseImages(values, transfer)
