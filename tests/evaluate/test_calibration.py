"""A right covariance covers nine in ten, a wrong one covers what theory says it does."""

import numpy as np
import pytest
from scipy import stats

from frazil.evaluate.calibration import along_truth, in_latent

# a 90 % interval that is half as wide as it should be
HALF = 2 * stats.norm.cdf(stats.norm.ppf(0.95) / 2) - 1


def posterior(seed: int = 0, count: int = 3000, circular: bool = False):
    """(posterior means, covariances, true coordinates): z lies on a line or circle in three dimensions, Gaussian prior."""
    random = np.random.default_rng(seed)
    if circular:
        truth = random.random(count)
        angle = 2 * np.pi * truth
        true_latent = 3 * np.c_[np.cos(angle), np.sin(angle), np.zeros(count)]
        covariance = np.diag([0.04, 0.04, 0.04])
        latent = true_latent + random.multivariate_normal(np.zeros(3), covariance, count)
        return latent, np.broadcast_to(covariance, (count, 3, 3)), truth
    direction, noise = np.array([0.8, 0.6, 0.0]), np.diag([0.1, 0.3, 0.2])
    truth = random.normal(size=count)
    observed = truth[:, None] * direction + random.multivariate_normal(np.zeros(3), noise, count)
    prior = np.outer(direction, direction) + 1e-4 * np.eye(3)
    covariance = np.linalg.inv(np.linalg.inv(prior) + np.linalg.inv(noise))
    latent = observed @ np.linalg.inv(noise) @ covariance
    return latent, np.broadcast_to(covariance, (count, 3, 3)), truth


@pytest.mark.parametrize("circular", [False, True])
def test_a_right_covariance_covers_nine_in_ten(circular):
    figures = along_truth(*posterior(circular=circular), circular=circular)
    assert figures["coverage_90"] == pytest.approx(0.9, abs=0.025)
    assert figures["stated_deviation"] == pytest.approx(figures["rms_error"], rel=0.15)


def test_a_deviation_half_as_large_covers_as_little_as_theory_says():
    latent, covariance, truth = posterior()
    assert along_truth(latent, covariance / 4, truth)["coverage_90"] == pytest.approx(HALF, abs=0.04)


def test_a_latent_that_knows_nothing_does_not_pass_for_certain():
    random = np.random.default_rng(2)
    latent, truth = random.normal(size=(1000, 2)), random.normal(size=1000)
    figures = along_truth(latent, np.broadcast_to(1e-6 * np.eye(2), (1000, 2, 2)), truth)
    assert figures["coverage_90"] < 0.5
    assert figures["rms_error"] == pytest.approx(1, abs=0.15)


def test_known_latents_are_covered_each_and_jointly():
    random = np.random.default_rng(3)
    factor = random.normal(size=(4000, 3, 3))
    covariance = factor @ factor.transpose(0, 2, 1) + 0.1 * np.eye(3)
    error = np.einsum("nij,nj->ni", np.linalg.cholesky(covariance), random.normal(size=(4000, 3)))
    figures = in_latent(np.zeros((4000, 3)), covariance, error)
    assert figures["coverage_90_each"] == pytest.approx(0.9, abs=0.01)
    assert figures["coverage_90_joint"] == pytest.approx(0.9, abs=0.02)
    assert figures["mean_square"] == pytest.approx(1, abs=0.05)
    assert in_latent(np.zeros((4000, 3)), covariance / 4, error)["mean_square"] == pytest.approx(4, abs=0.2)
