"""Map against map: Fourier shell correlation, its area, and the resolutions read from it.

Two shell conventions are in use and both are here. `numerics.shells` rounds the radius to the nearest integer, as
RELION does. CryoBench (Jeon et al., NeurIPS 2024) takes ``i - 1 <= r < i``; its areas are comparable only when computed
so.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.errors import InputError
from frazil.numerics.fourier import integer_frequencies, volume_to_spectrum
from frazil.numerics.resolution import HalfMapCorrelation, compare_half_maps
from frazil.numerics.shells import first_shell_below


@lru_cache(maxsize=8)
def _floor_shells(box_size: int) -> tuple[Tensor, Tensor]:
    """Index i with i - 1 <= r < i of every coefficient of a half spectrum, and how often it stands in the full one."""
    signed = integer_frequencies(box_size)
    positive = integer_frequencies(box_size, half=True)
    squared = signed[:, None, None] ** 2 + signed[:, None] ** 2 + positive**2
    shell = squared.double().sqrt().floor().to(torch.int64) + 1
    weight = torch.full((len(positive),), 2.0, dtype=torch.float64)
    weight[0] = 1
    if box_size % 2 == 0:
        weight[-1] = 1
    return shell.flatten(), weight.expand(shell.shape).flatten()


def benchmark_curve(
    a: Float[Tensor, "n n n"], b: Float[Tensor, "n n n"], mask: Float[Tensor, "n n n"] | None = None
) -> Float[Tensor, " shells"]:
    """FSC as CryoBench computes it: entry i, 1 <= i < n//2, is over ``i - 1 <= r < i``; entry 0 is 1.

    Entry i belongs to the frequency i/n in 1/pixel. The mask, when there is one, is laid on both maps.
    """
    n = same_box(a, b)
    if mask is not None:
        same_box(a, mask)
        a, b = a * mask, b * mask
    shell, weight = _floor_shells(n)
    first, second = volume_to_spectrum(a.double()).flatten(), volume_to_spectrum(b.double()).flatten()
    keep = shell < n // 2

    def total(values: Tensor) -> Tensor:
        return torch.zeros(n // 2, dtype=torch.float64).index_add_(0, shell[keep], (values * weight)[keep])

    cross = total((first * second.conj()).real)
    power = total(first.abs().square()) * total(second.abs().square())
    curve = torch.where(power > 0, cross / power.sqrt().clamp(min=1e-300), 0.0)
    curve[0] = 1.0
    return curve


def area_under(curve: Float[Tensor, " shells"], box_size: int) -> float:
    """Trapezoid area under ``|FSC|`` over the frequencies i/n. A perfect map has `perfect_area`: 0.492 for 128 voxels."""
    return float(torch.trapezoid(curve.abs(), dx=1 / box_size))


def perfect_area(box_size: int) -> float:
    """The area of a curve that is 1 everywhere."""
    return (box_size // 2 - 1) / box_size


def benchmark_resolution(curve: Float[Tensor, " shells"], threshold: float, box_size: int) -> float:
    """Resolution in pixels by CryoBench's rule: 1/x at the first entry below the threshold; 2 when there is none."""
    below = torch.nonzero(curve < threshold)
    return box_size / int(below[0]) if len(below) else 2.0


def masked_correlation(
    a: Float[Tensor, "n n n"], b: Float[Tensor, "n n n"], mask: Float[Tensor, "n n n"], seed: int = 0
) -> HalfMapCorrelation:
    """FSC of two maps with and without a mask, and corrected for it: see `numerics.resolution.compare_half_maps`.

    Raises:
        InputError: when the maps and the mask differ in size.
    """
    same_box(a, b)
    same_box(a, mask)
    return compare_half_maps(a, b, mask, torch.Generator().manual_seed(seed))


def curve_figures(curve: Float[Tensor, " shells"], extent: float, box_size: int) -> dict[str, float]:
    """Resolutions of an integer-shell curve: Å and pixels at 0.5 and 0.143, and the (interpolated) shell at 0.5.

    Args:
        extent: side of the box, Å.
    """
    half, seventh = first_shell_below(curve, 0.5), first_shell_below(curve, 0.143)
    return {
        "resolution_0.5": extent / max(half, 1e-9),
        "resolution_0.143": extent / max(seventh, 1e-9),
        "resolution_0.5_px": box_size / max(half, 1e-9),
        "resolution_0.143_px": box_size / max(seventh, 1e-9),
        "shell_0.5": half,
        "shell_0.143": seventh,
    }


def same_box(a: Tensor, b: Tensor) -> int:
    """The box of two maps; InputError when they differ."""
    if a.shape != b.shape:
        first, second = (" × ".join(str(side) for side in volume.shape) for volume in (a, b))
        raise InputError(f"the maps differ in size: {first} and {second} voxels", remedy="bring them to one box first")
    return a.shape[-1]
