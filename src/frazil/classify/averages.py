"""Class averages from the sums of expectation-maximisation: a Wiener filter, a mask, and how far two halves agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.inference.matching import ViewSums
from frazil.numerics.fourier import HalfPlane, images_to_coefficients
from frazil.numerics.masks import soft_circle
from frazil.numerics.turning import (
    Turning,
    images_of_spectra,
    shift_of_tables,
    spectra_of_images,
    table_shells,
    table_side,
    with_mates,
)

# power that noise leaves in a table's value, times its weight: the mean square of bilinear weights over their mean
NOISE_SHARE = 4 / 9
# of the power in a shell, the least that is taken for signal: else a shell that is once weak is weak for ever
LEAST_SIGNAL = 0.1
# first zero of the transform of a disc, in units of one over its diameter
AIRY = 1.22


@final
@dataclass(frozen=True)
class ClassSums:
    """What the images of both half-sets have given each class, in its own frame.

    Attributes:
        numerator: T y, noise-weighted. weight: T^2. share: images. All are of both half-sets, one after the other.
    """

    numerator: Float[Tensor, "2 classes points 2"]
    weight: Float[Tensor, "2 classes points"]
    share: Float[Tensor, "2 classes"]

    @staticmethod
    def memory(classes: int, band: int) -> int:
        """Bytes that the sums take."""
        rows, columns = table_side(band)
        return 2 * classes * rows * columns * 3 * 4

    def blended(self, other: ClassSums, fresh: float) -> ClassSums:
        """An exponential average: ``fresh`` of the other sums, the rest of these."""
        return ClassSums(
            torch.lerp(self.numerator, other.numerator, fresh),
            torch.lerp(self.weight, other.weight, fresh),
            torch.lerp(self.share, other.share, fresh),
        )

    def moved(self, shifts: Float[Tensor, "classes 2"], band: int, box_size: int) -> ClassSums:
        """The sums of averages moved by minus these shifts (x, y), pixels."""
        phases = shift_of_tables(shifts, band, box_size)
        numerator = torch.view_as_real(torch.view_as_complex(self.numerator) * phases)
        return ClassSums(numerator, self.weight, self.share)

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"numerator": self.numerator, "weight": self.weight, "share": self.share}


def sums_of_views(found: ViewSums, turning: Turning, classes: int, layout: HalfPlane) -> tuple[Tensor, Tensor, Tensor]:
    """Numerator, weight and share of each class, all its turned views turned back."""
    shape = (classes, turning.angles, layout.count)
    numerator = turning.turned_back(found.numerator.reshape(*shape, 2))
    weight = turning.weights_back(found.weight[:, layout.shell].reshape(shape))
    return numerator, weight, found.share.reshape(classes, turning.angles).sum(dim=1)


def signal_power(
    numerator: Float[Tensor, "classes points 2"], weight: Float[Tensor, "classes points"], band: int
) -> Float[Tensor, " shells"]:
    """Mean power of the averages in each shell, freed from noise; what many images show counts most."""
    shell = table_shells(band)
    seen = weight > 1e-3 * weight.mean()
    power = torch.where(seen, numerator.square().sum(dim=-1) / weight.clamp(min=1e-20), 0)
    sums = torch.zeros(3, int(shell.max()) + 1)
    for at, values in enumerate((power, seen.float(), weight * seen)):
        sums[at].index_add_(0, shell, values.sum(dim=0))
    whole, count, total = sums
    return torch.maximum(whole - NOISE_SHARE * count, LEAST_SIGNAL * whole) / total.clamp(min=1e-20)


def solved(sums: ClassSums, band: int, mask: Float[Tensor, "n n"], *, within: int) -> Float[Tensor, "classes n n"]:
    """Wiener-filtered class averages, masked; nothing beyond shell ``within``.

    A class's value is ``numerator / (weight + 1 / variance)`` with the variance of the signal in its shell, which is
    estimated from all classes together: a class of few images is made smooth, one of none is nothing.
    """
    numerator, weight = _completed(sums.numerator.sum(dim=0), sums.weight.sum(dim=0), band)
    variance = signal_power(numerator, weight, band)
    # four points of a padded table share what one coefficient knows
    prior = 0.25 / variance.clamp(min=1e-20)
    shell = table_shells(band)
    quotient = numerator / (weight + prior[shell])[..., None] * (shell <= within)[:, None]
    return images_of_spectra(quotient, band, mask.shape[-1]) * mask


def half_averages(sums: ClassSums, band: int, mask: Float[Tensor, "n n"]) -> Float[Tensor, "2 classes n n"]:
    """Unfiltered averages of the images of either half-set, masked."""
    found = []
    for half in range(2):
        numerator, weight = _completed(sums.numerator[half], sums.weight[half], band)
        floor = 0.1 * weight.mean(dim=-1, keepdim=True) + 1e-20
        quotient = numerator / (weight + floor)[..., None]
        found.append(images_of_spectra(quotient, band, mask.shape[-1]) * mask)
    return torch.stack(found)


def ring_correlation(halves: Float[Tensor, "2 classes n n"], layout: HalfPlane) -> Float[Tensor, "classes shells"]:
    """Fourier ring correlation of the averages of either half-set (Saxton and Baumeister 1982)."""
    a, b = images_to_coefficients(halves, layout)
    shells = int(layout.shell.max()) + 1

    def ring(values: Tensor) -> Tensor:
        return torch.zeros(len(values), shells).index_add_(1, layout.shell, values)

    norm = (ring(a.abs().square()) * ring(b.abs().square())).sqrt()
    return ring((a * b.conj()).real) / norm.clamp(min=1e-20)


def tables_of(averages: Float[Tensor, "classes n n"], band: int) -> Float[Tensor, "classes points 2"]:
    """The averages as `Turning` reads them."""
    return spectra_of_images(averages, band)


def _completed(numerator: Tensor, weight: Tensor, band: int) -> tuple[Tensor, Tensor]:
    real, imaginary = with_mates(numerator[..., 0], band), with_mates(numerator[..., 1], band, -1)
    return torch.stack((real, imaginary), dim=-1), with_mates(weight, band)


def noise_images(
    sums: ClassSums, band: int, mask: Float[Tensor, "n n"], within: int, generator: torch.Generator
) -> Float[Tensor, "classes n n"]:
    """Random images as uncertain as the averages are."""
    _, weight = _completed(sums.numerator.sum(dim=0), sums.weight.sum(dim=0), band)
    spread = (weight + 0.01 * weight.mean() + 1e-20).rsqrt() * (table_shells(band) <= within)
    drawn = torch.randn(*spread.shape, 2, generator=generator) * spread[..., None]
    return images_of_spectra(drawn, band, mask.shape[-1]) * mask


def brightness(sums: ClassSums, band: int, diameter: float) -> int:
    """+1 where particles are brighter than what is around them, -1 where they are darker.

    The sums are compared with the spectrum of a disc of the particle's diameter (in units of the box), out to its first zero:
    there a particle is a disc, whatever it looks like.
    """
    shell = table_shells(band)
    reach = max(1.0, AIRY / diameter)
    size = 2 * table_side(band)[0]
    disc = spectra_of_images(soft_circle(size, diameter * size / 2, 0.0)[None], band)[0]
    chosen = (shell >= 1) & (shell <= reach)
    agreement = (sums.numerator.sum(dim=(0, 1))[chosen] * disc[chosen]).sum()
    return 1 if float(agreement) >= 0 else -1


def recentred(
    averages: Float[Tensor, "classes n n"], mask: Float[Tensor, "n n"], sign: int
) -> tuple[Float[Tensor, "classes n n"], Float[Tensor, "classes 2"]]:
    """Averages moved so that the centre of what is bright is in the middle, by whole pixels, and by how many (x, y).

    Args:
        sign: -1 where particles are dark.
    """
    n = averages.shape[-1]
    # what is around particles is 0 in their averages: to take another level off would move the centre of thin parts
    bright = (averages * sign * mask).clamp(min=0)
    axis = torch.arange(n, dtype=torch.float32) - n // 2
    total = bright.sum(dim=(-2, -1)).clamp(min=1e-20)
    x, y = (bright.sum(dim=-2) @ axis) / total, (bright.sum(dim=-1) @ axis) / total
    steps = torch.stack((x, y), dim=1).round()
    moved = [
        torch.roll(average, (-int(dy), -int(dx)), dims=(0, 1)) * mask
        for average, (dx, dy) in zip(averages, steps.tolist(), strict=True)
    ]
    return torch.stack(moved), steps
