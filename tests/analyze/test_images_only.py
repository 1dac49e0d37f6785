"""Maps from images alone: simulated images of a known motion give the states that were put in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from frazil.analyze.images_only import kernel_weights, map_from_images, posterior_distance
from frazil.data.stack import read_particles, write_new_particles_star
from frazil.errors import InputError
from frazil.inference.half_map import HalfMap


def motion(halves: tuple[HalfMap, HalfMap], other: tuple[HalfMap, HalfMap]) -> torch.Tensor:
    return (halves[0] + halves[1]).volume() - (other[0] + other[1]).volume()


def test_maps_at_two_points_differ_by_the_motion_between_them(imaged, straight) -> None:
    particles, latent = imaged
    covariance = np.full((len(latent), 1, 1), 0.01)
    found = []
    for place in (-0.7, 0.7):
        squared = posterior_distance(latent, covariance, np.array([place]))
        *halves, count = map_from_images(particles, squared, straight.grid, "C1", None)
        assert 100 <= count < len(latent), "images of all conformations would blur the motion"
        found.append(halves)
    change = motion(found[1], found[0])
    expected = straight.basis[0]
    match = torch.nn.functional.cosine_similarity(change.flatten(), expected.flatten(), dim=0)
    assert float(match) > 0.8
    size = float((change * expected).sum() / (expected * expected).sum())
    assert size == pytest.approx(1.4, rel=0.3)


def test_halves_are_of_different_images_and_the_number_may_be_given(imaged, straight) -> None:
    particles, latent = imaged
    squared = posterior_distance(latent, None, np.zeros(1))
    read = []
    first, second, count = map_from_images(particles, squared, straight.grid, "C1", 200, advance=read.append)
    assert count == 200 and sum(read) in (198, 199), "the image at the kernel's edge has weight 0 and is not read"
    assert not torch.equal(first.sums, second.sums)


def test_distances_are_those_of_the_posterior() -> None:
    latent = np.array([[0.0, 0], [1, 0], [0, 2], [np.nan, 0]])
    narrow, wide = 0.25 * np.eye(2), 4.0 * np.eye(2)
    found = posterior_distance(latent, np.stack([narrow, narrow, wide, narrow]), np.zeros(2))
    volume = np.linalg.slogdet(wide)[1] - np.linalg.slogdet(narrow)[1]
    np.testing.assert_allclose(found[:3], [0, 4, 1 + volume], atol=1e-4)
    assert np.isinf(found[3])


def test_without_covariances_distances_are_in_spreads_of_the_cloud() -> None:
    latent = np.random.default_rng(0).normal(size=(500, 2)) * [3, 0.5]
    found = posterior_distance(latent, None, latent.mean(axis=0))
    assert found.mean() == pytest.approx(2, rel=0.01)  # as many as there are coordinates


def test_weights_fall_to_zero_at_the_last_image_of_the_kernel() -> None:
    weight = kernel_weights(np.array([0.0, 1, 2, 4, 9, np.inf]), 4)
    np.testing.assert_allclose(weight, [1, 0.75, 0.5, 0, 0, 0])


def test_particles_without_poses_or_half_sets_are_refused(imaged, straight, tmp_path: Path) -> None:
    particles, _ = imaged
    write_new_particles_star(tmp_path / "bare.star", tmp_path / "moving.mrcs", straight.grid, count=900)
    squared = np.zeros(900)
    with pytest.raises(InputError, match="bare.star: the particles of this job have no poses.*Give a job whose"):
        map_from_images(read_particles(tmp_path / "bare.star"), squared, straight.grid, "C1", None)
    write_new_particles_star(tmp_path / "whole.star", tmp_path / "moving.mrcs", straight.grid, pose=particles.pose)
    with pytest.raises(InputError, match="have no half-sets"):
        map_from_images(read_particles(tmp_path / "whole.star"), squared, straight.grid, "C1", None)
    squared[5:] = np.inf
    with pytest.raises(InputError, match="5 images have a latent, at least 10 are needed"):
        map_from_images(particles, squared, straight.grid, "C1", None)
