"""What is believed about a latent coordinate after seeing an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from frazil.physics.value import TensorValue


@final
@dataclass(frozen=True)
class LatentPosterior(TensorValue):
    """Independent normal distributions, one per latent coordinate and image.

    Attributes:
        mean: centre. log_variance: natural logarithm of the variance.
    """

    mean: Float[Tensor, "*batch latent"]
    log_variance: Float[Tensor, "*batch latent"]

    def sample(self, noise: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent"]:
        """The draw that standard normal noise makes, differentiable in mean and variance.

        ``z = mean + exp(log_variance / 2) * noise``
        """
        return self.mean + noise * torch.exp(0.5 * self.log_variance)

    def covariance(self) -> Float[Tensor, "*batch latent latent"]:
        """Covariance matrices, diagonal here."""
        return torch.diag_embed(self.log_variance.exp())

    def divergence(self) -> Float[Tensor, "*batch"]:
        """Kullback-Leibler divergence from the standard normal prior, nats; never negative.

        ``KL(q || N(0, 1)) = 1/2 sum_j (m_j^2 + v_j - 1 - log v_j)`` (Kingma and Welling 2014, appendix B).
        """
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).sum(-1)

    def is_finite(self) -> Bool[Tensor, "*batch"]:
        """Which images have a usable posterior."""
        return (self.mean.isfinite() & self.log_variance.exp().isfinite()).all(-1)
