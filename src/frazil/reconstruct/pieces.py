"""Small parts of a state, found by the piece of density that they have and the others lack, or lack and the others have.

A part of a few percent of the images is soon lost among two maps that are free in every voxel: an even division of the noise
explains the images better that it was made of. But where some images have a piece of density and others have not, their
average has it faintly, in its true shape. So the average is cut into pieces by soft windows, and for each piece it is asked
how much of it every image has: the likelihood of an image is a parabola in that amount, and a mixture of two amounts, with
shares of their own, is fitted to all of them. The piece that such a mixture explains best begins a division, whose two maps
may differ in a growing window round it. How much images have of that difference is fitted again in every pass, because maps
that are shrunk, or that some images are in by mistake, say too little. Images kept back judge in the end (`Division`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.reconstruct.division import FEWEST_IMAGES, Division, few_of, kept_back, split_between
from frazil.reconstruct.states import Rows, Sorter, States

# standard deviation of the window of a piece, of the box; pieces are two of them apart
WIDTH = 0.044
# a window that has less of the density than this share of the fullest one is left out
LEAST_DENSITY = 0.1
# pieces whose images are looked at together
PIECES_AT_ONCE = 64
# shares that the second amount begins with, as small parts are looked for; passes of the mixture; how far amounts may
# be from that of the average
FIRST_SHARES, PASSES, WIDEST_AMOUNT = (0.1, 0.9), 60, 10.0
# how much wider the window of a division is than that of its piece, pass by pass
WINDOWS = (1.5, 2.5, 3.5, 4.5, 4.5, 4.5)
# pieces that a division is begun from, those first that a mixture explains best; log likelihood of all that it must gain
TRIES, LEAST_GAIN = 2, 0.3


@final
@dataclass(frozen=True)
class Amounts:
    """How much images have of each of several pieces: one of two amounts.

    Attributes:
        share, amount: of the images that have each amount, and the amount. one: the amount if all have the same.
    """

    share: Float[Tensor, "pieces 2"]
    amount: Float[Tensor, "pieces 2"]
    one: Float[Tensor, " pieces"]

    @staticmethod
    def fitted(slope: Float[Tensor, "images pieces"], curvature: Float[Tensor, "images pieces"]) -> Amounts:
        """By expectation-maximisation over shares and amounts, from several shares; the best is kept.

        Args:
            slope, curvature: the log likelihood of amount w is ``slope w - curvature w^2 / 2``.
        """
        one = _amount(slope.sum(0), curvature.sum(0))
        # amounts vary by what they scatter beyond the error of one image
        scatter = ((slope / curvature.clamp(min=1e-12) - one).square() * curvature).sum(0) - len(slope)
        spread = (scatter / curvature.sum(0).clamp(min=1e-12)).clamp(min=1e-6).sqrt()
        found = [Amounts._from(share, one, spread, slope, curvature) for share in FIRST_SHARES]
        best = torch.stack([each.gain(slope, curvature).sum(0) for each in found]).argmax(0)
        piece = torch.arange(len(best))
        share, amount = (torch.stack([getattr(each, name) for each in found]) for name in ("share", "amount"))
        return Amounts(share[best, piece], amount[best, piece], one)

    @staticmethod
    def _from(share: float, one: Tensor, spread: Tensor, slope: Tensor, curvature: Tensor) -> Amounts:
        """From one share of the second amount."""
        odds = (share / (1 - share)) ** 0.5
        amount = torch.stack((one - spread * odds, one + spread / odds), dim=1)
        found = Amounts(torch.tensor((1 - share, share), dtype=slope.dtype).expand_as(amount), amount, one)
        for _ in range(PASSES):
            members = found.members(slope, curvature)
            amount = _amount((members * slope[..., None]).sum(0), (members * curvature[..., None]).sum(0))
            found = Amounts(members.mean(0).clamp(min=1e-4), amount, one)
        return found

    def members(
        self, slope: Float[Tensor, "images pieces"], curvature: Float[Tensor, "images pieces"]
    ) -> Float[Tensor, "images pieces 2"]:
        """Probability that an image has the first and the second amount."""
        return torch.softmax(self._log(slope, curvature), dim=2)

    def gain(
        self, slope: Float[Tensor, "images pieces"], curvature: Float[Tensor, "images pieces"]
    ) -> Float[Tensor, "images pieces"]:
        """Log likelihood of images under two amounts against one."""
        return torch.logsumexp(self._log(slope, curvature), 2) - slope * self.one + curvature * self.one.square() / 2

    def _log(self, slope: Tensor, curvature: Tensor) -> Tensor:
        return slope[..., None] * self.amount - curvature[..., None] * self.amount.square() / 2 + self.share.log()


def divided_by_a_piece(sorter: Sorter, rows: Rows) -> Division | None:
    """The images of one state in two, by a piece that some have and others lack; None where no piece tells them apart."""
    views = sorter.images.views
    seen, unseen = kept_back(few_of(rows, views), views)
    if min(len(half) for half in (*seen, *unseen)) < FEWEST_IMAGES:
        return None
    one = sorter.averaged(seen, split_between(seen, torch.ones(len(torch.cat(seen)), 1)))
    centres = pieces_of((one.a[0] + one.b[0]) / 2)
    divisions = []
    for centre, members in _begun_by_pieces(sorter, seen, one, centres):
        division = _judged(sorter, rows, unseen, *_grown_from(sorter, seen, centre, members))
        if division.leaves_enough(rows):
            divisions.append(division)
    return max(divisions, key=lambda division: division.gain, default=None)


def window(box: int, centre: Float[Tensor, "3"], width: float) -> Float[Tensor, "n n n"]:
    """A Gaussian round a voxel, axes as in the array. ``width``: its standard deviation, voxels."""
    x, y, z = (torch.exp(-(torch.arange(box) - at).square() / (2 * width**2)) for at in centre)
    return x[:, None, None] * y[:, None] * z


def pieces_of(density: Float[Tensor, "n n n"]) -> Float[Tensor, "pieces 3"]:
    """Where the windows are centred that have enough of a density, in voxels."""
    box = density.shape[0]
    width = WIDTH * box
    spacing = max(2, round(2 * width))
    at = torch.arange(spacing // 2, box, spacing)
    profile = torch.exp(-(torch.arange(box) - at[:, None]).square() / (2 * width**2))
    full = torch.einsum("ax,xyz->ayz", profile, density.clamp(min=0))
    full = torch.einsum("by,cz,ayz->abc", profile, profile, full)
    return at[torch.nonzero(full > LEAST_DENSITY * full.max())].to(torch.float32)


def _begun_by_pieces(
    sorter: Sorter, rows: Rows, one: States, centres: Float[Tensor, "pieces 3"]
) -> list[tuple[Float[Tensor, "3"], Float[Tensor, "images 2"]]]:
    """The pieces that a mixture of two amounts explains best, each with what images have of it."""
    stage = sorter.stage
    density = (one.a[0] + one.b[0]) / 2
    mean = stage.tables((density[None], density[None]))
    found = []
    for some in centres.split(PIECES_AT_ONCE):
        pieces = torch.stack([density * window(stage.box, centre, WIDTH * stage.box) for centre in some])
        first, second = pieces.tensor_split(2)
        table = torch.cat(stage.tables((first, second)), dim=2)  # made of two sets of volumes side by side
        told = sorter.told(rows, mean, (table, table))
        amounts = Amounts.fitted(*told)
        gains, members = amounts.gain(*told).sum(0), amounts.members(*told)
        found += [(float(gain), some[piece], members[:, piece]) for piece, gain in enumerate(gains)]
    best = sorted(found, key=lambda begun: -begun[0])[:TRIES]
    return [(centre, members) for gain, centre, members in best if gain > LEAST_GAIN]


def _grown_from(
    sorter: Sorter, rows: Rows, centre: Float[Tensor, "3"], members: Float[Tensor, "images 2"]
) -> tuple[States, Amounts]:
    """Two states that differ round a piece, and how much images have of their difference."""
    box = sorter.stage.box
    for wider in WINDOWS:
        two = sorter.averaged(rows, split_between(rows, members.to(torch.float32)))
        two = two.differing_in(window(box, centre, wider * WIDTH * box))
        told = _told_apart(sorter, rows, two)
        amounts = Amounts.fitted(*told)
        members = amounts.members(*told)[:, 0]
    return two, amounts


def _told_apart(sorter: Sorter, rows: Rows, two: States) -> tuple[Tensor, Tensor]:
    """What images say of how much they have of the difference of two states, as the other half-set shows it."""
    a, b = sorter.tables(two, "other")
    mean = (a * two.share).sum(2, keepdim=True), (b * two.share).sum(2, keepdim=True)
    return sorter.told(rows, mean, (a[..., 1:] - a[..., :1], b[..., 1:] - b[..., :1]))


def _judged(sorter: Sorter, rows: Rows, unseen: Rows, two: States, amounts: Amounts) -> Division:
    """As images have it that neither maps nor amounts have seen."""
    better = amounts.gain(*_told_apart(sorter, unseen, two))[sorter.images.views[torch.cat(unseen)].first, 0]
    members = amounts.members(*_told_apart(sorter, rows, two))[:, 0]
    return Division(float(better.mean()), float(better.std()) / len(better) ** 0.5, members[:, 1] > 0.5)


def _amount(slope: Tensor, curvature: Tensor) -> Tensor:
    """The likeliest amount, normal around that of the average."""
    return slope / (curvature + 1 / WIDEST_AMOUNT**2)
