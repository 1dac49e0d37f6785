"""Volume principal components, clusters and state maps of known families of maps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from frazil.analyze.landscape import explore, landscape_mask, place_particles, state_maps
from frazil.errors import InputError


def family(amount: np.ndarray, n: int = 16) -> np.ndarray:
    """A constant ball, and a second one whose density is `amount`."""
    x = np.arange(n) - n // 2
    z, y, x = np.meshgrid(x, x, x, indexing="ij")
    fixed = np.exp(-((x + 3) ** 2 + y**2 + z**2) / 4)
    varied = np.exp(-((x - 3) ** 2 + y**2 + z**2) / 4)
    return (fixed + amount[:, None, None, None] * varied).astype(np.float32)


def test_the_mask_is_what_is_dense_in_any_map_and_five_angstrom_around() -> None:
    volumes = family(np.array([0.0, 1.0]))
    threshold = np.mean([np.percentile(v, 99.99) / 2 for v in volumes])
    dense = (volumes[0] >= threshold) | (volumes[1] >= threshold)
    np.testing.assert_array_equal(landscape_mask(volumes, 2.0), binary_dilation(dense, iterations=2))
    np.testing.assert_array_equal(landscape_mask(volumes, 6.0), dense)
    with pytest.raises(InputError, match="the decoded maps hold no density. Give a mask with --landscape.mask"):
        landscape_mask(np.zeros((2, 8, 8, 8)), 1.0)


def test_one_motion_is_one_component_and_its_groups_are_the_states() -> None:
    amount = np.array([0.0, 1.0, 0.05, 0.95, 0.5])
    volumes = family(amount)
    weight = np.array([10, 20, 30, 40, 5])
    found = explore(volumes, np.ones((16,) * 3), weight, 20, 3, seed=0)
    assert found.coordinates.shape == (5, 4) and found.fraction[0] > 0.999
    assert np.corrcoef(found.coordinates[:, 0], amount)[0, 1] == pytest.approx(1, abs=1e-4)
    assert found.state.tolist() == [0, 2, 0, 2, 1] and found.population.tolist() == [40, 5, 60]


def test_what_lies_outside_the_mask_or_below_zero_does_not_count() -> None:
    volumes = family(np.linspace(0, 1, 4))
    noisy = volumes.copy()
    noisy[:, :, :, 0] = np.arange(4)[:, None, None] ** 2 * 10
    noisy[:, :, :, 15] = -(np.arange(4)[:, None, None] ** 2) * 10
    mask = np.ones((16,) * 3)
    mask[:, :, 0] = 0
    clean, found = (explore(v, mask, np.ones(4, int), 2, 2, seed=0) for v in (np.clip(volumes, 0, None), noisy))
    np.testing.assert_allclose(found.coordinates[:, 0], clean.coordinates[:, 0], rtol=0.05, atol=0.05)


def test_state_maps_are_means_and_spreads_weighted_by_particles() -> None:
    volumes = family(np.array([0.0, 0.1, 5.0]))
    found = explore(volumes, np.ones((16,) * 3), np.array([1, 3, 7]), 2, 2, seed=0)
    (mean, spread), (alone, none) = state_maps(volumes, found)
    np.testing.assert_allclose(mean, 0.25 * volumes[0] + 0.75 * volumes[1], atol=1e-6)
    np.testing.assert_allclose(spread, np.sqrt(0.25 * 0.75) * np.abs(volumes[1] - volumes[0]), atol=1e-6)
    np.testing.assert_allclose(alone, volumes[2], atol=1e-6)
    assert np.abs(none).max() < 1e-6


def test_particles_stand_where_their_maps_stand_and_between() -> None:
    points = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]])
    coordinates = points @ np.array([[2.0, 0], [0, 5]])
    latent = np.array([[1.0, 0], [0.5, 0.5], [np.nan, 0], [0.25, 0.25]])
    placed = place_particles(latent, points, coordinates)
    np.testing.assert_allclose(placed[:2], [[2, 0], [1, 2.5]], atol=1e-6)
    assert np.isnan(placed[2]).all() and (placed[3] > 0).all() and (placed[3] < [1, 2.5]).all()
