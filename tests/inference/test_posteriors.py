"""Latent posteriors."""

import torch
from torch.distributions import Independent, Normal, kl_divergence

from frazil.inference.posteriors import LatentPosterior


def some_posterior() -> LatentPosterior:
    torch.manual_seed(0)
    return LatentPosterior(torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64))


def test_divergence_is_that_of_torch_distributions() -> None:
    posterior = some_posterior()
    normal = Independent(Normal(posterior.mean, (0.5 * posterior.log_variance).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(posterior.mean), torch.ones_like(posterior.mean)), 1)
    assert torch.allclose(posterior.divergence(), kl_divergence(normal, prior))


def test_divergence_is_zero_at_the_prior_and_grows_away_from_it() -> None:
    nothing = torch.zeros(1, 3)
    assert LatentPosterior(nothing, nothing).divergence() == 0
    assert LatentPosterior(nothing + 1, nothing).divergence() > 0
    assert LatentPosterior(nothing, nothing - 1).divergence() > 0


def test_samples_have_the_mean_and_covariance_they_claim() -> None:
    posterior = LatentPosterior(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, -2.0]]))
    many = posterior[torch.zeros(20000, dtype=torch.int64)].sample(
        torch.randn(20000, 2, generator=torch.Generator().manual_seed(0))
    )
    assert torch.allclose(many.mean(0), posterior.mean[0], atol=0.03)
    assert torch.allclose(torch.cov(many.T), posterior.covariance()[0], atol=0.03)


def test_an_infinite_variance_is_not_usable() -> None:
    posterior = LatentPosterior(torch.tensor([[0.0], [torch.nan], [0.0]]), torch.tensor([[0.0], [0.0], [1000.0]]))
    assert posterior.is_finite().tolist() == [True, False, False]
