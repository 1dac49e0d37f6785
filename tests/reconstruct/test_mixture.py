"""Several molecules from nothing: priors of classes, the choice among too many, halves of a class, centres of images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from frazil.data.stack import read_particles
from frazil.inference.coarse_images import read_coarse
from frazil.inference.matching import CoarseImages
from frazil.numerics.symmetry import point_group
from frazil.physics.grid import Grid
from frazil.reconstruct.ab_initio import Guess, Level, Search, even_share, random_guess
from frazil.reconstruct.basis_job import measured_noise
from frazil.reconstruct.centring import Centring, moved
from frazil.reconstruct.mixture import chosen, mixture, most_needed, rounds_of, split


def test_an_even_prior_gives_each_class_its_part() -> None:
    generator = torch.Generator().manual_seed(1)
    share = torch.tensor([0.7, 0.2, 0.1])
    evidence = 3 * torch.randn(300, 3, generator=generator) + torch.tensor([0.0, 5.0, -4.0])
    found = even_share(evidence + share.log(), share)
    parts = (evidence + found.log()).softmax(1).mean(0)
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(parts, torch.full((3,), 1 / 3), atol=1e-3)


def test_of_two_classes_alike_one_goes_first() -> None:
    # classes 0 and 2 explain the same images, 1 and 3 images that no other does
    evidence = torch.zeros(40, 4)
    evidence[:20, 0], evidence[:20, 2] = 30.0, 29.0
    evidence[20:30, 1], evidence[30:, 3] = 10.0, 9.0
    assert most_needed(evidence, 3).tolist() == [0, 1, 3]
    assert most_needed(evidence, 1).tolist() == [0]
    assert most_needed(evidence, 4).tolist() == [0, 1, 2, 3]


def read(star: Path, resolution: float = 24.0, shift_range: float = 12.0) -> tuple[Level, CoarseImages]:
    """Images of a stack at a level."""
    particles = read_particles(star)
    search = Search(particles.grid, point_group("C1"), 75.0, particles.grid.extent, shift_range)
    level = search.level(resolution)
    plane = particles.grid.half_plane(level.low.band)
    rows = torch.arange(particles.count)
    return level, read_coarse(particles, particles.grid, plane, measured_noise(particles), rows)


def test_a_split_makes_two_volumes_of_each_and_a_choice_takes_some(rigid_stack: Path) -> None:
    level, images = read(rigid_stack)
    generator = torch.Generator().manual_seed(1)
    guess = random_guess(level, images, 3, 100, generator)
    of_class = level.match(guess, images, level.rotations())[0].of_class
    halves = split(level, guess, images, of_class, generator)
    assert len(halves.volumes) == 6
    assert float(halves.share.sum()) == pytest.approx(1, abs=1e-5)
    power = halves.volumes.square().sum((1, 2, 3))
    assert float(power.min()) > 0
    some = chosen(halves, torch.tensor([1, 4]))
    assert torch.equal(some.volumes, halves.volumes[[1, 4]])
    assert float(some.share.sum()) == pytest.approx(1, abs=1e-5)


def test_a_start_of_several_molecules_tells_of_every_round(rigid_stack: Path) -> None:
    level, images = read(rigid_stack, 40.0)
    told: list[int] = []
    guess = mixture(level, images, 2, 3, 50, torch.Generator().manual_seed(1), told.append)
    assert isinstance(guess, Guess)
    assert len(guess.volumes) == 2
    assert sum(told) == rounds_of(3)


def test_images_moved_back_by_their_shifts_are_those_without(rigid_stack: Path) -> None:
    level, images = read(rigid_stack)
    grid = Grid(level.low.box_size, level.search.grid.extent / level.low.box_size)
    shifts = torch.linspace(-9, 9, 2 * len(images)).view(-1, 2)
    plane = level.low.plane
    again = moved(moved(images, shifts, plane, grid.pixel_size), -shifts, plane, grid.pixel_size)
    assert torch.allclose(again.values, images.values, atol=1e-3)


def test_images_are_centred_before_anything_is_known_of_the_molecule(rigid_stack: Path) -> None:
    level, images = read(rigid_stack, shift_range=30.0)
    generator = torch.Generator().manual_seed(3)
    pose = read_particles(rigid_stack).pose
    assert pose is not None
    off = 36 * torch.rand(len(images), 2, generator=generator) - 18
    pixel_size = level.search.grid.extent / level.low.box_size
    displaced = moved(images, -off, level.low.plane, pixel_size)
    centring = Centring.learnt(level.search, displaced, generator)
    off = off + pose.shift
    left = off - centring.centres(displaced)
    assert float(left.square().mean().sqrt()) < 0.6 * float(off.square().mean().sqrt())
