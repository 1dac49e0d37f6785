"""Particle images as standardised half-plane coefficients, kept in memory for training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from frazil.numerics.fourier import HalfPlane, images_to_coefficients
from frazil.physics.grid import Grid
from frazil.physics.optics import Optics

if TYPE_CHECKING:
    from frazil.data.stack import Particles

# images transformed at once
CHUNK = 256
# images whose spread sets the unit, as many as cryoDRGN takes
SPREAD_SAMPLE = 1000


@final
@dataclass(frozen=True)
class StandardisedImages:
    """Coefficients of every particle, divided by their standard deviation.

    Half precision is harmless: values are around one, so rounding (1 part in 2000) is far below the noise.

    Attributes:
        values: (particles, coefficients, real and imaginary part), float16. layout: which coefficients. grid: of the
            images after cropping. deviation: what they were divided by. amplitude: the same for a density on ``grid``,
            whose voxels may be larger than the pixels of the images.
    """

    values: Float[Tensor, "particles coefficients 2"]
    layout: HalfPlane
    grid: Grid
    deviation: float
    amplitude: float

    def __getitem__(self, rows: Int[Tensor, " batch"]) -> Complex[Tensor, "batch coefficients"]:
        return torch.view_as_complex(self.values[rows].to(torch.float32))

    def __len__(self) -> int:
        return self.values.shape[0]


def without_beam_tilt(
    images: StandardisedImages, optics: Optics | None, rows: Int[Tensor, " batch"], layout: HalfPlane
) -> tuple[Complex[Tensor, "batch coefficients"], Float[Tensor, "batch coefficients"]]:
    """Coefficients of some images with the phases of beam tilt taken away, and their CTF, on the layout's device.

    Args:
        optics: of all particles; None takes the CTF for 1. layout: that of the images.
    """
    device = layout.device
    values = images[rows].to(device)
    if optics is None:
        return values, torch.ones(len(rows), layout.count, device=device)
    some = optics[rows].to(str(device))
    transfer = some.ctf(images.grid, layout).to(torch.float32)
    if some.has_beam_tilt:
        tilted = some.transfer(images.grid, layout).to(values.dtype)
        values = values * torch.where(transfer == 0, torch.ones_like(tilted), (tilted / transfer).conj())
    return values, transfer


def circular_window(box_size: int, inner: float, outer: float) -> Float[Tensor, "n n"]:
    """1 inside ``inner``, falling linearly to 0 at ``outer``; radii in units of half the box."""
    x = (torch.arange(box_size) - box_size // 2) / (box_size / 2)
    radius = torch.hypot(x[:, None], x[None, :])
    return ((outer - radius) / (outer - inner)).clamp(0, 1)


def standardise(
    particles: Particles,
    *,
    sign: float,
    box: int | None = None,
    window: tuple[float, float] = (0.85, 0.99),
    advance: Callable[[int], None] | None = None,
) -> StandardisedImages:
    """Window, transform and standardise every image, in one sequential pass.

    The mean of the pixels beyond the window is taken off first, so that stacks that were never normalised work too.

    Args:
        sign: +1 if particles are bright in the images, -1 if they are dark.
        box: crop in Fourier space to this box. window: radii of `circular_window`.
        advance: told how many images are done.

    Raises:
        ValueError: if ``box`` is larger than the images.
    """
    full = particles.grid
    size = full.box_size if box is None else box
    if size > full.box_size:
        raise ValueError(f"box {size} is larger than the images ({full.box_size} px)")
    grid = full if size == full.box_size else Grid(size, full.extent / size)
    layout = full.half_plane(grid.last_shell)
    mask = circular_window(full.box_size, *window)
    outside = mask == 0
    deviation = sign * _deviation(particles, outside)
    values = torch.empty(particles.count, layout.count, 2, dtype=torch.float16)
    for rows, images in particles.chunks(CHUNK):
        background = images[:, outside].mean(-1)[:, None, None]
        coefficients = images_to_coefficients((images - background) * mask, layout) / deviation
        values[rows] = torch.view_as_real(coefficients).to(torch.float16)
        if advance is not None:
            advance(len(images))
    amplitude = abs(deviation) * (full.pixel_size / grid.pixel_size) ** 3
    return StandardisedImages(values, grid.half_plane(), grid, abs(deviation), amplitude)


def _deviation(particles: Particles, outside: Tensor) -> float:
    """Standard deviation of the coefficients of the images: ``box_size`` times that of the pixels (Parseval)."""
    step = max(1, particles.count // SPREAD_SAMPLE)
    squares, count = 0.0, 0
    for rows in torch.arange(0, particles.count, step).split(CHUNK):
        images = particles.images(rows)
        images = images - images[:, outside].mean(-1)[:, None, None]
        squares, count = squares + float(images.square().sum(dtype=torch.float64)), count + images.numel()
    return max((squares / count) ** 0.5, 1e-30) * outside.shape[0]
