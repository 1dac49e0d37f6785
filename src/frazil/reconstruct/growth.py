"""Where states come from: a state divides in two when its parts explain images better that they were not made of.

Sorting into many states at once ends in whatever lies near the start. Sorting the images of one state into two is easy: it
begins with two clusters in the latents of the linear model, which know differences that many states share; or with random
memberships, from which the strongest difference grows, soonest at a coarse band, which has few voxels to be wrong about. So
states are grown from one that holds all images; that two explain images better than one (`Division`) also says when there is
nothing left to divide. After every round all images are weighed anew between all states. Parts too small for either start are
found at the finest band, by the piece of density that they have or lack (`pieces`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from frazil.reconstruct.division import BETTER, FEWEST_IMAGES, Division, at_best, few_of, kept_back, split_between
from frazil.reconstruct.nearest_states import between_nearest
from frazil.reconstruct.pieces import divided_by_a_piece
from frazil.reconstruct.states import Members, Rows, Sorter, States

# a division grows from a few images taken at random: so it finds small parts as well as halves. For as many passes it is held
# at this share, then let go for some more; whichever explains the images kept back better is taken
FIRST_SHARE, HELD_PASSES, FREE_PASSES = 0.12, 25, 20
# starts that are tried before a state is called whole: clusters of the linear latents, then random memberships
TRIES = 3
# see `Sorter.caution`
CAUTION_IN_DIVIDING = 1.5
# log likelihood of an image below which two states become one: less than lets a state divide, so that nothing goes to and fro
HARDLY = 0.01
# starts of the search for clusters
CLUSTER_STARTS = 20
# passes over all images after a round
SETTLING_PASSES = 4


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
    chosen = _best_divisions(found, most - states.count)
    if not chosen:
        return replace(growth, whole=whole), sorter
    begun = _with_divisions(sorter, Growth(states, whole, growth.latent), rows, labels, chosen)
    return settled(sorter, begun, SETTLING_PASSES)


def clustered(sorter: Sorter, growth: Growth, count: int, seed: int) -> tuple[Growth, Sorter]:
    """The states so far, or as many clusters of the linear latents as are asked for: whichever explains unseen images better.

    Molecules that differ much are told apart by the latents at once, and dividing them step by step may fail.
    """
    rows = sorter.all_rows()
    labels = [_labels(sorter, growth.states), _clusters(growth.latent, count, seed)]
    seen, unseen = kept_back(rows, sorter.images.views)
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
        seen, unseen = kept_back(both, sorter.images.views)
        second = (labels[torch.cat(seen)] == other).to(torch.float32)
        two = sorter.averaged(seen, split_between(seen, torch.stack((1 - second, second), dim=1)))
        for _ in range(SETTLING_PASSES):
            two, _, _, _ = sorter.step(two, seen, "both")
        judged = at_best(sorter, both, seen, unseen, two)
        if judged.gain < max(HARDLY, BETTER * judged.error):
            labels = torch.where(labels == other, one, labels)
            taken |= {one, other}
    if not taken:
        return growth, sorter
    return settled(sorter, _of_labels(sorter, growth, labels), SETTLING_PASSES)


def completed(sorter: Sorter, growth: Growth, most: int) -> tuple[Growth, Sorter]:
    """States that hardly any image is left in are given up; as long as there is room, states divide by pieces."""
    labels = _labels(sorter, between_nearest(growth.states))
    rows = sorter.all_rows()
    images = torch.stack([torch.bincount(labels[half], minlength=growth.states.count) for half in rows]).min(0).values
    kept = images >= FEWEST_IMAGES
    kept[images.argmax()] = True  # of very few images the most populated state is all there is
    if not bool(kept.all()):
        states = between_nearest(growth.states)
        tables = tuple(table[..., kept] for table in sorter.tables(states, "other"))
        members, _ = sorter.weighed((tables[0], tables[1]), states.share[kept] / states.share[kept].sum(), rows)
        labels = torch.cat(members).argmax(1)
        growth = replace(_of_labels(sorter, growth, labels), whole=growth.whole[kept])
    room, whole, found = most - growth.states.count, growth.whole.clone(), {}
    for state in torch.nonzero(~whole)[:, 0].tolist() if room else ():
        division = divided_by_a_piece(sorter, _rows_of(rows, labels, state))
        if division is not None and division.clear:
            found[state] = division
        whole[state] = state not in found
    chosen = _best_divisions(found, room)
    growth = _with_divisions(sorter, replace(growth, whole=whole), rows, labels, chosen)
    return (growth, sorter) if bool(kept.all()) and not chosen else settled_apart(sorter, growth, 1)


def settled(sorter: Sorter, growth: Growth, passes: int) -> tuple[Growth, Sorter]:
    """Some passes over all images, each compared with the maps of the other half-set."""
    rows = sorter.all_rows()
    states, evidence = growth.states, growth.evidence
    for _ in range(passes):
        states, _, sorter, evidence = sorter.step(states, rows, "other")
    return replace(growth, states=states, evidence=evidence), sorter


def settled_apart(sorter: Sorter, growth: Growth, passes: int) -> tuple[Growth, Sorter]:
    """Such passes with states that differ from their nearest only where both halves say so, each image in one state alone.

    An image that counts in two states takes from what they differ by; a small state so loses itself in a large one.
    """
    rows = sorter.all_rows()
    states, evidence = growth.states, growth.evidence
    for _ in range(passes):
        states, _, sorter, evidence = sorter.step(between_nearest(states), rows, "other", alone=True)
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
    views = sorter.images.views
    seen, unseen = kept_back(few_of(rows, views), views)
    first = _random(seen, seed) if latent is None else _clusters(latent[torch.cat(seen)], 2, seed).to(torch.float32)
    careful = replace(sorter, caution=CAUTION_IN_DIVIDING)
    divisions, held = [], torch.tensor([1 - FIRST_SHARE, FIRST_SHARE])
    two = careful.averaged(seen, split_between(seen, torch.stack((1 - first, first), dim=1)))
    for passes, share in ((HELD_PASSES if latent is None else 0, held), (FREE_PASSES, None)):
        for number in range(passes):
            begun = two if share is None else replace(two, share=share)
            two, _, _, _ = careful.step(begun, seen, "both", assumed=share is not None and number == 0)
        divisions.append(at_best(sorter, rows, seen, unseen, two))
    division = max(divisions, key=lambda division: division.gain)
    return division if division.leaves_enough(rows) else None


def _best_divisions(found: dict[int, Division], room: int) -> dict[int, Division]:
    """Those that explain most, as many as there is room for."""
    order = sorted(found, key=lambda state: -found[state].gain * len(found[state].second))
    return {state: found[state] for state in order[:room]}


def _with_divisions(
    sorter: Sorter, growth: Growth, rows: Rows, labels: Int[Tensor, " images"], divisions: dict[int, Division]
) -> Growth:
    """The maps of states some of which are divided: their second parts come last."""
    count, labels = growth.states.count, labels.clone()
    for number, (state, division) in enumerate(divisions.items()):
        own = torch.cat(_rows_of(rows, labels, state))
        labels[own[division.second]] = count + number
    if not divisions:
        return growth
    whole = torch.cat((growth.whole, torch.zeros(len(divisions), dtype=torch.bool)))
    return replace(growth, states=sorter.averaged(rows, _members(rows, labels, len(whole))), whole=whole)


def _of_labels(sorter: Sorter, growth: Growth, labels: Int[Tensor, " images"]) -> Growth:
    """The maps of images in states whose numbers may have gaps."""
    labels = torch.unique(labels, return_inverse=True)[1]
    count, rows = int(labels.max()) + 1, sorter.all_rows()
    states = sorter.averaged(rows, _members(rows, labels, count))
    return Growth(states, torch.zeros(count, dtype=torch.bool), growth.latent)


def _random(rows: Rows, seed: int) -> Float[Tensor, " images"]:
    """Uneven memberships of a few images."""
    drawn = torch.rand(sum(len(half) for half in rows), generator=torch.Generator().manual_seed(seed))
    return 3 * FIRST_SHARE * drawn.square()


def _clusters(latent: Float[Tensor, "images latent"], count: int, seed: int) -> Int[Tensor, " images"]:
    from sklearn.cluster import KMeans

    found = KMeans(min(count, len(latent)), n_init=CLUSTER_STARTS, random_state=seed).fit(latent.numpy())  # type: ignore[arg-type]
    return torch.from_numpy(found.labels_).to(torch.int64)


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
