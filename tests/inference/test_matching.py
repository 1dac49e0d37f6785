"""Images against views: scores by hand, posteriors, sums, and what a low volume is made of."""

from __future__ import annotations

import pytest
import torch

from frazil.inference.low_volume import LowBand, resized
from frazil.inference.matching import (
    CoarseImages,
    Views,
    ViewSums,
    disc_of_shifts,
    likeliest_views,
    match_views,
    shell_sums,
    shift_phases,
)
from frazil.numerics.fourier import HalfPlane, half_plane, images_to_coefficients
from frazil.numerics.rotation_grid import half_turned, rotation_grid
from frazil.numerics.rotations import random_rotations
from frazil.numerics.shells import low_pass, shell_correlation
from frazil.numerics.symmetry import point_group

SHIFTS = disc_of_shifts(1.5, 1.0)


def example(box_size: int, images: int = 5, views: int = 7) -> tuple[CoarseImages, Views, HalfPlane]:
    """Images and views of random numbers; transfer functions that depend on the shell, as the scores take for granted."""
    generator = torch.Generator().manual_seed(box_size)
    plane = half_plane(box_size, 4)
    values = torch.randn(images, plane.count, 2, generator=generator)
    by_shell = torch.randn(images, 5, generator=generator)
    slices = 0.3 * torch.randn(views, plane.count, 2, generator=generator)
    slices[:, 0, 1] = 0
    return CoarseImages(values, by_shell[:, plane.shell]), Views(slices), plane


def scores_by_hand(images: CoarseImages, views: Views, plane: HalfPlane) -> torch.Tensor:
    """log p(image | view, shift) / p(image | nothing): (images, shifts, 2 x views), one difference after the other."""
    y = torch.view_as_complex(images.values)
    every = torch.view_as_complex(torch.cat((views.values, views.values * torch.tensor([1.0, -1.0]))).contiguous())
    out = torch.zeros(len(y), len(SHIFTS), len(every))
    for i in range(len(y)):
        for s, (tx, ty) in enumerate(SHIFTS.tolist()):
            phase = torch.exp(2j * torch.pi * (plane.x * tx + plane.y * ty) / plane.box_size)
            for v, view in enumerate(every):
                out[i, s, v] = (
                    y[i].abs().square().sum() - (y[i] * phase - images.transfer[i] * view).abs().square().sum()
                )
    return out


@pytest.mark.parametrize("box_size", [11, 12])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_evidence_and_best_pose_are_those_of_a_plain_loop(box_size: int, temperature: float) -> None:
    images, views, plane = example(box_size)
    scores = scores_by_hand(images, views, plane)
    match, _ = match_views(images, views, SHIFTS, plane, temperature=temperature)
    flat = scores.flatten(1) / temperature
    expected = temperature * (torch.logsumexp(flat, 1) - torch.log(torch.tensor(float(flat.shape[1]))))
    assert torch.allclose(match.evidence, expected, atol=1e-3)
    best = flat.argmax(dim=1)
    assert torch.equal(match.shift * scores.shape[2] + match.pose, best)
    weight = torch.softmax(flat, 1)
    assert torch.allclose(match.perplexity, 1 / weight.square().sum(1), rtol=1e-3)


@pytest.mark.parametrize("box_size", [11, 12])
def test_sums_are_images_weighted_with_their_posterior(box_size: int) -> None:
    images, views, plane = example(box_size)
    count = views.count
    weight = torch.softmax(scores_by_hand(images, views, plane).flatten(1), 1).unflatten(1, (len(SHIFTS), 2 * count))
    _, sums = match_views(images, views, SHIFTS, plane)
    phases = torch.view_as_complex(shift_phases(SHIFTS, plane))
    moved = torch.view_as_complex(images.values)[:, None] * phases * images.transfer[:, None]
    upright = torch.einsum("isv,isk->vk", weight[..., :count].to(moved.dtype), moved)
    turned = torch.einsum("isv,isk->vk", weight[..., count:].to(moved.dtype), moved.conj())
    assert torch.allclose(torch.view_as_complex(sums.numerator), upright + turned, atol=1e-3)
    power = images.transfer.square()[:, [int((plane.shell == s).nonzero()[0]) for s in range(5)]]
    both = weight[..., :count] + weight[..., count:]
    assert torch.allclose(sums.weight, torch.einsum("isv,ik->vk", both, power), atol=1e-3)
    assert torch.allclose(sums.share, both.sum((0, 1)), atol=1e-4)


def test_a_prior_of_views_moves_the_posterior() -> None:
    images, views, plane = example(12)
    favoured = torch.zeros(views.count)
    favoured[3] = 60.0
    _, sums = match_views(images, Views(views.values, favoured), SHIFTS, plane)
    assert int(sums.share.argmax()) == 3 and float(sums.share[3]) > 0.99 * len(images)


@pytest.mark.parametrize("box_size", [11, 12])
def test_the_likeliest_views_are_in_order_with_their_best_shifts(box_size: int) -> None:
    images, views, plane = example(box_size)
    best, place = scores_by_hand(images, views, plane).max(dim=1)
    pose, shift, score = likeliest_views(images, views, SHIFTS, plane, 4)
    order = best.argsort(dim=1, descending=True)[:, :4]
    assert torch.equal(pose, order)
    assert torch.equal(shift, place.gather(1, order))
    assert torch.allclose(score.diff(dim=1), best.gather(1, order).diff(dim=1), atol=1e-3)


def test_shifts_within_a_disc_begin_at_the_centre() -> None:
    shifts = disc_of_shifts(2.0, 1.0)
    assert shifts[0].tolist() == [0, 0] and len(shifts) == 13
    assert float(shifts.norm(dim=1).max()) == 2


@pytest.mark.parametrize("group", ["C1", "D2"])
def test_a_volume_comes_back_from_its_own_views(group: str) -> None:
    generator = torch.Generator().manual_seed(2)
    symmetry = point_group(group)
    low = LowBand.of(6, symmetry, 0.4)
    n = low.box_size
    axis = torch.arange(n) - n // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.tensor([[2.0, 1.0, 0.5], [-1.0, 2.0, 1.5], [0.5, -2.0, -2.5]], dtype=torch.float64)
    blobs = sum(
        torch.exp(-((x - p[0]) ** 2 + (y - p[1]) ** 2 + (z - p[2]) ** 2) / 3).float()
        for g in symmetry
        for p in points @ g.T
    )
    volume = low_pass(blobs, 5.0) * low.mask()
    rotations = random_rotations(400, generator)
    views = low.views(volume[None], rotations)
    weight = torch.ones(400, low.band + 1)
    made = low.volumes(*low.sums(ViewSums(views, weight, torch.ones(400)), rotations, 1))[0]
    assert float(shell_correlation(made, volume)[1:6].min()) > 0.99
    assert float((made * volume).sum() / volume.square().sum()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("box_size", [18, 21])
def test_a_resized_volume_has_the_same_coefficients(box_size: int) -> None:
    volume = low_pass(torch.randn(24, 24, 24, generator=torch.Generator().manual_seed(0)), 6)
    small = resized(volume[None], box_size)[0]
    planes = half_plane(24, 6), half_plane(box_size, 6)
    first, second = (images_to_coefficients(v.sum(0), p) for v, p in zip((volume, small), planes, strict=True))
    inside = planes[0].shell < 6
    assert torch.allclose(first[inside], second[inside], atol=1e-3)


def test_shell_sums_add_each_coefficient_once() -> None:
    plane = half_plane(12, 4)
    values = torch.rand(3, plane.count)
    expected = torch.zeros(3, 5).index_add_(1, plane.shell, values)
    assert torch.allclose(shell_sums(values, plane), expected, atol=1e-5)


def test_a_view_finds_the_pose_it_was_made_in() -> None:
    generator = torch.Generator().manual_seed(7)
    low = LowBand.of(6, point_group("C1"), 0.45)
    volume = low_pass(torch.randn(*[low.box_size] * 3, generator=generator), 5) * low.mask()
    rotations = rotation_grid(1)
    views = Views(low.views(volume[None], rotations))
    chosen = torch.tensor([3, len(rotations) + 40])
    truth = torch.cat((rotations, half_turned(rotations)))[chosen]
    values = low.views(volume[None], truth)
    images = CoarseImages(values, torch.ones(2, low.plane.count))
    match, _ = match_views(images, views, torch.zeros(1, 2), low.plane)
    assert match.pose.tolist() == chosen.tolist()


def test_evidence_of_classes_is_that_of_their_views_alone() -> None:
    images, views, plane = example(12, views=6)
    both = Views(views.values, classes=2)
    match, _ = match_views(images, both, SHIFTS, plane)
    scores = scores_by_hand(images, views, plane).flatten(0, 1).view(5, len(SHIFTS), 2, 2, 3)
    total = torch.log(torch.tensor(float(len(SHIFTS) * 12)))
    expected = torch.logsumexp(scores, (1, 2, 4)) - total
    assert torch.allclose(match.of_class, expected, atol=1e-2)


def test_few_weights_give_the_same_as_all(monkeypatch: pytest.MonkeyPatch) -> None:
    images, views, plane = example(12, images=6, views=40)
    sharp = images.scaled(torch.full((plane.count,), 3.0))
    some, sums = match_views(sharp, views, SHIFTS, plane)
    for few in (1.0, -1.0):
        monkeypatch.setattr("frazil.inference.matching.FEW", few)
        again, others = match_views(sharp, views, SHIFTS, plane)
        assert torch.allclose(again.evidence, some.evidence, atol=1e-3)
        assert torch.equal(again.pose, some.pose) and torch.equal(again.shift, some.shift)
        assert torch.allclose(again.perplexity, some.perplexity, rtol=1e-3)
        assert torch.allclose(others.numerator, sums.numerator, atol=1e-2)
        assert torch.allclose(others.share, sums.share, atol=1e-4)
