"""A start of several molecules: rounds of few images that remember little, coarse with all shifts, then finer nearby.

Expectation-maximisation of many images at once soon stands still: an image fits best the class whose volume it is part of,
and stays there. So a round looks at few images of each class, and what earlier rounds found counts for little: volumes are
made of other images than those that are compared with them. Then molecules that share a class part, slowly but surely, and
noise in the choice of images leads out of places where all would get stuck. Classes get even parts all along: else the first
that looks like anything takes all images.

Where particles are is found along with the classes, first among all shifts; then each image is moved to where it fits best,
whenever it is looked at, and a few shifts nearby are enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.inference.matching import CoarseImages
from frazil.reconstruct.ab_initio import SHIFT_STEP, Guess, Level, improved, random_guess
from frazil.reconstruct.centring import moved

# images of each class that the first, random volumes are made of
FIRST_IMAGES = 125
# what the images of a round count for at least, against all before them
LEAST_NEW = 0.4


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Int[Tensor, " size"]]:
    """Rows at random, about so many at once, without end: all have their turn before any comes again."""
    while True:
        yield from torch.randperm(count, generator=generator).tensor_split(max(1, round(count / size)))


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
        level: with all shifts. count: images in a round, of all classes.
    """
    guess = random_guess(level, images, classes, FIRST_IMAGES, generator)
    for rows in islice(batches(len(images), count, generator), rounds):
        guess, _ = improved(level, guess, images[rows], len(images), generator, 1.0, True, LEAST_NEW)
        advance(1)
    return guess


def followed(
    level: Level,
    images: CoarseImages,
    guess: Guess,
    rounds: int,
    count: int,
    generator: torch.Generator,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[Guess, Float[Tensor, "images 2"]]:
    """More rounds, with shifts nearby alone, in which images move to where they fit best.

    Args:
        level: whose shifts are not used. images: of this level, changed: where they fit best is their new centre.
        guess: volumes of this level.

    Returns:
        The volumes, and how far off centre, in Å, the particles were found.
    """
    shift = torch.zeros(len(images), 2)
    pixel_size = level.search.grid.extent / level.low.box_size
    for rows in islice(batches(len(images), count, generator), rounds):
        near = replace(level, shifts=_nearby(SHIFT_STEP * level.resolution, generator))
        batch = images[rows]
        guess, match = improved(near, guess, batch, len(images), generator, 1.0, True, LEAST_NEW)
        step = near.shifts[match.shift]
        images.values[rows] = moved(batch, step, level.low.plane, pixel_size).values
        shift[rows] += step
        advance(1)
    return guess, shift


def _nearby(step: float, generator: torch.Generator) -> Float[Tensor, "shifts 2"]:
    """No shift, and two opposite ones of up to a step: others each time, so that no lattice binds images."""
    length, angle = torch.rand(2, generator=generator).tolist()
    length, angle = step * (1 + length) / 2, math.tau * angle
    x, y = length * math.cos(angle), length * math.sin(angle)
    return torch.tensor([[0.0, 0.0], [x, y], [-x, -y]])
