"""Discrete states found against the true ones: names do not matter, shares do."""

import numpy as np
import pytest

from frazil.evaluate.classes import agreement_figures, best_assignment, cluster

STATE = np.repeat([0, 1, 2, 3], [40, 30, 20, 10])


def test_classes_with_other_names_agree_perfectly():
    figures = agreement_figures(np.array([7, 2, 9, 4])[STATE], STATE)
    assert figures == {
        "adjusted_rand_index": 1.0,
        "adjusted_mutual_information": pytest.approx(1.0),
        "accuracy": 1.0,
        "largest_population_difference": 0.0,
    }


def test_two_of_ten_in_the_wrong_class_cost_accuracy_and_population():
    found = STATE.copy()
    found[:8] = 1  # 8 of 100 particles go from state 0 to class 1
    figures = agreement_figures(found, STATE)
    assert figures["accuracy"] == pytest.approx(0.92)
    assert figures["largest_population_difference"] == pytest.approx(8)
    assert figures["adjusted_rand_index"] < 0.9


def test_the_assignment_is_the_best_one_and_not_the_greedy_one():
    # greedy gives class 0 state 0 (10) and leaves class 1 with state 1 (0); the best gives 9 + 8
    found = np.repeat([0, 0, 1], [10, 9, 8])
    state = np.repeat([0, 1, 0], [10, 9, 8])
    assert best_assignment(found, state) == {0: 1, 1: 0}


def test_a_class_too_many_stands_for_no_state():
    found = np.array([0] * 50 + [1] * 40 + [2] * 10)
    state = np.array([0] * 50 + [1] * 50)
    assert best_assignment(found, state) == {0: 0, 1: 1, 2: -1}
    figures = agreement_figures(found, state)
    assert figures["accuracy"] == pytest.approx(0.9)
    assert figures["largest_population_difference"] == pytest.approx(10)


def test_random_classes_have_no_adjusted_agreement():
    found = np.random.default_rng(0).integers(4, size=4000)
    figures = agreement_figures(found, np.repeat(STATE, 40))
    assert abs(figures["adjusted_rand_index"]) < 0.01 and abs(figures["adjusted_mutual_information"]) < 0.01


def test_clusters_of_uneven_size_are_found_by_the_number_of_states():
    middle = 10.0 * np.eye(4)[STATE]
    latent = middle + np.random.default_rng(1).normal(size=middle.shape)
    assert agreement_figures(cluster(latent, 4), STATE)["adjusted_rand_index"] == 1.0
