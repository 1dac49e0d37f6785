"""From two half-maps to what a biologist opens: contrast, mask, resolution, filtered and sharpened map."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from frazil.numerics.masks import raised_cosine, soft_sphere
from frazil.numerics.resolution import HalfMapCorrelation, compare_half_maps
from frazil.numerics.shells import filter_shells, first_shell_below, shell_power
from frazil.physics.grid import Grid
from frazil.physics.outline import outline, smoothed_for_outline

# far from the molecule a map is noise: it is turned down to this, beyond a margin and over a wide edge (Å)
SOLVENT_GAIN, SOLVENT_MARGIN, SOLVENT_EDGE = 0.55, 10.0, 30.0
# Guinier plots are straight between these (Å); B factors beyond the limit are not believed
GUINIER_FROM = 10.0
LARGEST_SHARPENING = 400.0


@final
@dataclass(frozen=True)
class Consensus:
    """The maps of one structure, all on the same grid and with bright density.

    Attributes:
        half_a, half_b: unfiltered. filtered: all particles, Wiener filtered by the FSC of the halves and quieter far from
            the molecule. sharpened: filtered, with the B factor taken away. mask: soft outline. correlation: of the halves.
            b_factor: Å^2, negative sharpens.
    """

    half_a: Float[Tensor, "n n n"]
    half_b: Float[Tensor, "n n n"]
    filtered: Float[Tensor, "n n n"]
    sharpened: Float[Tensor, "n n n"]
    mask: Float[Tensor, "n n n"]
    correlation: HalfMapCorrelation
    grid: Grid
    b_factor: float

    def resolution(self, threshold: float = 0.143) -> float:
        """Resolution in Å where the corrected correlation first falls below the threshold."""
        return self.grid.resolution_of(first_shell_below(self.correlation.corrected, threshold))

    def unmasked_resolution(self, threshold: float = 0.143) -> float:
        """Resolution in Å where the unmasked correlation first falls below the threshold."""
        return self.grid.resolution_of(first_shell_below(self.correlation.unmasked, threshold))


def contrast_of(volume: Float[Tensor, "n n n"], grid: Grid) -> int:
    """+1 when the density of a map is bright, -1 when it is dark.

    Molecules are small islands in a large flat solvent: the low-passed values inside the box's sphere are skewed to the
    side of the density.
    """
    smooth = smoothed_for_outline(volume, grid)
    inside = smooth[soft_sphere(grid.box_size, grid.box_size / 2 - 1, 0.0) > 0.5]
    deviation = inside - inside.median()
    return 1 if float((deviation**3).sum()) >= 0 else -1


def solvent_window(mask: Float[Tensor, "n n n"], grid: Grid) -> Float[Tensor, "n n n"]:
    """1 in and near the mask, falling to `SOLVENT_GAIN` far from it.

    Where there is no molecule the best estimate is nothing, but a mask may be wrong: the noise is turned down, not cut, so
    that whatever the mask missed is still to be seen. Without it, half of the map's error lies outside the molecule.
    """
    inside = (mask > 0.5).cpu().numpy()
    if not inside.any():
        return torch.ones_like(mask)
    distance = torch.from_numpy(ndimage.distance_transform_edt(~inside)).to(mask) * grid.pixel_size
    return SOLVENT_GAIN + (1 - SOLVENT_GAIN) * raised_cosine(distance - SOLVENT_MARGIN, SOLVENT_EDGE)


def guinier_b_factor(volume: Float[Tensor, "n n n"], grid: Grid, resolution: float) -> float:
    """B factor (Å^2) from the slope of ln amplitude against 1/d^2 between 10 Å and the resolution.

    ``ln |F| = a + B / 4 * s^2`` (Rosenthal and Henderson 2003); 0 when fewer than four shells lie in that range.
    """
    first = int(grid.shell_of(GUINIER_FROM)) + 1
    last = min(int(grid.shell_of(resolution)), grid.last_shell)
    if last - first < 3:
        return 0.0
    amplitude = shell_power(volume).sqrt()[first : last + 1].log()
    squared = (torch.arange(first, last + 1, dtype=torch.float64) / grid.extent) ** 2
    centred = squared - squared.mean()
    slope = float((centred * (amplitude - amplitude.mean())).sum() / (centred**2).sum())
    return max(-LARGEST_SHARPENING, min(0.0, 4 * slope))


def believed(correlation: Float[Tensor, " shells"]) -> Float[Tensor, " shells"]:
    """The correlation freed from its own noise: averaged over three shells, never rising again, never below zero.

    It weighs the shells of the map. What lies beyond a threshold is weighed by what it is worth, not cut.
    """
    padded = torch.cat((correlation[:1], correlation, correlation[-1:]))
    smooth = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    return torch.cummin(smooth, dim=0).values.clamp(0, 1)


def finish_maps(
    half_a: Float[Tensor, "n n n"],
    half_b: Float[Tensor, "n n n"],
    both: Float[Tensor, "n n n"],
    grid: Grid,
    mask: Float[Tensor, "n n n"] | None,
    seed: int,
) -> Consensus:
    """Everything that follows from two half-maps and the map of both halves, all bright.

    The mask is drawn from the map when none is given.
    """
    mask = outline(both, grid) if mask is None else mask
    correlation = compare_half_maps(half_a, half_b, mask, torch.Generator().manual_seed(seed))
    weight = believed(correlation.corrected)
    # what the map of both halves would correlate with a perfect one: Rosenthal and Henderson 2003
    full = 2 * weight / (1 + weight)
    resolution = grid.resolution_of(first_shell_below(correlation.corrected, 0.143))
    b_factor = guinier_b_factor(both * mask, grid, resolution)
    squared = (torch.arange(len(full), dtype=torch.float64) / grid.extent) ** 2
    sharpening = full.sqrt() * torch.exp(-b_factor / 4 * squared)
    quiet = both * solvent_window(mask, grid)
    filtered, sharpened = filter_shells(quiet, full), filter_shells(quiet, sharpening)
    return Consensus(half_a, half_b, filtered, sharpened, mask, correlation, grid, b_factor)


def fsc_table(consensus: Consensus) -> str:
    """The FSC curves as CSV: shell, resolution (Å), and one column per curve."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("shell", "resolution", "unmasked", "masked", "randomised", "corrected"))
    curves = consensus.correlation
    rows = zip(curves.unmasked, curves.masked, curves.randomised, curves.corrected, strict=True)
    for shell, values in enumerate(rows):
        resolution = consensus.grid.resolution_of(shell)
        writer.writerow((shell, f"{resolution:.4f}", *(f"{float(value):.6f}" for value in values)))
    return text.getvalue()
