"""Sums over shells of equal spatial frequency: power spectra, Fourier shell correlation, radial filters.

Shell i holds the coefficients whose radius rounds to i, out to ``n // 2``.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from frazil.numerics.fourier import integer_frequencies, volume_to_spectrum


@lru_cache(maxsize=16)
def _volume_shells(box_size: int, device: str) -> tuple[Tensor, Tensor]:
    signed = integer_frequencies(box_size, device=device)
    positive = integer_frequencies(box_size, half=True, device=device)
    squared = signed[:, None, None] ** 2 + signed[None, :, None] ** 2 + positive[None, None, :] ** 2
    shell = squared.to(torch.float64).sqrt().round().to(torch.int64)
    # a coefficient of the half spectrum stands for itself and its mate, but for the planes that hold both
    weight = torch.full((positive.shape[0],), 2.0, dtype=torch.float64, device=device)
    weight[0] = 1
    if box_size % 2 == 0:
        weight[-1] = 1
    return shell, weight.expand(shell.shape)


def volume_shells(box_size: int, device: str | torch.device = "cpu") -> Int[Tensor, "n n half"]:
    """The shell of every coefficient of a volume's half spectrum."""
    return _volume_shells(box_size, str(device))[0]


def sum_shells(values: Float[Tensor, "n n half"], box_size: int) -> Float[Tensor, " shells"]:
    """Sum of a quantity over the full shells 0 to n//2, given on the half spectrum."""
    shell, weight = _volume_shells(box_size, str(values.device))
    count = box_size // 2 + 1
    keep = shell < count
    sums = torch.zeros(count, dtype=torch.float64, device=values.device)
    return sums.index_add_(0, shell[keep], (values.to(torch.float64) * weight)[keep])


def spectrum_correlation(
    a: Complex[Tensor, "n n half"], b: Complex[Tensor, "n n half"], box_size: int
) -> Float[Tensor, " shells"]:
    """Fourier shell correlation of two half spectra: see `shell_correlation`."""
    cross = sum_shells((a * b.conj()).real, box_size)
    power = sum_shells(a.abs().square(), box_size) * sum_shells(b.abs().square(), box_size)
    return torch.where(power > 0, cross / power.sqrt().clamp(min=torch.finfo(torch.float64).tiny), 0.0)


def shell_correlation(a: Float[Tensor, "n n n"], b: Float[Tensor, "n n n"]) -> Float[Tensor, " shells"]:
    """Fourier shell correlation ``sum A conj(B) / sqrt(sum |A|^2 sum |B|^2)`` over shells 0 to n//2.

    Source: Harauz and van Heel 1986.
    """
    return spectrum_correlation(volume_to_spectrum(a), volume_to_spectrum(b), a.shape[-1])


def shell_power(volume: Float[Tensor, "n n n"]) -> Float[Tensor, " shells"]:
    """Mean power of a coefficient in each shell of a volume."""
    n = volume.shape[-1]
    spectrum = volume_to_spectrum(volume)
    power = spectrum.abs().square()
    return sum_shells(power, n) / sum_shells(torch.ones_like(power), n)


def first_shell_below(curve: Float[Tensor, " shells"], threshold: float) -> float:
    """The shell, interpolated linearly, where a curve first falls below a threshold; the last shell if it never does.

    Shell 0 is not asked: it holds one coefficient.
    """
    values = [float(value) for value in curve]
    for shell in range(1, len(values)):
        if values[shell] < threshold:
            before = values[shell - 1] if shell > 1 else 1.0
            if before < threshold:
                return float(shell)
            return shell - 1 + (before - threshold) / (before - values[shell])
    return float(len(values) - 1)


def filter_shells(volume: Float[Tensor, "n n n"], gain: Float[Tensor, " shells"]) -> Float[Tensor, "n n n"]:
    """Multiply each shell of a volume by a factor. Beyond the last shell the volume is set to zero."""
    n = volume.shape[-1]
    shell = volume_shells(n, volume.device)
    padded = torch.cat([gain.to(volume.dtype), gain.new_zeros(1).to(volume.dtype)])
    spectrum = volume_to_spectrum(volume) * padded[shell.clamp(max=gain.shape[0])]
    return torch.fft.fftshift(torch.fft.irfftn(spectrum, s=(n,) * 3))


def low_pass(volume: Float[Tensor, "n n n"], shell: float, width: float = 2.0) -> Float[Tensor, "n n n"]:
    """Keep shells below ``shell``, with a raised-cosine edge of ``width`` shells centred on it."""
    index = torch.arange(volume.shape[-1] // 2 + 1, dtype=volume.dtype, device=volume.device)
    edge = ((index - shell) / width + 0.5).clamp(0, 1)
    return filter_shells(volume, 0.5 + 0.5 * torch.cos(torch.pi * edge))
