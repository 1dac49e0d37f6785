"""What an image says about the weights of a basis: posteriors in closed form from a small matrix and a vector.

With the slices A = (a_0, ..., a_K) of the volumes, seen through the optics and whitened, an image y has the likelihood

    log p(y | c) = b^T c - c^T G c / 2 + constant,   G = A^T A,  b = A^T y,  c = (1, c_1, ..., c_K).

So G and b are all that is needed of it, whatever the prior: a Gaussian (probabilistic principal components, Tipping and
Bishop 1999), points on a learnt manifold (generative topographic mapping, Bishop et al. 1998), or a mixture of Gaussians
(deconvolved as in Bovy et al. 2011).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor


@final
@dataclass(frozen=True)
class Moments:
    """Posterior moments of the weights (1, c_1, ..., c_K) of a batch of images.

    Attributes:
        first: mean. second: mean of the outer product. evidence: log of the marginal likelihood, up to what does not depend
            on the volumes. share: posterior probability of each point or component of the prior; None for one Gaussian.
    """

    first: Float[Tensor, "batch volumes"]
    second: Float[Tensor, "batch volumes volumes"]
    evidence: Float[Tensor, " batch"]
    share: Float[Tensor, "batch parts"] | None = None


Gram = Float[Tensor, "batch volumes volumes"]
Projection = Float[Tensor, "batch volumes"]


class CoefficientPrior(ABC):
    """A prior of the weights of a basis."""

    @abstractmethod
    def moments(self, gram: Gram, projection: Projection) -> Moments:
        """Posterior moments given what the images say: see the module's text."""


@final
@dataclass(frozen=True)
class GaussianPrior(CoefficientPrior):
    """Independent standard normal weights: the volumes carry the scale."""

    def moments(self, gram: Gram, projection: Projection) -> Moments:
        """``cov = (1 + G)^-1``, ``mean = cov (b - g_0)``, where g_0 is the overlap with the mean volume."""
        mean, covariance, evidence = _gaussian_posterior(gram, projection)
        return Moments(*_with_one(mean, covariance), evidence)


def _gaussian_posterior(gram: Gram, projection: Projection) -> tuple[Tensor, Tensor, Tensor]:
    basis = gram.shape[-1] - 1
    precision = gram[:, 1:, 1:] + torch.eye(basis, dtype=gram.dtype, device=gram.device)
    factor = torch.linalg.cholesky(precision)
    slope = (projection[:, 1:] - gram[:, 1:, 0])[..., None]
    mean = torch.cholesky_solve(slope, factor)
    evidence = projection[:, 0] - gram[:, 0, 0] / 2 + (slope * mean).sum((1, 2)) / 2
    evidence = evidence - factor.diagonal(dim1=1, dim2=2).log().sum(-1)
    return mean[..., 0], torch.cholesky_inverse(factor), evidence


def _with_one(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of (1, c) from mean and covariance of c."""
    first = torch.cat((mean.new_ones(*mean.shape[:-1], 1), mean), dim=-1)
    second = first[..., :, None] * first[..., None, :]
    second[..., 1:, 1:] += covariance
    return first, second


@final
@dataclass(frozen=True)
class LandmarkPrior(CoefficientPrior):
    """Weights that can take the values of landmarks only.

    Attributes:
        weights: (1, c_1, ..., c_K) at every landmark. share: probability of each landmark.
    """

    weights: Float[Tensor, "landmarks volumes"]
    share: Float[Tensor, " landmarks"]

    def moments(self, gram: Gram, projection: Projection) -> Moments:
        """A weighted sum over landmarks."""
        points = self.weights
        outer = (points[:, :, None] * points[:, None, :]).flatten(1)
        log = projection @ points.T - 0.5 * gram.flatten(1) @ outer.T + self.share.log()
        evidence = torch.logsumexp(log, dim=1)
        share = torch.exp(log - evidence[:, None])
        return Moments(share @ points, (share @ outer).reshape(gram.shape), evidence, share)


@final
@dataclass(frozen=True)
class MixturePrior(CoefficientPrior):
    """A mixture of Gaussians.

    Attributes:
        share: probability of each component. mean, spread: of the weights in it; spread is a square root of the
            covariance, ``covariance = spread spread^T``.
    """

    share: Float[Tensor, " components"]
    mean: Float[Tensor, "components basis"]
    spread: Float[Tensor, "components basis basis"]

    def moments(self, gram: Gram, projection: Projection) -> Moments:
        """Each component's Gaussian posterior, weighed by its evidence."""
        means, covariances, log = self.by_component(gram, projection)
        evidence = torch.logsumexp(log, dim=1)
        share = torch.exp(log - evidence[:, None])
        first, second = _with_one(means, covariances)
        return Moments((share[..., None] * first).sum(1), (share[..., None, None] * second).sum(1), evidence, share)

    def by_component(self, gram: Gram, projection: Projection) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior mean, covariance and log evidence (with the share) of every component.

        In component j ``c = mean_j + spread_j u`` with u standard normal, so u has a Gaussian posterior whose volumes are
        ``(V_0 + sum mean_jk V_k, spread_j^T V)``.
        """
        components, basis = self.mean.shape
        change = torch.zeros(components, basis + 1, basis + 1, dtype=gram.dtype, device=gram.device)
        change[:, 0, 0], change[:, 1:, 0], change[:, 1:, 1:] = 1, self.mean, self.spread
        seen = (change.mT @ gram[:, None] @ change).flatten(0, 1)
        found, covariance, evidence = _gaussian_posterior(
            seen, torch.einsum("bk,ckl->bcl", projection, change).flatten(0, 1)
        )
        shape = (len(gram), components)
        means = self.mean + torch.einsum("bcl,ckl->bck", found.reshape(*shape, basis), self.spread)
        covariances = self.spread @ covariance.reshape(*shape, basis, basis) @ self.spread.mT
        return means, covariances, evidence.reshape(shape) + self.share.log()
