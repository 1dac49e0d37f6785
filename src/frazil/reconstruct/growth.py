"""Where states come from: a state divides in two when its parts explain images better that they were not made of.

Sorting into many states at once ends in whatever lies near the start. Sorting the images of one state into two is easy: it
begins with two clusters in the latents of the linear model, which know differences that many states share; or with random
memberships, from which the strongest difference grows, soonest at a coarse band, which has few voxels to be wrong about. So
states are grown from one that holds all images. Whether two maps are better than one is asked of every fourth image, which
neither maps nor memberships have seen; that also says when there is nothing left to divide. (The other half-set would not
do: images chosen for their likeness to a map carry its noise into their own average.) After every round all images are
weighed anew between all states.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from frazil.data.views import ParticleViews
from frazil.reconstruct.linear import WORTHWHILE
from frazil.reconstruct.states import Members, Rows, Sorter, States

# a division grows from a few images taken at random: so it finds small parts as well as halves. For as many passes it is held
# at this share, then let go for some more; whichever explains the images kept back better is taken
FIRST_SHARE, HELD_PASSES, FREE_PASSES = 0.12, 25, 20
# starts that are tried before a state is called whole: clusters of the linear latents, then random memberships
TRIES = 3
# see `Sorter.caution`: while a division grows, and those that are compared when it is judged
CAUTION_IN_DIVIDING, CAUTIONS_IN_JUDGING = 1.5, (1.5, 3.0, 6.0)
# standard errors by which two states must explain images better than one: the best of several trials is judged
BETTER = 2.0
# log likelihood of an image below which two states become one: less than lets a state divide, so that nothing goes to and fro
HARDLY = 0.01
# starts of the search for clusters
CLUSTER_STARTS = 20
# one image in so many is kept back to judge
KEPT_BACK = 4
# passes over all images after a round
SETTLING_PASSES = 4
# images of each half-set that a part must have
FEWEST_IMAGES = 10
# images that a division is grown from: more tell nothing new about where to begin
MOST_IMAGES = 20_000


@final
@dataclass(frozen=True)
class Growth:
    """States on their way.

    Attributes:
        states: with their maps. whole: those that no division was found for at this band. latent: of every image in the
            linear model. evidence: mean log evidence of an image, None before the first pass.
    """

    states: States
    whole: Bool[Tensor, " states"]
    latent: Float[Tensor, "images latent"]
    evidence: float | None = None


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


def one_state(sorter: Sorter, latent: Float[Tensor, "images latent"]) -> Growth:
    """All images in one state. ``latent``: of every image in the linear model."""
    rows = sorter.all_rows()
    states = sorter.averaged(rows, _members(rows, torch.zeros(len(sorter.images), dtype=torch.int64), 1))
    return Growth(states, torch.zeros(1, dtype=torch.bool), latent)


def grown(sorter: Sorter, growth: Growth, most: int, seed: int) -> tuple[Growth, Sorter]:
    """One round: states that clearly divide are divided, those first that explain most.

    Args:
        most: number of states not to exceed. seed: of the random memberships.
    """
    states, whole = growth.states, growth.whole.clone()
    if states.count >= most or bool(whole.all()):
        return growth, sorter
    rows, labels = sorter.all_rows(), _labels(sorter, states)
    found: dict[int, Division] = {}
    for state in torch.nonzero(~whole)[:, 0].tolist():
        own = _rows_of(rows, labels, state)
        for attempt in range(TRIES):
            random = seed + 1000 * state + 10 * states.count + attempt
            division = divided(sorter, own, None if attempt else growth.latent, random)
            if division is not None and division.clear:
                found[state] = division
                break
        whole[state] = state not in found
    chosen = sorted(found, key=lambda state: -found[state].gain * len(found[state].second))[: most - states.count]
    if not chosen:
        return replace(growth, whole=whole), sorter
    labels = labels.clone()
    for number, state in enumerate(chosen):
        own = torch.cat(_rows_of(rows, labels, state))
        labels[own[found[state].second]] = states.count + number
    whole = torch.cat((whole, torch.zeros(len(chosen), dtype=torch.bool)))
    begun = sorter.averaged(rows, _members(rows, labels, len(whole)))
    return settled(sorter, Growth(begun, whole, growth.latent), SETTLING_PASSES)


def clustered(sorter: Sorter, growth: Growth, count: int, seed: int) -> tuple[Growth, Sorter]:
    """The states so far, or as many clusters of the linear latents as are asked for: whichever explains unseen images better.

    Molecules that differ much are told apart by the latents at once, and dividing them step by step may fail.
    """
    rows = sorter.all_rows()
    labels = [_labels(sorter, growth.states), _clusters(growth.latent, count, seed)]
    seen, unseen = _kept_back(rows, sorter.images.views)
    evidence = []
    for those in labels:
        states = sorter.averaged(seen, _members(seen, those, int(those.max()) + 1))
        for _ in range(SETTLING_PASSES):
            states, _, _, _ = sorter.step(states, seen, "both")
        evidence.append(float(sorter.weighed(sorter.tables(states, "both"), states.share, unseen)[1].mean()))
    if evidence[1] <= evidence[0]:
        return growth, sorter
    begun = sorter.averaged(rows, _members(rows, labels[1], count))
    whole = torch.zeros(count, dtype=torch.bool)
    return settled(sorter, Growth(begun, whole, growth.latent), SETTLING_PASSES)


def joined(sorter: Sorter, growth: Growth) -> tuple[Growth, Sorter]:
    """States that unseen images do not tell from their nearest neighbour become one with it."""
    rows, labels = sorter.all_rows(), _labels(sorter, growth.states)
    taken: set[int] = set()
    for one, other in _alike(sorter, growth.states):
        if {one, other} & taken:
            continue
        both = _rows_of(rows, torch.where(labels == other, one, labels), one)
        seen, unseen = _kept_back(both, sorter.images.views)
        second = (labels[torch.cat(seen)] == other).to(torch.float32)
        two = sorter.averaged(seen, _split(seen, torch.stack((1 - second, second), dim=1)))
        for _ in range(SETTLING_PASSES):
            two, _, _, _ = sorter.step(two, seen, "both")
        judged = _at_best(sorter, both, seen, unseen, two)
        if judged.gain < max(HARDLY, BETTER * judged.error):
            labels = torch.where(labels == other, one, labels)
            taken |= {one, other}
    if not taken:
        return growth, sorter
    labels = torch.unique(labels, return_inverse=True)[1]
    count = int(labels.max()) + 1
    begun = Growth(
        sorter.averaged(rows, _members(rows, labels, count)), torch.zeros(count, dtype=torch.bool), growth.latent
    )
    return settled(sorter, begun, SETTLING_PASSES)


def settled(sorter: Sorter, growth: Growth, passes: int) -> tuple[Growth, Sorter]:
    """Some passes over all images, each compared with the maps of the other half-set."""
    rows = sorter.all_rows()
    states, evidence = growth.states, growth.evidence
    for _ in range(passes):
        states, _, sorter, evidence = sorter.step(states, rows, "other")
    return replace(growth, states=states, evidence=evidence), sorter


def confined(
    sorter: Sorter, growth: Growth, mask: Float[Tensor, "2 n n n"]
) -> tuple[Growth, Sorter, Float[Tensor, "n n n"]]:
    """A pass over all images that finds anew where states differ. ``mask``: of the mean, and of where they may.

    Returns:
        How far to believe that the density of each voxel differs between states, last.
    """
    growth, sorter = settled(replace(sorter, mask=mask), growth, 1)
    region, states = sorter.confined(growth.states)
    return replace(growth, states=states), sorter, region


def divided(sorter: Sorter, rows: Rows, latent: Tensor | None, seed: int) -> Division | None:
    """The images of one state in two; None where one part has too few of them.

    Args:
        latent: of every image, to begin with two clusters of them; None to begin with random memberships from this seed.
    """
    if min(len(half) for half in rows) < 2 * FEWEST_IMAGES:
        return None
    every = max(1, sum(len(half) for half in rows) // MOST_IMAGES)
    views = sorter.images.views
    few = tuple(half[views[half].ordinal % every == 0] for half in rows)
    seen, unseen = _kept_back((few[0], few[1]), views)
    first = _random(seen, seed) if latent is None else _clusters(latent[torch.cat(seen)], 2, seed).to(torch.float32)
    careful = replace(sorter, caution=CAUTION_IN_DIVIDING)
    divisions, held = [], torch.tensor([1 - FIRST_SHARE, FIRST_SHARE])
    two = careful.averaged(seen, _split(seen, torch.stack((1 - first, first), dim=1)))
    for passes, share in ((HELD_PASSES if latent is None else 0, held), (FREE_PASSES, None)):
        for number in range(passes):
            begun = two if share is None else replace(two, share=share)
            two, _, _, _ = careful.step(begun, seen, "both", assumed=share is not None and number == 0)
        divisions.append(_at_best(sorter, rows, seen, unseen, two))
    division = max(divisions, key=lambda division: division.gain)
    for half in _split(rows, division.second):
        if min(int(half.sum()), int((~half).sum())) < FEWEST_IMAGES:
            return None
    return division


def _kept_back(rows: Rows, views: ParticleViews) -> tuple[Rows, Rows]:
    """Images to learn from and images to judge by; neighbours in this order look from nearly the same side."""
    kept = [views[half].ordinal % KEPT_BACK == KEPT_BACK - 1 for half in rows]
    return (rows[0][~kept[0]], rows[1][~kept[1]]), (rows[0][kept[0]], rows[1][kept[1]])


def _random(rows: Rows, seed: int) -> Float[Tensor, " images"]:
    """Uneven memberships of a few images."""
    drawn = torch.rand(sum(len(half) for half in rows), generator=torch.Generator().manual_seed(seed))
    return 3 * FIRST_SHARE * drawn.square()


def _clusters(latent: Float[Tensor, "images latent"], count: int, seed: int) -> Int[Tensor, " images"]:
    from sklearn.cluster import KMeans

    found = KMeans(min(count, len(latent)), n_init=CLUSTER_STARTS, random_state=seed).fit(latent.numpy())  # type: ignore[arg-type]
    return torch.from_numpy(found.labels_).to(torch.int64)


def _split(rows: Rows, members: Tensor) -> Members:
    a, b = members.split([len(rows[0]), len(rows[1])])
    return a, b


def _at_best(sorter: Sorter, rows: Rows, seen: Rows, unseen: Rows, two: States) -> Division:
    """Two states, judged with their difference shrunk as far as is best for them."""

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


def _alike(sorter: Sorter, states: States) -> list[tuple[int, int]]:
    """For each state the one that images can least tell from it, by the power of their difference where it is seen."""
    if states.count == 1:
        return []
    table = sorter.tables(states, "both")[0]
    covered = (sorter.stage.coverage[0] + sorter.stage.coverage[1])[:, None, None]
    flat = (table * covered.sqrt()).flatten(0, 1).to(torch.float64)
    gram = flat.T @ flat
    apart = gram.diagonal()[:, None] + gram.diagonal() - 2 * gram
    apart.fill_diagonal_(torch.inf)
    nearest = apart.min(1)
    pairs = {(min(pair), max(pair)): float(nearest.values[pair[0]]) for pair in enumerate(nearest.indices.tolist())}
    return sorted(pairs, key=lambda pair: pairs[pair])


def _labels(sorter: Sorter, states: States) -> Int[Tensor, " images"]:
    """The likeliest state of every image."""
    members, _ = sorter.weighed(sorter.tables(states, "other"), states.share, sorter.all_rows())
    return torch.cat(members).argmax(1)


def _rows_of(rows: Rows, labels: Tensor, state: int) -> Rows:
    a, b = (half[labels[half] == state] for half in rows)
    return a, b


def _members(rows: Rows, labels: Tensor, count: int) -> Members:
    hot: Float[Tensor, "images states"] = torch.nn.functional.one_hot(labels, count).to(torch.float32)
    return hot[rows[0]], hot[rows[1]]
