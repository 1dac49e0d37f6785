"""States are the groups that are there, whatever finds them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from frazil.analyze.clustering import Method, States, find_states
from frazil.analyze.components import principal_components
from frazil.errors import InputError


def states_of(latent: np.ndarray, method: Method = "kmeans", count: int | None = 3, seed: int = 0) -> States:
    return find_states(latent, principal_components(latent), method, count, 0.2, seed)


@pytest.mark.parametrize(("method", "count"), [("kmeans", 3), ("gmm", 3), ("gmm", None), ("leiden", None)])
def test_states_are_the_groups_numbered_along_the_first_component(cloud: np.ndarray, method: Method, count) -> None:
    if method == "leiden":
        pytest.importorskip("graspologic_native")
    states = states_of(cloud, method, count)
    np.testing.assert_array_equal(states.state, np.repeat([0, 1, 2], [40, 60, 100]))
    assert states.counts.tolist() == [40, 60, 100]
    np.testing.assert_array_equal(cloud[states.rows], states.centres)
    np.testing.assert_array_equal(states.state[states.rows], np.arange(3))


def test_centres_are_particles_of_their_own_state(cloud: np.ndarray) -> None:
    states = states_of(cloud, count=7)
    np.testing.assert_array_equal(cloud[states.rows], states.centres)
    np.testing.assert_array_equal(states.state[states.rows], np.arange(7))


def test_the_same_seed_gives_the_same_states(cloud: np.ndarray) -> None:
    first, second = (states_of(cloud, count=8, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.state, second.state)
    np.testing.assert_array_equal(first.rows, second.rows)


def test_the_number_of_gaussians_follows_from_the_cloud() -> None:
    generator = np.random.default_rng(0)
    one = generator.normal(size=(300, 2)) * [3, 1]
    assert len(states_of(one, "gmm", None).rows) == 1
    four = np.concatenate([one[:150] + [x, y] for x in (-20, 20) for y in (-8, 8)])
    found = states_of(four, "gmm", None)
    assert len(found.rows) == 4 and found.counts.tolist() == [150] * 4
    assert "4 Gaussians, their number chosen by the Bayesian" in found.method


def test_a_mixture_says_how_sure_it_is(cloud: np.ndarray) -> None:
    broken = cloud.copy()
    broken[17, 2] = np.nan
    states = states_of(broken, "gmm", 3)
    assert states.probability is not None
    np.testing.assert_allclose(np.delete(states.probability, 17, axis=0).sum(axis=1), 1)
    np.testing.assert_array_equal(np.delete(states.probability, 17, 0).argmax(1), np.delete(states.state, 17))
    assert np.isnan(states.probability[17]).all()


def test_communities_follow_a_ring_that_no_centre_describes() -> None:
    pytest.importorskip("graspologic_native")
    turn = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    ring = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    both = np.concatenate([5 * ring, 0.2 * ring])
    found = find_states(both, principal_components(both), "leiden", None, 0.001, 0)
    assert len(found.rows) == 2, "a ring and its middle: k-means cannot tell them apart"
    assert len(set(found.state[:300])) == 1 and len(set(found.state[300:])) == 1


def test_a_higher_resolution_gives_more_communities(cloud: np.ndarray) -> None:
    pytest.importorskip("graspologic_native")
    components = principal_components(cloud)
    few, many = (len(find_states(cloud, components, "leiden", None, r, 0).rows) for r in (0.2, 5.0))
    assert few == 3 < many


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_a_particle_without_a_finite_latent_is_in_no_state(cloud: np.ndarray, method: Method) -> None:
    broken = cloud.copy()
    broken[17, 2] = np.nan
    states = states_of(broken, method)
    assert states.state[17] == -1 and (np.delete(states.state, 17) >= 0).all()


def test_a_latent_of_one_coordinate_is_divided_too() -> None:
    line = np.linspace(0, 1, 50, dtype=np.float32)[:, None]
    assert states_of(line, count=5).counts.sum() == states_of(line, "gmm", None).counts.sum() == 50


def test_without_a_number_there_are_never_more_states_than_particles() -> None:
    assert len(states_of(np.arange(4.0)[:, None], "kmeans", None).rows) == 4


def test_more_clusters_than_conformations_is_refused() -> None:
    latent = np.repeat(np.arange(3.0), 5)[:, None]
    for method in ("kmeans", "gmm"):
        with pytest.raises(InputError, match="--clusters: 4 clusters were asked of 3 different latent coordinates"):
            states_of(latent, method, 4)


def test_a_number_given_to_leiden_is_refused_and_so_is_a_missing_library(cloud, monkeypatch) -> None:
    with pytest.raises(InputError, match="--clusters: leiden finds the number of states itself. Give --resolution"):
        states_of(cloud, "leiden", 3)
    monkeypatch.setitem(sys.modules, "graspologic_native", None)
    with pytest.raises(InputError, match=r"--method leiden: .* is not installed. Pip install 'frazil\[leiden\]', or"):
        states_of(cloud, "leiden", None)
