"""How far two half-maps agree: Fourier shell correlation without a mask, with one, and corrected for the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.numerics.fourier import volume_to_spectrum
from frazil.numerics.shells import first_shell_below, shell_correlation, volume_shells

# phases are randomised beyond the shell where the unmasked correlation falls below this
RANDOMISE_BELOW = 0.8


@final
@dataclass(frozen=True)
class HalfMapCorrelation:
    """Correlation of two half-maps in shells 0 to n//2.

    Attributes:
        unmasked: of the maps as they are. masked: inside the mask. randomised: inside the mask, after the phases beyond
            `randomised_from` were replaced by random ones: what the mask alone makes agree.
        corrected: the masked curve freed from the mask's share (Chen et al. 2013).
    """

    unmasked: Float[Tensor, " shells"]
    masked: Float[Tensor, " shells"]
    randomised: Float[Tensor, " shells"]
    corrected: Float[Tensor, " shells"]
    randomised_from: int


def randomise_phases(
    volume: Float[Tensor, "n n n"], first_shell: int, generator: torch.Generator
) -> Float[Tensor, "n n n"]:
    """The volume with random phases in the shells from ``first_shell`` on; amplitudes are kept."""
    n = volume.shape[-1]
    spectrum = volume_to_spectrum(volume)
    # phases of a real noise volume keep the Friedel symmetry
    noise = volume_to_spectrum(torch.randn(volume.shape, generator=generator, dtype=volume.dtype))
    phase = noise / noise.abs().clamp(min=torch.finfo(volume.dtype).tiny)
    spectrum = torch.where(volume_shells(n) >= first_shell, spectrum.abs() * phase, spectrum)
    return torch.fft.fftshift(torch.fft.irfftn(spectrum, s=(n,) * 3))


def compare_half_maps(
    a: Float[Tensor, "n n n"], b: Float[Tensor, "n n n"], mask: Float[Tensor, "n n n"], generator: torch.Generator
) -> HalfMapCorrelation:
    """All correlations of two half-maps and a soft mask.

    ``corrected = (masked - randomised) / (1 - randomised)`` from two shells beyond where phases were randomised
    (Chen et al. 2013, Ultramicroscopy 135).
    """
    unmasked = shell_correlation(a, b)
    masked = shell_correlation(a * mask, b * mask)
    first = int(first_shell_below(unmasked, RANDOMISE_BELOW)) + 1
    scrambled = (randomise_phases(a, first, generator) * mask, randomise_phases(b, first, generator) * mask)
    randomised = shell_correlation(*scrambled)
    corrected = masked.clone()
    beyond = slice(first + 2, None)
    corrected[beyond] = (masked[beyond] - randomised[beyond]) / (1 - randomised[beyond]).clamp(min=1e-6)
    return HalfMapCorrelation(unmasked, masked, randomised, corrected, first)
