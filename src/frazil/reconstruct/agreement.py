"""What states differ by, as far as both half-sets say so, learnt from all states together.

A state of few images has a noisy map, yet it lies between others in much that it differs by: an assembly that grows has what
the state before it has. With ``d_s`` the difference of state s from the mean of all and ``p_s`` its share, the noise of
``sqrt(p_s) d_s`` is the same in all states, and what the half-sets have in common of it is a covariance between states in
every shell. Along its eigenvectors states differ independently; each is believed as far as half-sets correlate in it, and a
map is put together again from what is believed: a Wiener filter over the states. A small state so takes from its neighbours
what it shares with them, instead of falling back to the mean of all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.numerics.spectrum_table import Table, TableLayout, shell_means
from frazil.reconstruct.maximisation import LEAST_CORRELATION, MOST_CORRELATION, smoothed

# correlation between half-sets that is assumed where no maps are known yet: of the mean, and of what states differ by
FIRST_CORRELATIONS = 0.9, 0.5


@final
@dataclass(frozen=True)
class Agreement:
    """How well the maps of two half-sets agree.

    Attributes:
        mean: Fourier shell correlation of the mean of all states. directions: between the states, orthonormal, for
            differences times the root of the share. difference: correlation in each direction.
    """

    mean: Float[Tensor, " shells"]
    directions: Float[Tensor, "shells states directions"]
    difference: Float[Tensor, "shells directions"]

    @staticmethod
    def assumed(shells: int, share: Float[Tensor, " states"]) -> Agreement:
        """Where there are no maps yet."""
        mean, difference = FIRST_CORRELATIONS
        directions = directions_between(share).expand(shells, -1, -1)
        return Agreement(torch.full((shells,), mean), directions, torch.full((shells, directions.shape[2]), difference))

    @staticmethod
    def between(a: Table, b: Table, share: Float[Tensor, " states"], layout: TableLayout) -> Agreement:
        """Measured on the tables of maps of both halves that were not shrunk."""
        x, y = ((table * share).sum(2) for table in (a, b))
        found = shell_means(torch.stack(((x * y).sum(1), x.square().sum(1), y.square().sum(1)), dim=1), layout)
        mean = smoothed((found[:, 0] / found[:, 1:].prod(-1).sqrt().clamp(min=1e-30))[:, None])[:, 0]
        beside = directions_between(share)
        if beside.shape[1] == 0:
            return Agreement(mean, beside.expand(len(mean), -1, -1), mean[:, None][:, :0])
        cross, power = _products(a, b, share, layout)
        cross, power = (beside.T @ _smoothed(each) @ beside for each in ((cross + cross.mT) / 2, power))
        # one noise for all directions, which differ in their signal alone
        noise = (power - cross).diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30)
        signal, turn = torch.linalg.eigh(cross)
        return Agreement(mean, beside @ turn, signal / (signal.clamp(min=0) + noise[:, None]))

    def cautious(self, caution: float) -> Agreement:
        """With the correlation of differences raised to a power."""
        return replace(self, difference=self.difference.clamp(min=0) ** caution)

    def of_half(self, table: Table, share: Float[Tensor, " states"], layout: TableLayout) -> Table:
        """The maps of one half, differences shrunk as they deserve."""
        return self._filtered(table, share, layout, torch.ones_like(self.mean), self._believed)

    def of_both(self, a: Table, b: Table, share: Float[Tensor, " states"], layout: TableLayout) -> Table:
        """The maps of both halves together.

        Where halves correlate by f, their mean deserves 2 f / (1 + f); the mean of all states was shrunk by f before.
        """
        mean = 2 / (1 + self.mean.clamp(LEAST_CORRELATION, MOST_CORRELATION))
        return self._filtered((a + b) / 2, share, layout, mean, 2 * self._believed / (1 + self._believed))

    @property
    def _believed(self) -> Tensor:
        return self.difference.clamp(LEAST_CORRELATION, MOST_CORRELATION)

    def _filtered(self, table: Table, share: Tensor, layout: TableLayout, mean: Tensor, gain: Tensor) -> Table:
        root = share.sqrt()
        over_states = (self.directions * gain[:, None]) @ self.directions.mT * root[:, None] / root
        out = torch.empty_like(table)
        for shell, voxels in enumerate(voxels_of_shells(layout)):
            part = table[voxels]
            centre = (part * share).sum(2, keepdim=True)
            out[voxels] = centre * mean[shell] + (part - centre) @ over_states[shell]
        return out


def directions_between(share: Float[Tensor, " states"]) -> Float[Tensor, "states directions"]:
    """C - 1 orthonormal vectors at a right angle to the roots of the shares."""
    root = share.sqrt()
    return torch.linalg.eigh(torch.eye(len(share)) - root[:, None] * root)[1][:, 1:]


def voxels_of_shells(layout: TableLayout) -> tuple[Int[Tensor, " voxels"], ...]:
    """The rows of a table that lie in each shell."""
    shell = layout.nearest_shell
    return shell.argsort(stable=True).split(torch.bincount(shell).tolist())


def _products(a: Table, b: Table, share: Tensor, layout: TableLayout) -> tuple[Tensor, Tensor]:
    """Of the differences times the root of the share in every shell: the mean product of a and b, and the mean power."""
    cross, power = [], []
    for voxels in voxels_of_shells(layout):
        x, y = (table[voxels].flatten(0, 1) for table in (a, b))
        x, y = ((part - (part * share).sum(1, keepdim=True)) * share.sqrt() for part in (x, y))
        count = max(len(voxels), 1)
        cross.append(x.T @ y / count)
        power.append((x.T @ x + y.T @ y) / (2 * count))
    return torch.stack(cross), torch.stack(power)


def _smoothed(matrices: Float[Tensor, "shells states states"]) -> Float[Tensor, "shells states states"]:
    return smoothed(matrices.flatten(1)).reshape(matrices.shape)
