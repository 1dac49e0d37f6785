"""How far two half-maps agree around every voxel.

For each band of shells both maps are filtered to the band and correlated inside a Gaussian window that moves over the
map: a Fourier shell correlation of every place,

    c(x, k) = (w * a_k b_k)(x) / sqrt((w * a_k^2)(x) (w * b_k^2)(x)),

where w* is the average over the window. The resolution at x is where c(x, .) first falls below a threshold (Cardone,
Heymann and Steven 2013, with windows in place of boxes). The window is as wide as a few waves of the band, so that the
average holds enough of them at low resolution and stays local at high resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from frazil.numerics.fourier import integer_frequencies, volume_to_spectrum
from frazil.numerics.shells import volume_shells

# a window holds few independent waves, so that chance reaches 0.3: 0.143 would be noise
THRESHOLD = 0.5
# standard deviation of the window in wavelengths of the band, and its limits in parts of the box
WAVES_PER_WINDOW = 1.0
WIDEST_WINDOW = 1 / 8
# standard deviation of a band: shells, and a share of its middle (a narrower band is a wider wave packet, and less
# local); at most so many bands are looked at
BAND_WIDTH, BAND_SHARE = 1.0, 0.15
MOST_BANDS = 32


@final
@dataclass(frozen=True)
class LocalCorrelation:
    """The correlation of two half-maps around every voxel.

    Attributes:
        shells: the middle of each band. correlation: of each band at each voxel.
    """

    shells: Float[Tensor, " bands"]
    correlation: Float[Tensor, "bands n n n"]

    def limit(self, threshold: float = THRESHOLD) -> Float[Tensor, "n n n"]:
        """The shell at which each voxel's correlation first falls below the threshold, interpolated between bands.

        The first band where it starts below; the last where it never falls.
        """
        below = self.correlation < threshold
        ever = below.any(dim=0)
        first = below.to(torch.int8).argmax(dim=0)
        before = (first - 1).clamp(min=0)
        here = self.correlation.gather(0, first[None])[0]
        there = self.correlation.gather(0, before[None])[0]
        share = torch.where(first > 0, (there - threshold) / (there - here).clamp(min=1e-6), torch.ones_like(here))
        shells = self.shells.to(self.correlation)
        crossed = shells[before] + share.clamp(0, 1) * (shells[first] - shells[before])
        return torch.where(ever, crossed, shells[-1])


def local_correlation(
    a: Float[Tensor, "n n n"], b: Float[Tensor, "n n n"], bands: int = MOST_BANDS
) -> LocalCorrelation:
    """Correlate two half-maps in at most ``bands`` bands of shells, from shell 2 to the last whole shell."""
    n = a.shape[-1]
    last = (n - 1) // 2
    count = max(2, min(bands, last - 1))
    shells = torch.linspace(2, last, count, dtype=torch.float64)
    narrowest = max(BAND_WIDTH, float(shells[1] - shells[0]) / 2)
    widths = (BAND_SHARE * shells).clamp(min=narrowest)
    spectra = volume_to_spectrum(a), volume_to_spectrum(b)
    radius = volume_shells(n, a.device).to(a.dtype)
    bands_of = zip(shells.tolist(), widths.tolist(), strict=True)
    found = [_band_correlation(*spectra, radius, shell, width, n) for shell, width in bands_of]
    return LocalCorrelation(shells, torch.stack(found))


def _band_correlation(
    a: Complex[Tensor, "n n half"],
    b: Complex[Tensor, "n n half"],
    radius: Float[Tensor, "n n half"],
    shell: float,
    width: float,
    n: int,
) -> Float[Tensor, "n n n"]:
    band = torch.exp(-((radius - shell) ** 2) / (2 * width**2))
    band = torch.where(radius > 0, band, 0)
    here, there = (torch.fft.fftshift(torch.fft.irfftn(x * band, s=(n,) * 3)) for x in (a, b))
    window = min(WAVES_PER_WINDOW * n / shell, WIDEST_WINDOW * n)
    cross, power_a, power_b = (window_average(x, window) for x in (here * there, here * here, there * there))
    scale = power_a.clamp(min=0) * power_b.clamp(min=0)
    tiny = torch.finfo(scale.dtype).tiny
    return torch.where(scale > tiny, cross / scale.clamp(min=tiny).sqrt(), 0).clamp(-1, 1)


def window_average(volume: Float[Tensor, "n n n"], sigma: float) -> Float[Tensor, "n n n"]:
    """The average of a volume under a Gaussian window of ``sigma`` voxels at every place; the box is periodic."""
    n = volume.shape[-1]
    signed = integer_frequencies(n, device=volume.device).to(volume.dtype)
    half = integer_frequencies(n, half=True, device=volume.device).to(volume.dtype)
    squared = signed[:, None, None] ** 2 + signed[:, None] ** 2 + half**2
    gain = torch.exp(-2 * (torch.pi * sigma / n) ** 2 * squared)
    return torch.fft.irfftn(torch.fft.rfftn(volume) * gain, s=(n,) * 3)
