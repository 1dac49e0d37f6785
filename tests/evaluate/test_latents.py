"""Latent figures are 1 for a faithful coordinate and near 0 for an unrelated one."""

import numpy as np
import pytest

from frazil.evaluate import latents


@pytest.fixture
def coordinate() -> np.ndarray:
    return np.random.default_rng(0).random(600)


def test_a_monotone_curve_in_eight_dimensions_is_a_perfect_one_dimensional_embedding(coordinate):
    curve = np.stack([np.sin(k * coordinate + k) for k in range(1, 4)] + [coordinate**3] * 5, axis=1)
    assert latents.isomap_correlation(curve, coordinate) > 0.99
    assert latents.neighbour_prediction(curve, coordinate) > 0.99


def test_the_first_principal_component_follows_the_widest_direction(coordinate):
    noise = np.random.default_rng(1).normal(size=(600, 3)) * 0.01
    latent = noise + coordinate[:, None] * np.array([1.0, -2.0, 0.5])
    assert latents.pc1_correlation(latent, coordinate) > 0.999
    assert latents.pc1_correlation(np.random.default_rng(2).normal(size=(600, 3)), coordinate) < 0.15


def test_a_circle_is_followed_whatever_its_start_and_sense(coordinate):
    angle = 2 * np.pi * coordinate
    for sense, start in ((1, 0.0), (-1, 2.0)):
        ring = np.stack([np.cos(sense * angle + start), np.sin(sense * angle + start), 0 * angle], axis=1)
        assert latents.circle_correlation(ring, coordinate) > 0.99
        assert latents.neighbour_prediction(ring, coordinate, circular=True) > 0.99
    unrelated = np.random.default_rng(3).normal(size=(600, 2))
    assert latents.circle_correlation(unrelated, coordinate) < 0.15


def test_neighbourhoods_are_shared_wholly_by_copies_and_by_chance_otherwise(coordinate):
    points = np.random.default_rng(4).normal(size=(600, 2))
    assert latents.neighbourhood_similarity(points, points * 3 + 1)[0] == 1.0
    mean, deviation = latents.neighbourhood_similarity(points, coordinate[:, None])
    # chance: k of the 119 others, for k of 2, 4, ... 24
    assert mean == pytest.approx(13 / 119, abs=0.03)
    assert deviation < 0.05


def test_neighbourhood_similarity_is_the_share_counted_by_brute_force():
    generator = np.random.default_rng(5)
    a, b = generator.normal(size=(100, 2)), generator.normal(size=(100, 1))
    shares = []
    for first in range(5):
        p, q = a[first::5], b[first::5]
        for k in range(1, 5):
            for row in range(20):
                near = [np.argsort(np.linalg.norm(s - s[row], axis=1))[1 : k + 1] for s in (p, q)]
                shares.append(len(set(near[0]) & set(near[1])) / k)
    assert latents.neighbourhood_similarity(a, b)[0] == pytest.approx(np.mean(shares))


def test_information_imbalance_is_low_from_the_richer_space_only(coordinate):
    rich = np.stack([coordinate, np.random.default_rng(6).random(600)], axis=1)
    assert latents.information_imbalance(rich, rich) == pytest.approx(2 / 600)
    assert latents.information_imbalance(rich, coordinate[:, None]) < 0.1
    assert latents.information_imbalance(coordinate[:, None], rich) > 0.25
    unrelated = np.random.default_rng(7).random((600, 1))
    assert latents.information_imbalance(unrelated, coordinate[:, None]) == pytest.approx(1, abs=0.1)


def test_figures_fit_the_kind_of_truth(coordinate):
    state = np.zeros(600, dtype=int)
    line = latents.latent_figures(coordinate[:, None], coordinate[:, None], state)
    assert line["spearman_pc1"] > 0.99
    assert line["spearman_isomap"] > 0.99
    plane = np.random.default_rng(10).random((600, 2))
    assert latents.latent_figures(plane, plane, state)["neighbour_prediction_2"] > 0.9
    ring = np.stack([np.cos(2 * np.pi * coordinate), np.sin(2 * np.pi * coordinate)], axis=1)
    assert latents.latent_figures(ring, coordinate[:, None], state, (True,))["circular_correlation"] > 0.99
    assert latents.latent_figures(ring, None, state) == {}


def test_a_latent_that_knows_the_defocus_is_found_out(coordinate):
    generator = np.random.default_rng(11)
    defocus = np.stack([1e4 + 1e4 * generator.random(600)] * 2, axis=1)
    pose = generator.normal(size=(600, 9))
    figures = latents.leakage_figures(defocus[:, :1] / 1e4, {"defocus": defocus, "pose": pose})
    assert figures["imbalance_latent_to_defocus"] < 0.02
    assert figures["imbalance_latent_to_pose"] == pytest.approx(1, abs=0.1)
