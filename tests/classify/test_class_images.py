"""What classification sees of images, and what it makes of sums: noise by group, masks, diameters, centres, thresholds."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from frazil.classify.averages import ClassSums, brightness, half_averages, recentred, ring_correlation, solved
from frazil.classify.diameter import rim
from frazil.classify.expectation import Search, expect
from frazil.classify.images import image_mask, read_images
from frazil.classify.learning import aligned, rows_of_round, turned
from frazil.classify.quality import threshold
from frazil.data.stack import read_particles
from frazil.data.star import read_star, write_star
from frazil.data.table import Block, Table
from frazil.numerics.fourier import images_to_coefficients
from frazil.numerics.masks import soft_circle
from frazil.numerics.turning import spectra_of_images

from .conftest import GRID, Stack, picture, write_pictures


def in_two_groups(folder: Path) -> Path:
    """A stack whose odd images have three times the noise and are an optics group of their own."""
    stack = write_pictures(folder, 200, 5)
    with mrcfile.open(stack.path.with_suffix(".mrcs"), "r+") as file:
        noise = np.random.default_rng(0).normal(0, 0.25 * np.sqrt(8), file.data[1::2].shape)
        file.data[1::2] += noise.astype(np.float32)
    table = read_star(stack.path)
    particles, optics = table["particles"], table["optics"]
    both = {name: [optics.text(name)[0]] * 2 for name in optics.columns}
    both |= {"rlnOpticsGroup": np.array([1, 2]), "rlnOpticsGroupName": ["quiet", "loud"]}
    particles = particles.with_columns({"rlnOpticsGroup": np.arange(200) % 2 + 1})
    write_star(stack.path, Table((Block("optics", both, 2), particles), stack.path))
    return stack.path


def test_each_optics_group_is_divided_by_its_own_noise(tmp_path: Path) -> None:
    particles = read_particles(in_two_groups(tmp_path))
    layout = GRID.half_plane(12)
    images = read_images(particles, layout, image_mask(GRID, 120.0, 10.0), lambda count: None)
    plain = particles.optics
    assert plain is not None
    ratio = (images.coarse.transfer / plain.ctf(GRID, layout).float()).median(dim=1).values
    assert float(ratio[::2].median() / ratio[1::2].median()) == pytest.approx(3.0, rel=0.1)


def test_masked_noise_counts_no_more_than_the_pixels_that_are_left(tmp_path: Path) -> None:
    stack = write_pictures(tmp_path, 200, 6)
    mask = image_mask(GRID, 100.0, 0.0)
    images = read_images(read_particles(stack.path), GRID.half_plane(14), mask, lambda count: None)
    noise = images.coarse.values[torch.from_numpy(stack.kind < 0)][:, images.layout.shell > 4]
    assert float(noise.square().sum(dim=-1).mean()) == pytest.approx(float(mask.square().mean()), rel=0.1)


def test_diameter_ends_where_the_profile_is_flat() -> None:
    radius = torch.arange(40).double()
    assert rim(1 + 2 * (radius < 15).double(), 2.0) == pytest.approx(1.1 * 2 * 15 * 2.0, rel=0.1)


def test_diameter_ends_before_neighbours_begin() -> None:
    radius = torch.arange(40).double()
    profile = 1 + 3 * torch.exp(-(((radius - 12) / 4) ** 2)) + 2 * torch.exp(-(((radius - 28) / 4) ** 2))
    assert rim(profile, 1.0) == pytest.approx(1.1 * 2 * 20, rel=0.1)


@pytest.mark.parametrize("sign", [1, -1])
def test_averages_are_moved_to_the_centre_of_what_is_bright(sign: int) -> None:
    shift = torch.tensor([18.0, -12.0])
    average = sign * picture(1, torch.tensor(0.7), shift)
    moved, steps = recentred(average[None], torch.ones(32, 32), sign)
    heavy = picture(1, torch.tensor(0.7), torch.zeros(2))
    axis = torch.arange(32.0) - 16
    middle = torch.stack(((heavy.sum(dim=0) * axis).sum(), (heavy.sum(dim=1) * axis).sum())) / heavy.sum()
    expected = (shift / GRID.pixel_size + middle).round()
    assert torch.equal(steps[0], expected)
    assert torch.equal(moved[0], torch.roll(average, (-int(expected[1]), -int(expected[0])), dims=(0, 1)))


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_tell_bright_particles_from_dark_ones(sign: int) -> None:
    table = spectra_of_images(sign * soft_circle(32, 7.0, 2.0)[None], 12)
    sums = ClassSums(torch.stack((table, table)), torch.ones(2, 1, table.shape[1]), torch.ones(2, 1))
    assert brightness(sums, 12, 14 / 32) == sign


def test_moved_sums_are_those_of_the_moved_average() -> None:
    image = soft_circle(32, 4.0, 2.0)
    there = spectra_of_images(torch.roll(image, (2, -3), dims=(0, 1))[None], 12)
    sums = ClassSums(torch.stack((there, there)), torch.ones(2, 1, there.shape[1]), torch.ones(2, 1))
    back = sums.moved(torch.tensor([[-3.0, 2.0]]), 12, 32).numerator[0]
    expected = spectra_of_images(image[None], 12)
    assert float((back - expected).norm() / expected.norm()) < 0.05


def test_vectors_turn_from_x_to_y() -> None:
    found = turned(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([90.0, 180.0]))
    assert torch.allclose(found, torch.tensor([[0.0, 1.0], [0.0, -2.0]]), atol=1e-6)


def test_rounds_take_every_particle_once_in_each_epoch() -> None:
    epoch = torch.cat([rows_of_round(number, 25, 10, 3) for number in range(3, 6)])
    assert sorted(epoch.tolist()) == list(range(25))


def test_few_particles_of_one_crowd_are_below_the_threshold() -> None:
    score = 1 + 0.2 * torch.randn(5000, generator=torch.Generator().manual_seed(0))
    assert 0.02 < float((score < threshold(score, None)).float().mean()) < 0.1


def test_threshold_lies_between_two_crowds() -> None:
    generator = torch.Generator().manual_seed(0)
    score = torch.cat((0.1 * torch.randn(300, generator=generator), 1 + 0.1 * torch.randn(700, generator=generator)))
    assert 0.3 < threshold(score, None) < 0.95
    assert float((score < threshold(score, 0.4)).float().mean()) == pytest.approx(0.4, abs=0.002)


def test_weak_particles_are_good_where_junk_stands_apart_from_them() -> None:
    generator = torch.Generator().manual_seed(0)
    # the scores of real particles in ice of several thicknesses, and of empty boxes
    crowds = ((0.02, 0.04, 110), (0.31, 0.06, 215), (0.52, 0.06, 320), (0.77, 0.1, 465))
    score = torch.cat([middle + width * torch.randn(count, generator=generator) for middle, width, count in crowds])
    assert 0.08 < threshold(score, None) < 0.22


def test_mask_leaves_the_corners_outside() -> None:
    mask = image_mask(GRID, 400.0, 50.0)
    assert float(mask[0, 0]) == 0
    assert float(mask[16, 16]) == 1


def test_against_true_pictures_every_image_finds_its_own_and_they_average_to_them(pictures: Stack) -> None:
    mask = image_mask(GRID, 150.0, 10.0)
    layout = GRID.half_plane(13)
    images = read_images(read_particles(pictures.path), layout, mask, lambda count: None)
    true = torch.stack([picture(kind, torch.tensor(0.0), torch.zeros(2)) for kind in (0, 1)])
    search = Search.of(GRID, 13, 13, 150.0, 12.0, 0.5)
    found = expect(images, torch.arange(images.count), true, search, table_band=13)
    where = aligned(found.match, search, torch.zeros(images.count, 2), 2)
    there = pictures.kind >= 0
    assert (where.chosen.numpy() == pictures.kind)[there].mean() > 0.97
    # the first picture is its own half turn
    turn = torch.rad2deg(pictures.angle) - where.angle
    heavy = torch.from_numpy(pictures.kind == 1)
    assert float(((turn[heavy] + 180) % 360 - 180).abs().median()) < 6
    away = (where.shift - pictures.shift).norm(dim=1)
    assert float(away[torch.from_numpy(there)].median()) < 0.6 * GRID.pixel_size
    shells = (layout.shell > 2) & (
        layout.shell < 9
    )  # where the microscope shows something, and the picture holds something
    made = images_to_coefficients(solved(found.sums, 13, mask, within=13), layout)[:, shells]
    expected = images_to_coefficients(true, layout)[:, shells]
    likeness = (made * expected.conj()).real.sum(dim=1) / (made.abs().norm(dim=1) * expected.abs().norm(dim=1))
    assert float(likeness.min()) > 0.93
    curves = ring_correlation(half_averages(found.sums, 13, mask), layout)
    assert float(curves[:, 3:6].min()) > 0.9
    assert float(found.sums.share.sum()) == pytest.approx(images.count, rel=1e-4)
