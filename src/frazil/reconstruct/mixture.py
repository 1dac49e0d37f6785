"""A start of several molecules: classes that are split in two, of which the least needed go, a few times over.

Expectation-maximisation from random volumes ends where some classes hold one molecule each, and others two or three that
share a volume in different poses. From there it hardly gets farther: another class would have to take one of them, and each
has its own. So every class is split into the images that fit it well and those that do not, all are improved together, and of
the classes, then twice too many, those go whose images the others explain almost as well (Ueda et al., Neural Computation 12,
2000). Images are moved to where they fit best meanwhile, so that few shifts need be tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.inference.matching import CoarseImages, disc_of_shifts
from frazil.reconstruct.ab_initio import FIRST_TEMPERATURE, SHIFT_STEP, Guess, Level, improved, random_guess
from frazil.reconstruct.centring import moved

# times that classes are split, rounds before each choice of classes, and after it
SPLITS, ROUNDS_OF_MANY, ROUNDS_OF_CHOSEN = 4, 4, 3
# the temperature of the first round after a split
SOFT = 1.5
# an image's fit is how much more its own class explains than the mean of so many others that explain it best
OTHERS = 3


def rounds_of(rounds: int) -> int:
    """All rounds of a start whose random volumes have so many."""
    return rounds + SPLITS * (ROUNDS_OF_MANY + 1 + ROUNDS_OF_CHOSEN)


def mixture(
    level: Level,
    images: CoarseImages,
    classes: int,
    rounds: int,
    count: int,
    generator: torch.Generator,
    advance: Callable[[int], None] = lambda count: None,
) -> Guess:
    """Volumes of several molecules from nothing.

    Args:
        rounds: of random volumes, before any is split. count: images of each class in them, and in a round of all classes.
    """
    guess, step = random_guess(level, images, classes, count, generator), SHIFT_STEP * level.resolution

    def improve(guess: Guess, temperature: float, balanced: bool) -> tuple[Guess, Tensor]:
        rows = torch.randperm(len(images), generator=generator)[: count * classes]
        guess, match = improved(level, guess, images[rows], len(images), generator, temperature, balanced)
        advance(1)
        return guess, match.of_class

    for number in range(rounds):
        guess, _ = improve(guess, FIRST_TEMPERATURE ** (1 - number / rounds), True)
    for _ in range(SPLITS):
        match, _, _ = level.match(guess, images, level.rotations(generator))
        images = moved(
            images, level.shifts[match.shift], level.low.plane, level.search.grid.extent / level.low.box_size
        )
        level = replace(level, shifts=disc_of_shifts(step, step))
        guess = split(level, guess, images, match.of_class, generator)
        advance(1)
        of_class = torch.empty(0)
        for number in range(ROUNDS_OF_MANY):
            guess, of_class = improve(guess, SOFT if number == 0 else 1.0, number < 2)
        guess = chosen(guess, most_needed(of_class, classes))
        for number in range(ROUNDS_OF_CHOSEN):
            guess, _ = improve(guess, 1.0, number == 0)
    return guess


def split(
    level: Level,
    guess: Guess,
    images: CoarseImages,
    of_class: Float[Tensor, "images classes"],
    generator: torch.Generator,
) -> Guess:
    """Two volumes for each: of the half of its images that it fits better than others do, and of the rest."""
    best = of_class.sort(dim=1, descending=True)
    own, fit = best.indices[:, 0], best.values[:, 0] - best.values[:, 1 : 1 + OTHERS].mean(1)
    volumes: list[Tensor] = []
    for number, volume in enumerate(guess.volumes):
        rows = torch.nonzero(own == number)[:, 0]
        ordered = rows[fit[rows].argsort(descending=True)]
        alone = replace(guess, volumes=volume[None], numerator=None, weight=None, share=torch.ones(1), rounds=0)
        for part in ordered.tensor_split(2):
            made = improved(level, alone, images[part], len(part), generator, 1.0)[0] if len(part) else alone
            volumes.append(made.volumes)
    return Guess(torch.cat(volumes), None, None, guess.noise, guess.share.repeat_interleave(2) / 2)


def most_needed(of_class: Float[Tensor, "images classes"], count: int) -> Int[Tensor, " count"]:
    """So many classes: of all, the one goes first without which images lose the least evidence, then the next.

    Args:
        of_class: log evidence of each image in each class.
    """
    kept = torch.arange(of_class.shape[1])
    while len(kept) > count:
        evidence = of_class[:, kept].double()
        left = [evidence[:, kept != gone].logsumexp(1).sum() for gone in kept]
        kept = kept[kept != kept[int(torch.stack(left).argmax())]]
    return kept


def chosen(guess: Guess, kept: Int[Tensor, " kept"]) -> Guess:
    """Some of the classes."""
    share = guess.share[kept] / guess.share[kept].sum()
    return Guess(guess.volumes[kept], None, None, guess.noise, share)
