"""Noise with a radial power spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from frazil.numerics.fourier import HalfPlane, images_to_coefficients
from frazil.physics.grid import Grid


@final
@dataclass(frozen=True)
class Noise:
    """Gaussian noise, independent between coefficients, with a variance that depends on the shell.

    Attributes:
        power: expected ``|n_k|^2`` of a coefficient (unnormalised transform) in each shell, from shell 0 on.
    """

    power: Float[Tensor, " shells"]

    @staticmethod
    def white(sigma: float, grid: Grid, dtype: torch.dtype = torch.float32) -> Noise:
        """White noise of standard deviation ``sigma`` per pixel: every coefficient has the power ``sigma^2 n^2``."""
        return Noise(torch.full((grid.box_size // 2 + 1,), sigma**2 * grid.box_size**2, dtype=dtype))

    @staticmethod
    def measured(images: Float[Tensor, "batch n n"]) -> Noise:
        """The mean power spectrum of images (of noise, or of background around particles)."""
        n = images.shape[-1]
        layout = Grid(n, 1.0).half_plane(device=str(images.device))
        power = images_to_coefficients(images, layout).abs().square().mean(0)
        sums = torch.zeros(n // 2 + 1, dtype=power.dtype, device=power.device).index_add_(0, layout.shell, power)
        counts = torch.bincount(layout.shell, minlength=n // 2 + 1).to(power.dtype)
        spectrum = sums / counts.clamp(min=1)
        return Noise(torch.where(counts > 0, spectrum, spectrum[counts > 0][-1]))

    def to(self, target: torch.device | torch.dtype | str) -> Noise:
        """The same noise on another device or in another precision."""
        return Noise(self.power.to(target))

    def at(self, layout: HalfPlane) -> Float[Tensor, " coefficients"]:
        """The power of each coefficient of a half-plane; the last shell's where the spectrum ends."""
        return self.power[layout.shell.clamp(max=self.power.shape[0] - 1)]

    def whiten(
        self, coefficients: Complex[Tensor, "*batch coefficients"], layout: HalfPlane
    ) -> Complex[Tensor, "*batch coefficients"]:
        """Coefficients divided by the noise's standard deviation, so that noise has unit power in every shell."""
        return coefficients * self.at(layout).rsqrt()

    def sample(self, count: int, grid: Grid, generator: torch.Generator | None = None) -> Float[Tensor, "count n n"]:
        """Draw images of pure noise, all frequencies of the box included."""
        n = grid.box_size
        white = torch.randn(count, n, n, generator=generator, dtype=self.power.dtype)
        signed = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
        positive = torch.arange(n // 2 + 1, dtype=torch.float64)
        shell = torch.hypot(signed[:, None], positive[None, :]).round().to(torch.int64)
        gain = (self.power[shell.clamp(max=self.power.shape[0] - 1)] / n**2).sqrt()
        return torch.fft.irfft2(torch.fft.rfft2(white) * gain, s=(n, n))
