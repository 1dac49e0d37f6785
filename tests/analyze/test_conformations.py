"""Axes, states and paths of a latent cloud."""

from __future__ import annotations

import numpy as np
import pytest

from frazil.analyze import conformations
from frazil.errors import InputError


@pytest.fixture
def cloud() -> np.ndarray:
    """Three tight, far-apart groups of 40, 60 and 100 particles along a tilted line in four dimensions."""
    generator = np.random.default_rng(3)
    direction = np.array([3.0, 0, 4, 0]) / 5
    place = np.repeat([-10.0, 0.0, 10.0], [40, 60, 100])
    return (place[:, None] * direction + 0.1 * generator.normal(size=(200, 4)) + 7).astype(np.float32)


def test_first_component_is_the_direction_of_the_cloud(cloud: np.ndarray) -> None:
    components = conformations.principal_components(cloud)
    np.testing.assert_allclose(components.axes[0], [0.6, 0, 0.8, 0], atol=0.01)
    assert components.fraction[0] > 0.99
    assert components.fraction.sum() == pytest.approx(1)


def test_components_equal_those_of_scikit_learn(cloud: np.ndarray) -> None:
    from sklearn.decomposition import PCA

    skewed = cloud * np.array([1, 2, 3, 4])
    ours, theirs = conformations.principal_components(skewed), PCA().fit(skewed.astype(np.float64))
    np.testing.assert_allclose(np.abs(ours.axes @ theirs.components_.T), np.eye(4), atol=1e-6)
    np.testing.assert_allclose(ours.fraction, theirs.explained_variance_ratio_, rtol=1e-6)


def test_projecting_and_walking_along_a_component_agree(cloud: np.ndarray) -> None:
    components = conformations.principal_components(cloud)
    path = components.along(1, 5)
    walked = components.project(path)
    low, high = np.percentile(components.coordinates[:, 1], (5, 95))
    np.testing.assert_allclose(walked[:, 1], np.linspace(low, high, 5), atol=1e-6)
    np.testing.assert_allclose(walked[:, [0, 2, 3]], 0, atol=1e-6)


def test_states_are_the_groups_numbered_along_the_first_component(cloud: np.ndarray) -> None:
    components = conformations.principal_components(cloud)
    states = conformations.cluster(cloud, components, 3, seed=0)
    np.testing.assert_array_equal(states.state, np.repeat([0, 1, 2], [40, 60, 100]))
    assert states.counts.tolist() == [40, 60, 100]


def test_centres_are_particles_of_their_own_state(cloud: np.ndarray) -> None:
    components = conformations.principal_components(cloud)
    states = conformations.cluster(cloud, components, 7, seed=0)
    np.testing.assert_array_equal(cloud[states.rows], states.centres)
    np.testing.assert_array_equal(states.state[states.rows], np.arange(7))


def test_the_same_seed_gives_the_same_states(cloud: np.ndarray) -> None:
    components = conformations.principal_components(cloud)
    first, second = (conformations.cluster(cloud, components, 8, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.state, second.state)
    np.testing.assert_array_equal(first.rows, second.rows)


def test_a_particle_without_a_finite_latent_is_in_no_state_and_harms_no_other(cloud: np.ndarray) -> None:
    broken = cloud.copy()
    broken[17, 2] = np.nan
    components = conformations.principal_components(broken)
    states = conformations.cluster(broken, components, 3, seed=0)
    assert states.state[17] == -1 and (np.delete(states.state, 17) >= 0).all()
    assert np.isnan(components.coordinates[17]).any() and np.isfinite(components.along(0, 3)).all()


def test_a_latent_of_one_coordinate_has_one_component() -> None:
    line = np.linspace(0, 1, 50, dtype=np.float32)[:, None]
    components = conformations.principal_components(line)
    assert components.axes.tolist() == [[1.0]] and components.fraction.tolist() == [1.0]
    assert conformations.cluster(line, components, 5, seed=0).counts.sum() == 50


def test_more_clusters_than_conformations_is_refused() -> None:
    latent = np.repeat(np.arange(3.0), 5)[:, None]
    components = conformations.principal_components(latent)
    with pytest.raises(
        InputError, match="--clusters: 4 clusters were asked of 3 different latent coordinates. Give at"
    ):
        conformations.cluster(latent, components, 4, seed=0)


def test_a_latent_of_nan_only_is_refused() -> None:
    with pytest.raises(InputError, match="0 of 5 latent coordinates are finite, at least two are needed"):
        conformations.principal_components(np.full((5, 2), np.nan))
