"""How much noise: signal-to-noise ratios turned into a spectral density that does not depend on the sampling.

The **signal-to-noise ratio** is the variance of the noise-free images after the CTF, over all pixels of the whole image
and averaged over images, divided by the variance of the noise in a pixel.

A ratio holds for one pixel size only. Fourier-cropping an image of white noise from 256 to 128 pixels leaves a quarter
of the noise's variance and nearly all of the signal's. So the ratio is read as a spectral density, the variance of a
pixel times its area, at the pixel size it is stated for; the images get that density at theirs. The ratio at their own
pixel size, the effective ratio, is computed and written down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.numerics.fourier import HalfPlane
from frazil.physics.grid import Grid
from frazil.physics.noise import Noise

NoiseKind = Literal["white", "coloured", "none"]


@final
@dataclass(frozen=True)
class NoiseShape:
    """Radial shape of a noise power spectrum: ``h(s) = 1 + excess / (1 + (length s)^2)``, s in 1/Å.

    White noise has no excess. Coloured noise is stronger at low frequency, as ice and whatever lies around a particle
    are.

    Attributes:
        excess: how much stronger the noise is at the origin than far out (0: white). length: where it falls, Å.
    """

    excess: float = 0.0
    length: float = 20.0

    def at(self, frequency: Float[Tensor, " shells"]) -> Float[Tensor, " shells"]:
        """h at spatial frequencies in 1/Å."""
        return 1 + self.excess / (1 + (self.length * frequency).square())

    def shells(self, grid: Grid) -> Float[Tensor, " shells"]:
        """h in the shells 0 to n//2 of a grid; beyond, the last shell's value holds."""
        index = torch.arange(grid.box_size // 2 + 1, dtype=torch.float64)
        return self.at(index * grid.frequency_step)

    def mean(self, grid: Grid) -> float:
        """Mean of h over all n x n frequencies of a grid: the variance of a pixel when h is its power."""
        n = grid.box_size
        index = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
        shell = torch.hypot(index[:, None], index).round().to(torch.int64).clamp(max=n // 2)
        return float(self.shells(grid)[shell].mean())


@final
@dataclass(frozen=True)
class NoiseLevel:
    """A noise spectrum with its strength fixed in physical units.

    Attributes:
        density: noise power per area far out, where ``h = 1`` for white noise: (line integral of density)^2 Å^2.
        shape: its radial shape.
    """

    density: float
    shape: NoiseShape

    @staticmethod
    def from_ratio(ratio: float, signal_variance: float, grid: Grid, shape: NoiseShape) -> NoiseLevel:
        """The level at which pixels of ``grid`` have noise of variance ``signal_variance / ratio``.

        Args:
            signal_variance: of a pixel value on that grid (a line integral divided by the pixel size).
        """
        pixel_variance = signal_variance / ratio
        return NoiseLevel(pixel_variance * grid.pixel_size**4 / shape.mean(grid), shape)

    def variance(self, grid: Grid) -> float:
        """Variance of the noise in a pixel of a grid."""
        return self.density * self.shape.mean(grid) / grid.pixel_size**4

    def noise(self, grid: Grid) -> Noise:
        """The noise on a grid."""
        power = self.density * self.shape.shells(grid) * (grid.box_size**2 / grid.pixel_size**4)
        return Noise(power.float())


def mean_variance(coefficients: Tensor, layout: HalfPlane) -> float:
    """Variance over the pixels of noise-free images, averaged over the images, from their half-plane (Parseval)."""
    power = coefficients.abs().square().to(torch.float64)
    weight = layout.weight.to(torch.float64).clone()
    weight[0] = 0  # the origin is the mean
    return float((power * weight).sum(-1).mean()) / layout.box_size**4


def reference_grid(grid: Grid, pixel_size: float) -> Grid:
    """The grid of about the same extent with other pixels, on which a signal-to-noise ratio is stated."""
    return Grid(max(4, math.floor(grid.extent / pixel_size + 0.5)), pixel_size)
