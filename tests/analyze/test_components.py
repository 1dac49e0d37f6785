"""Axes of a latent cloud."""

from __future__ import annotations

import numpy as np
import pytest

from frazil.analyze.components import principal_components
from frazil.errors import InputError


def test_first_component_is_the_direction_of_the_cloud(cloud: np.ndarray) -> None:
    components = principal_components(cloud)
    np.testing.assert_allclose(components.axes[0], [0.6, 0, 0.8, 0], atol=0.01)
    assert components.fraction[0] > 0.99
    assert components.fraction.sum() == pytest.approx(1)


def test_components_equal_those_of_scikit_learn(cloud: np.ndarray) -> None:
    from sklearn.decomposition import PCA

    skewed = cloud * np.array([1, 2, 3, 4])
    ours, theirs = principal_components(skewed), PCA().fit(skewed.astype(np.float64))
    np.testing.assert_allclose(np.abs(ours.axes @ theirs.components_.T), np.eye(4), atol=1e-6)
    np.testing.assert_allclose(ours.fraction, theirs.explained_variance_ratio_, rtol=1e-6)


def test_projecting_and_walking_along_a_component_agree(cloud: np.ndarray) -> None:
    components = principal_components(cloud)
    path = components.along(1, 5)
    walked = components.project(path)
    low, high = np.percentile(components.coordinates[:, 1], (5, 95))
    np.testing.assert_allclose(walked[:, 1], np.linspace(low, high, 5), atol=1e-6)
    np.testing.assert_allclose(walked[:, [0, 2, 3]], 0, atol=1e-6)


def test_a_latent_of_one_coordinate_has_one_component() -> None:
    line = np.linspace(0, 1, 50, dtype=np.float32)[:, None]
    components = principal_components(line)
    assert components.axes.tolist() == [[1.0]] and components.fraction.tolist() == [1.0]


def test_a_particle_without_a_finite_latent_harms_no_other(cloud: np.ndarray) -> None:
    broken = cloud.copy()
    broken[17, 2] = np.nan
    components = principal_components(broken)
    assert np.isnan(components.coordinates[17]).any() and np.isfinite(components.along(0, 3)).all()


def test_a_latent_of_nan_only_is_refused() -> None:
    with pytest.raises(InputError, match="0 of 5 latent coordinates are finite, at least two are needed"):
        principal_components(np.full((5, 2), np.nan))
