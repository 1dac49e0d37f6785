"""Posteriors of basis weights against sums over a fine grid of weights."""

import math

import pytest
import torch

from frazil.inference.coefficient_posteriors import GaussianPrior, LandmarkPrior, MixturePrior

STEPS = 161


def what_images_say(count: int = 3, basis: int = 2):
    generator = torch.Generator().manual_seed(5)
    slices = torch.randn(count, 12, basis + 1, generator=generator, dtype=torch.float64)
    images = torch.randn(count, 12, generator=generator, dtype=torch.float64)
    return slices.mT @ slices, (slices.mT @ images[..., None])[..., 0]


def brute_force(gram, projection, log_prior):
    """Moments and evidence by summing over a grid of two weights."""
    axis = torch.linspace(-7, 7, STEPS, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    weights = torch.cat((torch.ones(len(grid), 1, dtype=torch.float64), grid), 1)
    log = projection @ weights.T - 0.5 * torch.einsum("gk,bkl,gl->bg", weights, gram, weights) + log_prior(grid)
    evidence = torch.logsumexp(log, 1) + 2 * math.log(14 / (STEPS - 1))
    share = torch.softmax(log, 1)
    return share @ weights, torch.einsum("bg,gk,gl->bkl", share, weights, weights), evidence


def normal(grid, mean, covariance):
    gap = grid - mean
    quadratic = (gap @ torch.linalg.inv(covariance) * gap).sum(-1)
    return -0.5 * quadratic - 0.5 * torch.linalg.det(2 * math.pi * covariance).log()


def assert_moments(found, expected):
    first, second, evidence = expected
    torch.testing.assert_close(found.first, first, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.second, second, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.evidence, evidence, atol=1e-4, rtol=1e-4)


def test_gaussian_posterior_is_the_sum_over_all_weights():
    gram, projection = what_images_say()
    unit = torch.eye(2, dtype=torch.float64)
    expected = brute_force(gram, projection, lambda grid: normal(grid, torch.zeros(2, dtype=torch.float64), unit))
    assert_moments(GaussianPrior().moments(gram, projection), expected)


def test_mixture_posterior_is_the_sum_over_all_weights():
    gram, projection = what_images_say()
    means = torch.tensor([[1.5, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    spread = torch.tensor([[[0.6, 0.0], [0.3, 0.5]], [[0.9, 0.0], [0.0, 0.4]]], dtype=torch.float64)
    share = torch.tensor([0.3, 0.7], dtype=torch.float64)

    def log_prior(grid):
        parts = [s.log() + normal(grid, m, r @ r.T) for s, m, r in zip(share, means, spread, strict=True)]
        return torch.logsumexp(torch.stack(parts), 0)

    found = MixturePrior(share, means, spread).moments(gram, projection)
    assert_moments(found, brute_force(gram, projection, log_prior))
    torch.testing.assert_close(found.share.sum(1), torch.ones(3, dtype=torch.float64))


def test_landmark_posterior_weighs_each_landmark_by_its_likelihood():
    gram, projection = what_images_say(basis=1)
    weights = torch.tensor([[1.0, -1.0], [1.0, 0.5], [1.0, 2.0]], dtype=torch.float64)
    share = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    found = LandmarkPrior(weights, share).moments(gram, projection)
    for row in range(len(gram)):
        odds = [
            float(s * torch.exp(projection[row] @ w - 0.5 * w @ gram[row] @ w))
            for s, w in zip(share, weights, strict=True)
        ]
        expected = torch.tensor(odds, dtype=torch.float64) / sum(odds)
        torch.testing.assert_close(found.share[row], expected)
        assert float(found.evidence[row]) == pytest.approx(math.log(sum(odds)))


def test_without_directions_the_evidence_is_that_of_the_mean():
    gram, projection = what_images_say()
    found = GaussianPrior().moments(gram[:, :1, :1], projection[:, :1])
    torch.testing.assert_close(found.evidence, projection[:, 0] - gram[:, 0, 0] / 2)
    assert found.first.shape == (3, 1)
