"""Several molecules from nothing: priors of classes, rounds of few images, centres of images."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from frazil.cli import main
from frazil.data.mrc import read_volume
from frazil.data.stack import read_particles
from frazil.inference.coarse_images import read_coarse
from frazil.inference.matching import CoarseImages
from frazil.numerics.symmetry import point_group
from frazil.physics.grid import Grid
from frazil.reconstruct.ab_initio import REACH_OF_VIEW, Guess, Level, Search, even_share
from frazil.reconstruct.basis_job import measured_noise
from frazil.reconstruct.centring import Centring, moved
from frazil.reconstruct.mixture import batches, followed, mixture


def test_an_even_prior_gives_each_class_its_part() -> None:
    generator = torch.Generator().manual_seed(1)
    share = torch.tensor([0.7, 0.2, 0.1])
    evidence = 3 * torch.randn(300, 3, generator=generator) + torch.tensor([0.0, 5.0, -4.0])
    found = even_share(evidence + share.log(), share)
    parts = (evidence + found.log()).softmax(1).mean(0)
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(parts, torch.full((3,), 1 / 3), atol=1e-3)


def test_all_images_have_their_turn_before_any_comes_again() -> None:
    parts = list(islice(batches(23, 5, torch.Generator().manual_seed(1)), 10))
    for turn in (parts[:5], parts[5:]):
        assert torch.cat(turn).sort().values.tolist() == list(range(23))
    assert {len(part) for part in parts} == {4, 5}
    assert not torch.equal(torch.cat(parts[:5]), torch.cat(parts[5:]))
    assert [len(part) for part in islice(batches(3, 10, torch.Generator()), 2)] == [3, 3]


def read(
    star: Path, resolution: float = 24.0, shift_range: float = 12.0, radius: float = 75.0, reach: float = REACH_OF_VIEW
) -> tuple[Level, CoarseImages]:
    """Images of a stack at a level."""
    particles = read_particles(star)
    search = Search(particles.grid, point_group("C1"), radius, particles.grid.extent, shift_range)
    level = search.level(resolution, reach)
    plane = particles.grid.half_plane(level.low.band)
    rows = torch.arange(particles.count)
    return level, read_coarse(particles, particles.grid, plane, measured_noise(particles), rows)


def displaced(star: Path, level: Level, images: CoarseImages, reach: float) -> tuple[CoarseImages, Tensor]:
    """Images moved by up to so many Å on each axis, and how far their particles are off centre then."""
    pose = read_particles(star).pose
    assert pose is not None
    off = 2 * reach * torch.rand(len(images), 2, generator=torch.Generator().manual_seed(3)) - reach
    pixel_size = level.search.grid.extent / level.low.box_size
    return moved(images, -off, level.low.plane, pixel_size), pose.shift + off


def true_guess(star: Path, level: Level) -> Guess:
    """The molecule itself, as one class."""
    path = next((star.parent / "truth").glob("**/*.mrc"))
    volume = level.low.fitted(read_volume(path)[0][None].float())
    return Guess(volume, None, None, torch.ones(level.low.band + 1), torch.ones(1))


def spread(shifts: Tensor) -> float:
    """Root mean square."""
    return float(shifts.square().mean().sqrt())


def test_a_start_of_several_molecules_tells_of_every_round(rigid_stack: Path) -> None:
    level, images = read(rigid_stack, 40.0)
    told: list[int] = []
    guess = mixture(level, images, 2, 6, 100, torch.Generator().manual_seed(1), told.append)
    assert len(guess.volumes) == 2
    assert sum(told) == 6
    _, shift = followed(level, images, guess, 4, 100, torch.Generator().manual_seed(1), told.append)
    assert shift.shape == (500, 2)
    assert sum(told) == 10


def test_images_moved_back_by_their_shifts_are_those_without(rigid_stack: Path) -> None:
    level, images = read(rigid_stack)
    grid = Grid(level.low.box_size, level.search.grid.extent / level.low.box_size)
    shifts = torch.linspace(-9, 9, 2 * len(images)).view(-1, 2)
    plane = level.low.plane
    again = moved(moved(images, shifts, plane, grid.pixel_size), -shifts, plane, grid.pixel_size)
    assert torch.allclose(again.values, images.values, atol=1e-3)


def test_images_are_centred_on_volumes(rigid_stack: Path) -> None:
    level, images = read(rigid_stack, 40.0, shift_range=30.0)
    images, off = displaced(rigid_stack, level, images, 18.0)
    left = off - Centring(level, true_guess(rigid_stack, level)).centres(images)
    assert spread(left) < 0.5 * spread(off)


def test_images_move_to_where_they_fit_best_while_they_are_followed(rigid_stack: Path) -> None:
    level, images = read(rigid_stack)
    images, off = displaced(rigid_stack, level, images, 9.0)
    before = images.values.clone()
    _, shift = followed(level, images, true_guess(rigid_stack, level), 40, 150, torch.Generator().manual_seed(2))
    assert spread(off - shift) < 0.6 * spread(off)
    again = moved(images, -shift, level.low.plane, level.search.grid.extent / level.low.box_size)
    assert torch.allclose(again.values, before, atol=1e-2)


def test_two_molecules_are_told_apart_from_nothing(tmp_path: Path) -> None:
    flags = ["--set", "mix", "--states", "2", "--count", "300", "--box", "32", "--pixel-size", "10", "--snr", "0.5"]
    flags += ["--shift-range", "10", "--seed", "2", "--out", str(tmp_path)]
    assert main(["simulate", "particles", *flags]) == 0
    star = tmp_path / "outputs" / "particles.star"
    coarse, images = read(star, 40.0, radius=90.0, reach=0.7)
    generator = torch.Generator().manual_seed(1)
    guess = mixture(coarse, images, 2, 30, 60, generator)
    fine, images = read(star, 30.0, radius=90.0, reach=0.7)
    guess, _ = followed(fine, images, guess.at(fine), 15, 60, generator)
    match, _, _ = fine.match(guess, images, fine.rotations())
    right = match.of_class.argmax(1).numpy() == np.load(star.parent / "truth" / "state.npy")
    assert max(right.mean(), 1 - right.mean()) > 0.9
