"""Volumes from images whose poses nobody knows: random starts of expectation-maximisation, and the choice between them.

A start gives every image of a small batch a random rotation. Each round compares a new batch with views of the volumes all
over a grid of poses (`inference.matching`), and makes the volumes anew of what the images give to each view, averaged with
earlier batches. At first images are believed more than they should be (a temperature below one): that breaks the symmetry of
the first, featureless volumes soon. A start may end in the wrong volume, so there are several, and images that none of them
has seen choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.inference.low_volume import LowBand
from frazil.inference.matching import (
    CoarseImages,
    Match,
    Views,
    ViewSums,
    disc_of_shifts,
    match_views,
    shell_sums,
)
from frazil.numerics.rotation_grid import grid_spacing, in_plane_angles, rotation_grid
from frazil.numerics.rotations import random_rotations
from frazil.physics.grid import Grid

# the temperature of the first round of a start; it rises to one over this share of the rounds
FIRST_TEMPERATURE, WARMING = 0.5, 0.7
# what a new batch counts for at least, against all before it
LEAST_NEW = 0.3
# noise is learnt after this many rounds, and never below this share of the images' power
NOISE_FROM, LEAST_NOISE = 4, 0.1
# a grid is fine enough where no rim of the molecule is farther than this from the nearest view, in units of the resolution
REACH_OF_VIEW = 1.15
# steps between shifts, in units of the resolution
SHIFT_STEP = 0.31
# volumes of a start are taken for signal, mostly: one that is thought poor is damped, tells images less, and becomes poorer
MOSTLY_SIGNAL = 0.9
# the share of a class never falls below this part of an even share
LEAST_SHARE = 0.1
# starts go on as long as the best explains unseen images better by this share of its log evidence, for so many turns at most
CONVERGED, MOST_TURNS = 0.01, 8
# times that priors are turned until each class has its part of the images
BALANCING = 100


@final
@dataclass(frozen=True)
class Search:
    """What stays the same while poses are searched.

    Attributes:
        grid: of the images. symmetry: point group. radius: of the molecule, Å. lowest: coarsest spacing used, Å.
        shift_range: how far off centre particles may be, Å.
    """

    grid: Grid
    symmetry: Float[Tensor, "operations 3 3"]
    radius: float
    lowest: float
    shift_range: float

    def level(self, resolution: float, reach: float = REACH_OF_VIEW) -> Level:
        """The comparison at a resolution in Å, with a view within ``reach`` of it of any rim of the molecule."""
        band = min(max(4, round(self.grid.shell_of(resolution))), self.grid.last_shell)
        low = LowBand.of(band, self.symmetry, min(self.radius / self.grid.extent, 0.48))
        resolution = self.grid.resolution_of(band)
        order = next(p for p in range(1, 9) if self.rim(p) <= reach * resolution)
        shifts = disc_of_shifts(self.shift_range, SHIFT_STEP * resolution)
        return Level(self, low, order, shifts)

    def rim(self, order: int) -> float:
        """How far, in Å, the rim of the molecule may be from where the nearest view of a grid has it."""
        return self.radius * math.radians(grid_spacing(order)) / 2


@final
@dataclass(frozen=True)
class Level:
    """One resolution of the search.

    Attributes:
        low: the volumes' band. order: of the grid of rotations. shifts: tried, Å.
    """

    search: Search
    low: LowBand
    order: int
    shifts: Float[Tensor, "shifts 2"]

    def cut(self, images: CoarseImages) -> CoarseImages:
        """Images with the coefficients of this level alone."""
        count = self.low.plane.count
        return CoarseImages(images.values[:, :count].contiguous(), images.transfer[:, :count].contiguous())

    @property
    def work(self) -> float:
        """Products that it takes to compare one image with views of one volume everywhere."""
        poses = 12 * 4**self.order * in_plane_angles(self.order) / len(self.search.symmetry)
        return poses * len(self.shifts) * self.low.plane.count

    @property
    def resolution(self) -> float:
        """Å."""
        return self.search.grid.resolution_of(self.low.band)

    @property
    def used(self) -> Tensor:
        """1 for shells that are looked at, 0 for those too coarse."""
        first = math.ceil(self.search.grid.extent / self.search.lowest)
        return (torch.arange(self.low.band + 1) >= min(max(first, 1), self.low.band)).to(torch.float32)

    def rotations(self, generator: torch.Generator | None = None) -> Float[Tensor, "rotations 3 3"]:
        """The grid, turned at random where a generator is given."""
        turn = None if generator is None else random_rotations(1, generator)[0]
        return rotation_grid(self.order, self.search.symmetry, turn)

    def cells(self) -> Float[Tensor, "shifts 2"]:
        """The shifts in voxels of the small box."""
        return self.shifts * (self.low.box_size / self.search.grid.extent)

    def shift_prior(self) -> Float[Tensor, " shifts"]:
        """A Gaussian whose standard deviation is half the range."""
        return -2 * (self.shifts.norm(dim=1) / max(self.search.shift_range, 1e-6)).square()

    def match(
        self, guess: Guess, images: CoarseImages, rotations: Float[Tensor, "rotations 3 3"], temperature: float = 1.0
    ) -> tuple[Match, ViewSums, Views]:
        """Compare images of this level with all views of the volumes."""
        gain = (guess.noise.rsqrt() * self.used)[self.low.plane.shell]
        prior = guess.share.log().repeat_interleave(len(rotations))
        views = Views(self.low.views(guess.volumes, rotations), prior, len(guess.volumes))
        match, sums = match_views(
            images.scaled(gain), views, self.cells(), self.low.plane,
            temperature=temperature, shift_prior=self.shift_prior(),
        )  # fmt: skip
        return match, sums, views


@final
@dataclass(frozen=True)
class Guess:
    """Volumes between two rounds.

    Attributes:
        volumes: one for each class. numerator, weight: the sums they are made of, None before the first round.
        noise: power of the noise in each shell, relative to that of whole images. share: of each class.
        rounds: that this level has seen.
    """

    volumes: Float[Tensor, "classes n n n"]
    numerator: Float[Tensor, "classes voxels 2"] | None
    weight: Float[Tensor, "classes voxels"] | None
    noise: Float[Tensor, " shells"]
    share: Float[Tensor, " classes"]
    rounds: int = 0

    def at(self, level: Level) -> Guess:
        """The same volumes at another level, where nothing has been seen yet."""
        noise = torch.ones(level.low.band + 1)
        known = min(len(noise), len(self.noise))
        noise[:known] = self.noise[:known]
        return Guess(level.low.fitted(self.volumes), None, None, noise, self.share)


def random_guess(level: Level, images: CoarseImages, classes: int, count: int, generator: torch.Generator) -> Guess:
    """Volumes of so many images for each class, all in random poses."""
    rows = torch.cat([torch.randperm(len(images), generator=generator)[:count] for _ in range(classes)])
    rotations = random_rotations(len(rows), generator)
    chosen, each = images[rows], len(rows) // classes
    counts = torch.bincount(level.low.plane.shell)
    numerator = chosen.values * chosen.transfer[..., None]
    weight = shell_sums(chosen.transfer.square(), level.low.plane) / counts
    made: list[Tensor] = []
    for k in range(classes):
        own = slice(k * each, (k + 1) * each)
        sums = ViewSums(numerator[own], weight[own], torch.ones(each))
        made.append(level.low.volumes(*level.low.sums(sums, rotations[own], 1), MOSTLY_SIGNAL))
    return Guess(torch.cat(made), None, None, torch.ones(level.low.band + 1), torch.full((classes,), 1 / classes))


def improved(
    level: Level,
    guess: Guess,
    batch: CoarseImages,
    total: int,
    generator: torch.Generator,
    temperature: float,
    balanced: bool = False,
    least_new: float = LEAST_NEW,
) -> tuple[Guess, Match]:
    """One round: a batch of images, of so many in all, against all views, and the volumes made anew.

    Args:
        balanced: the prior of the classes is turned until each gets its part of the images. Without it the class that is
            first to look like anything takes all images, and the others vanish.
        least_new: what the batch counts for at least, against all before it.

    Returns:
        What is made of the images, and how they fitted before.
    """
    rotations = level.rotations(generator)
    classes = len(guess.volumes)
    match, sums, views = level.match(guess, batch, rotations, temperature)
    # as if all images were like these
    worth = total / len(batch)
    new, weight = (worth * part for part in level.low.sums(sums, rotations, classes))
    kept = max(least_new, 1 / (guess.rounds + 1)) if len(batch) < total else 1.0
    if guess.numerator is not None and guess.weight is not None:
        new, weight = (1 - kept) * guess.numerator + kept * new, (1 - kept) * guess.weight + kept * weight
    if balanced:
        share = even_share(match.of_class / temperature, guess.share)
    else:
        found = (match.of_class / temperature).softmax(1).mean(0).clamp(min=LEAST_SHARE / classes)
        share = guess.share + kept * (found / found.sum() - guess.share)
    noise = guess.noise
    if guess.rounds >= NOISE_FROM:
        noise = level_noise(level, batch, views, sums)
    return Guess(level.low.volumes(new, weight, MOSTLY_SIGNAL), new, weight, noise, share, guess.rounds + 1), match


def even_share(
    of_class: Float[Tensor, "images classes"], share: Float[Tensor, " classes"]
) -> Float[Tensor, " classes"]:
    """The prior of classes under which each would have an even part of images, of log evidence under another prior."""
    evidence = of_class.double() - share.double().log()
    prior = share.double().log()
    for _ in range(BALANCING):
        parts = (evidence + prior).softmax(1).mean(0)
        prior = (prior - (len(share) * parts).clamp(min=1e-9).log().clamp(-5, 5)).log_softmax(0)
    return prior.exp().float()


def level_noise(level: Level, images: CoarseImages, views: Views, sums: ViewSums) -> Float[Tensor, " shells"]:
    """What the images' power in each shell has beyond that of the views they are given to."""
    plane = level.low.plane
    counts = torch.bincount(plane.shell)
    total = (shell_sums(images.values.square().sum(-1), plane) / counts).mean(0)
    passed = (shell_sums(images.transfer.square(), plane) / counts).mean(0)
    share = sums.share / sums.share.sum()
    signal = share @ (shell_sums(views.values.square().sum(-1), plane) / counts)
    return torch.maximum(total - passed * signal, LEAST_NOISE * total)


def run_rounds(
    level: Level,
    images: CoarseImages,
    guess: Guess,
    rounds: int,
    count: int,
    generator: torch.Generator,
    *,
    cold: bool,
    advance: Callable[[int], None] = lambda count: None,
) -> Guess:
    """Some rounds at one level.

    Args:
        images: all that may be looked at. count: of them in a round. cold: begin below temperature one.
    """
    for number in range(rounds):
        rows = torch.randperm(len(images), generator=generator)[:count]
        warmth = min(1.0, number / max(1.0, WARMING * rounds)) if cold else 1.0
        temperature = FIRST_TEMPERATURE ** (1 - warmth)
        guess, _ = improved(level, guess, images[rows], len(images), generator, temperature, warmth < 1)
        advance(1)
    return guess


def judged(level: Level, images: CoarseImages, guess: Guess) -> float:
    """Mean log evidence of images at the noise of whole images: comparable between all starts."""
    plain = replace(guess.at(level), noise=torch.ones(level.low.band + 1))
    match, _, _ = level.match(plain, images, level.rotations())
    return float(match.evidence.mean())


def continued(
    guesses: list[Guess],
    evidence: list[float],
    go_on: Callable[[dict[int, Guess], int], dict[int, Guess]],
    judge: Callable[[Guess], float],
) -> tuple[list[Guess], list[float]]:
    """The better half of the starts goes on, then the better half of these, until unseen images are explained no better.

    How many rounds a start needs depends on the molecule: a large one that moves takes three times those of a small one that
    does not, and until then the best start may not be the one that explains most.

    Args:
        go_on: some starts by number, and which turn it is, to the same starts after more rounds. judge: their evidence.
    """
    guesses, evidence = list(guesses), list(evidence)
    order = sorted(range(len(evidence)), key=evidence.__getitem__, reverse=True)
    for turn in range(1, MOST_TURNS + 1):
        before = max(evidence)
        order = order[: math.ceil(len(order) / 2)]
        for number, guess in go_on({number: guesses[number] for number in order}, turn).items():
            guesses[number], evidence[number] = guess, judge(guess)
        order.sort(key=evidence.__getitem__, reverse=True)
        if max(evidence) - before < CONVERGED * abs(before):
            break
    return guesses, evidence
