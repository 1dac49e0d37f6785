"""A state divides in two when two explain images better that they were not made of.

Whether two maps are better than one is asked of every fourth image, which neither maps nor memberships have seen. (The other
half-set would not do: images chosen for their likeness to a map carry its noise into their own average.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor

from frazil.data.views import ParticleViews
from frazil.reconstruct.linear import WORTHWHILE
from frazil.reconstruct.states import Members, Rows, Sorter, States

# see `Sorter.caution`: those that are compared when a division is judged
CAUTIONS_IN_JUDGING = (1.5, 3.0, 6.0)
# standard errors by which two states must explain images better than one: the best of several trials is judged
BETTER = 2.0
# one image in so many is kept back to judge
KEPT_BACK = 4
# images of each half-set that a part must have
FEWEST_IMAGES = 10
# images that a division is grown from: more tell nothing new about where to begin
MOST_IMAGES = 20_000


@final
@dataclass(frozen=True)
class Division:
    """Two states in the place of one.

    Attributes:
        gain: log likelihood of an image under two states against one, mean over the images that were kept back.
        error: its standard error. second: which of the images are in the second state.
    """

    gain: float
    error: float
    second: Bool[Tensor, " images"]

    @property
    def clear(self) -> bool:
        """Whether two states are clearly better than one."""
        return self.gain > max(BETTER * self.error, WORTHWHILE)

    def leaves_enough(self, rows: Rows) -> bool:
        """Whether each part has images enough in both half-sets. ``rows``: of the images that were divided."""
        halves = split_between(rows, self.second)
        return all(min(int(half.sum()), int((~half).sum())) >= FEWEST_IMAGES for half in halves)


def few_of(rows: Rows, views: ParticleViews) -> Rows:
    """Enough of the images to say where to divide them."""
    every = max(1, sum(len(half) for half in rows) // MOST_IMAGES)
    a, b = (half[views[half].ordinal % every == 0] for half in rows)
    return a, b


def kept_back(rows: Rows, views: ParticleViews) -> tuple[Rows, Rows]:
    """Images to learn from and images to judge by; neighbours in this order look from nearly the same side."""
    kept = [views[half].ordinal % KEPT_BACK == KEPT_BACK - 1 for half in rows]
    return (rows[0][~kept[0]], rows[1][~kept[1]]), (rows[0][kept[0]], rows[1][kept[1]])


def split_between(rows: Rows, members: Tensor) -> Members:
    """What is said of all images, half by half."""
    a, b = members.split([len(rows[0]), len(rows[1])])
    return a, b


def at_best(sorter: Sorter, rows: Rows, seen: Rows, unseen: Rows, two: States) -> Division:
    """Two states, judged with their difference shrunk as far as is best for them.

    Args:
        rows: all images of the state. seen: those the two maps were made of. unseen: those that judge.
    """

    def judged(caution: float) -> Division:
        judge = replace(sorter, caution=caution)
        return _judged(judge, rows, unseen, judge.step(two, seen, "both")[0])

    return max((judged(caution) for caution in CAUTIONS_IN_JUDGING), key=lambda division: division.gain)


def _judged(sorter: Sorter, rows: Rows, unseen: Rows, two: States) -> Division:
    """Two states against one with the mean of their maps, as images that neither has seen have it."""
    of_two = sorter.tables(two, "both")
    mean = (of_two[0] * two.share).sum(2, keepdim=True)
    of_one = sorter.weighed((mean, mean), torch.ones(1), unseen)[1]
    better = (sorter.weighed(of_two, two.share, unseen)[1] - of_one)[sorter.images.views[torch.cat(unseen)].first]
    members, _ = sorter.weighed(of_two, two.share, rows)
    return Division(float(better.mean()), float(better.std()) / len(better) ** 0.5, torch.cat(members)[:, 1] > 0.5)
