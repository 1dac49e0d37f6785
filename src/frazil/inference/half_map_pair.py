"""How far a decoded map can be believed: the same state decoded from two ensembles that share no image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.numerics.local_resolution import local_correlation
from frazil.numerics.resolution import HalfMapCorrelation, compare_half_maps
from frazil.numerics.shells import first_shell_below
from frazil.physics.grid import Grid
from frazil.physics.outline import outline

if TYPE_CHECKING:
    from frazil.physics.ensemble import Ensemble


@final
@dataclass(frozen=True)
class HalfMapPair:
    """One state decoded from both half-sets.

    Attributes:
        a, b: the half-maps. mask: around what both show. correlation: between them.
        finest: Å, to which the ensembles were learnt; nothing finer is believed, however well it correlates.
    """

    a: Float[Tensor, "n n n"]
    b: Float[Tensor, "n n n"]
    mask: Float[Tensor, "n n n"]
    correlation: HalfMapCorrelation
    grid: Grid
    finest: float = 0.0

    def corrected(self) -> Float[Tensor, " shells"]:
        """The corrected correlation in shells 0, 1, ..., as far as was learnt."""
        last = round(self.grid.shell_of(self.finest)) if self.finest > 0 else self.grid.last_shell
        return self.correlation.corrected[: min(last, self.grid.last_shell) + 1]

    def resolution(self, threshold: float = 0.143) -> float:
        """Å where the corrected correlation first falls below the threshold."""
        return self.grid.resolution_of(first_shell_below(self.corrected(), threshold))

    def local_resolution(self) -> Float[Tensor, "n n n"]:
        """Å around every voxel, inside the mask; 0 outside it."""
        limit = local_correlation(self.a, self.b).limit()
        resolution = (self.grid.extent / limit.clamp(min=1)).clamp(min=self.finest)
        return torch.where(self.mask > 0.5, resolution, 0).to(torch.float32)


def pair_half_maps(
    a: Float[Tensor, "n n n"],
    b: Float[Tensor, "n n n"],
    grid: Grid,
    seed: int,
    mask: Float[Tensor, "n n n"] | None = None,
    finest: float = 0.0,
) -> HalfMapPair:
    """Correlate two half-maps inside a mask, drawn from their mean when none is given."""
    mask = outline((a + b) / 2, grid) if mask is None else mask
    correlation = compare_half_maps(a, b, mask, torch.Generator().manual_seed(seed))
    return HalfMapPair(a, b, mask, correlation, grid, finest)


def decode_pair(
    halves: tuple[Ensemble, Ensemble], point: Float[Tensor, " latent"], grid: Grid, seed: int, finest: float = 0.0
) -> HalfMapPair:
    """One latent point decoded from both half-sets' ensembles; they share one latent frame."""
    with torch.no_grad():
        a, b = (half.density(point).voxels(grid).float().cpu() for half in halves)
    return pair_half_maps(a, b, grid, seed, finest=finest)
