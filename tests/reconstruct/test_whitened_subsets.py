"""Whitened images: a subset is a view, and a process may have none of a subset's images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from frazil.data.stack import Particles, read_particles
from frazil.engine.processes import Processes
from frazil.inference.coefficient_posteriors import GaussianPrior
from frazil.numerics.spectrum_table import table_layout, zero_table
from frazil.reconstruct.basis_job import measured_noise
from frazil.reconstruct.expectation import Pass
from frazil.reconstruct.whitened import WhitenedImages

BAND = 8


@pytest.fixture(scope="module")
def particles(small_stack: Path) -> Particles:
    return read_particles(small_stack)


@pytest.fixture(params=["memory", "disk"])
def images(request: pytest.FixtureRequest, particles: Particles, tmp_path: Path) -> WhitenedImages:
    file = tmp_path / "coefficients" if request.param == "disk" else None
    return WhitenedImages(particles, BAND, measured_noise(particles), sign=1, file=file)


def neighbours(images: WhitenedImages, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients and transfer functions of images that stand side by side, as a pass is given them."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    images.each(rows, images.plane.count, 3, lambda some, values, factor: found.append((values, factor)))
    return torch.cat([values for values, _ in found]), torch.cat([factor for _, factor in found])


@pytest.mark.parametrize("every", [1, 3])
def test_a_subset_has_the_coefficients_of_the_images_chosen(images: WhitenedImages, every: int) -> None:
    chosen = torch.arange(len(images)) % every == 0
    rows = torch.nonzero(chosen)[:, 0]
    part = images.subset(chosen)
    assert torch.equal(part.order, images.order[rows])
    assert part.counts == (int((rows < images.counts[0]).sum()), int((rows >= images.counts[0]).sum()))
    expected, factor = images.chosen(rows, images.plane.count)
    for which in (0, 1):
        own = part.own(which)
        assert own == part.half(which)
        values, seen = neighbours(part, own)
        torch.testing.assert_close(values, expected[own.start : own.stop], rtol=0, atol=0)
        torch.testing.assert_close(seen, factor[own.start : own.stop], rtol=0, atol=0)


def test_a_subset_of_a_subset_has_the_coefficients_of_the_images_chosen(images: WhitenedImages) -> None:
    half = images.subset(torch.arange(len(images)) % 2 == 0)
    quarter = half.subset(torch.arange(len(half)) % 2 == 1)
    rows = torch.arange(len(images))[2::4]
    coarse = images.grid.half_plane(BAND // 2).count
    found, expected = quarter.chosen(torch.arange(len(quarter)), coarse), images.chosen(rows, coarse)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_each_image_of_a_subset_is_kept_by_the_process_that_read_it(particles: Particles) -> None:
    noise = measured_noise(particles)
    chosen = torch.arange(particles.count) % 5 == 0
    parts = [WhitenedImages(particles, BAND, noise, sign=1, processes=Processes(rank, 3, 3)) for rank in range(3)]
    for which in (0, 1):
        shares = [part.subset(chosen).own(which) for part in parts]
        whole = parts[0].subset(chosen).half(which)
        assert [row for share in shares for row in share] == list(whole)
    for part in parts:
        own = part.subset(chosen).own(0)
        before = torch.nonzero(chosen)[:, 0][own.start : own.stop]
        assert bool(part.kept(before, 0).all())
        found = neighbours(part.subset(chosen), own)
        torch.testing.assert_close(found, part.chosen(before, part.plane.count), rtol=0, atol=0)


@pytest.mark.parametrize("update", [True, False])
def test_a_pass_over_no_image_finds_nothing(images: WhitenedImages, update: bool) -> None:
    layout = table_layout(BAND)
    table = zero_table(layout, 3) + 1
    plan = Pass(layout, images.plane, GaussianPrior(), update=update, residual=True)
    found = plan.over(images, range(7, 7), table, torch.ones(len(images), 2))
    assert found.first.shape == (0, 3) and found.evidence.shape == (0,) and found.scale.shape == (0, 2)
    for total in (found.gradient, found.second, found.information, found.residual):
        assert total is not None and not bool(total.any())
    if not update:
        assert found.covariance is not None and found.covariance.shape == (0, 2, 2)
    gram, projection = plan.said(images, range(7, 7), table)
    assert gram.shape == (0, 3, 3) and projection.shape == (0, 3)
