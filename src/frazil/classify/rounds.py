"""Stochastic expectation-maximisation of class averages, from random classes to the resolution that the images give.

Every round takes some of the images, finds the posterior of each over classes, angles and shifts, and blends what they give
into a running average. First a low band and all shifts; then, with every particle centred, shifts nearby only and a band
that grows as long as the averages of two half-sets agree at its edge. Classes that few images want start anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.classify.averages import (
    ClassSums,
    half_averages,
    noise_images,
    ring_correlation,
    solved,
    sums_of_views,
)
from frazil.classify.expectation import Expected, Search, expect
from frazil.classify.images import ClassImages
from frazil.inference.matching import ViewSums, shell_sums

# share of the rounds in the first band
COARSE_ROUNDS = 0.6
# no class starts anew in the last share of the rounds
SETTLING_ROUNDS = 0.25
RESTART_EVERY = 4
MARCH_EVERY = 2
# of the sums of a round, the least share in the running average
FRESH = 0.3
# a class of less than this share of the mean starts anew
STARVED = 0.3
# images that each class starts with
FIRST_IMAGES = 10
# the band grows where the halves agree so well in its last two shells
AGREEMENT = 0.3
GROWTH = 1.12
# how far a step of angles and shifts moves the rim of a particle, in units of the resolution
COARSENESS = 0.6


@final
@dataclass(frozen=True)
class Plan:
    """What does not change from round to round.

    Attributes:
        classes: how many. diameter: of the particle, Å. reach: farthest shift, Å. mask: of the averages. first_band: shell
            that the search begins with. rounds: how many. seed: of all random numbers.
        sign: 1 where particles are bright, -1 where they are dark, 0 where nobody knows.
    """

    classes: int
    diameter: float
    reach: float
    mask: Float[Tensor, "n n"]
    first_band: int
    rounds: int
    seed: int
    sign: int

    @property
    def coarse_rounds(self) -> int:
        """Rounds in the first band."""
        return max(1, round(COARSE_ROUNDS * self.rounds))

    def generator(self, number: int) -> torch.Generator:
        """Random numbers of a round; they depend on seed and round and nothing else."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + number)


@final
@dataclass(frozen=True)
class Progress:
    """Where classification stands after a round: all that the next one needs.

    Attributes:
        sums: of the images seen of late. averages: made of them. centre: where each particle was found, Å; nan before.
        band: highest shell in use. round: how many were done.
    """

    sums: ClassSums
    averages: Float[Tensor, "classes n n"]
    centre: Float[Tensor, "images 2"]
    band: int
    round: int = 0

    @property
    def centred(self) -> bool:
        """Whether particles have been found, so that shifts are searched nearby only."""
        return bool(self.centre.isfinite().all())


def coarse_search(plan: Plan, images: ClassImages) -> Search:
    """All shifts in the first band."""
    return Search.of(images.grid, plan.first_band, images.layout.band, plan.diameter, plan.reach, COARSENESS)


def fine_search(plan: Plan, images: ClassImages, band: int) -> Search:
    """Shifts about those found in the first band: up to its step."""
    reach = min(plan.reach, 0.7 * COARSENESS * images.grid.resolution_of(plan.first_band + 0.5))
    return Search.of(images.grid, band, images.layout.band, plan.diameter, reach, COARSENESS)


def random_start(plan: Plan, images: ClassImages, search: Search) -> Progress:
    """Every class the average of a few images at random angles."""
    generator, layout, table_band = plan.generator(0), search.layout, images.layout.band
    rows = torch.randperm(images.count, generator=generator)[: plan.classes * FIRST_IMAGES]
    count, views = len(rows), plan.classes * len(search.angles)
    view = (torch.arange(count) % plan.classes) * len(search.angles)
    view += torch.randint(len(search.angles), (count,), generator=generator)
    turned = torch.rand(count, generator=generator) < 0.5
    sums = []
    for half in range(2):
        own = rows % 2 == half
        chosen = images.chosen(rows[own], layout)
        product = chosen.values * chosen.transfer[..., None]
        product[..., 1] *= torch.where(turned[own], -1.0, 1.0)[:, None]
        power = shell_sums(chosen.transfer.square(), layout) / torch.bincount(layout.shell)
        found = ViewSums(
            torch.zeros(views, layout.count, 2).index_add_(0, view[own], product),
            torch.zeros(views, power.shape[1]).index_add_(0, view[own], power),
            torch.bincount(view[own], minlength=views).float(),
        )
        sums.append(sums_of_views(found, search.turning, plan.classes, layout))
    total = ClassSums(*(torch.stack(parts) for parts in zip(*sums, strict=True)))
    averages = solved(total, table_band, plan.mask, within=layout.band)
    return Progress(total, averages, torch.full((images.count, 2), torch.nan), layout.band)


def advanced(
    progress: Progress, plan: Plan, images: ClassImages, rows: Int[Tensor, " rows"], search: Search
) -> tuple[Progress, Expected]:
    """One round with some of the images."""
    table_band = images.layout.band
    if progress.round % RESTART_EVERY == 0 and 0 < progress.round < (1 - SETTLING_ROUNDS) * plan.rounds:
        progress = restarted(progress, plan, table_band)
    centre = progress.centre if progress.centred else None
    found = expect(images, rows, progress.averages, search, table_band=table_band, centre=centre)
    sums = progress.sums.blended(found.sums, max(FRESH, 1 / (progress.round + 1)))
    averages = solved(sums, table_band, plan.mask, within=search.layout.band)
    moved = replace(progress, sums=sums, averages=averages, round=progress.round + 1)
    return replace(moved, band=next_band(moved, plan, images)), found


def next_band(progress: Progress, plan: Plan, images: ClassImages) -> int:
    """The band of the next round: wider where the half-sets agree at the edge of this one."""
    done = progress.round - plan.coarse_rounds
    if done < 0 or done % MARCH_EVERY:
        return progress.band
    agreed = float(pooled_correlation(progress, plan, images)[progress.band - 1 : progress.band + 1].mean())
    wider = max(progress.band + 1, round(GROWTH * progress.band))
    return min(wider, images.layout.band) if agreed > AGREEMENT else progress.band


def pooled_correlation(progress: Progress, plan: Plan, images: ClassImages) -> Float[Tensor, " shells"]:
    """Ring correlation of the halves of all classes, each counted as many times as it has images."""
    halves = half_averages(progress.sums, images.layout.band, plan.mask)
    share = progress.sums.share.sum(dim=0)
    return (ring_correlation(halves, images.layout) * share[:, None]).sum(dim=0) / share.sum()


def restarted(progress: Progress, plan: Plan, table_band: int) -> Progress:
    """Classes that few images want start anew beside the largest ones, each as one of these with noise of its own.

    A class that begins badly never recovers by itself, since every image finds a better one.
    """
    share = progress.sums.share.sum(dim=0).clone()
    wanting = torch.nonzero(share < STARVED * share.mean())[:, 0].tolist()
    if not wanting:
        return progress
    sums = ClassSums(*(values.clone() for values in progress.sums.tensors().values()))
    averages = progress.averages.clone()
    noise = noise_images(progress.sums, table_band, plan.mask, progress.band, plan.generator(progress.round + 1))
    for weak in wanting:
        large = int(share.argmax())
        for values in sums.tensors().values():
            values[:, large] *= 0.5
            values[:, weak] = values[:, large]
        averages[weak] = averages[large] + noise[large] * (1.0 if weak % 2 else -1.0)
        share[large] *= 0.5
        share[weak] = share[large]
    return replace(progress, sums=sums, averages=averages)


def whole_pass(progress: Progress, plan: Plan, images: ClassImages, search: Search) -> tuple[Progress, Expected]:
    """All images at once: averages of nothing else, and where each particle lies."""
    centre = progress.centre if progress.centred else None
    rows = torch.arange(images.count)
    found = expect(images, rows, progress.averages, search, table_band=images.layout.band, centre=centre)
    averages = solved(found.sums, images.layout.band, plan.mask, within=search.layout.band)
    return replace(progress, sums=found.sums, averages=averages), found
