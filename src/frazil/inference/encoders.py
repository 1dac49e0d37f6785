"""Networks that look at an image and say which conformation it shows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Complex
from torch import Tensor, nn

from frazil.inference.posteriors import LatentPosterior
from frazil.numerics.fourier import HalfPlane, coefficients_to_images
from frazil.numerics.perceptron import ResidualPerceptron


class Encoder(nn.Module, ABC):
    """Image to latent posterior. Images come as half-plane coefficients, centred, standardised and phase-flipped."""

    @abstractmethod
    def forward(self, coefficients: Complex[Tensor, "batch coefficients"]) -> LatentPosterior:
        """The posterior of every image."""


@final
class MLPEncoder(Encoder):
    """A residual perceptron of all Hartley coefficients in the circle, at k and at -k: ``Re F - Im F``, ``Re F + Im F``.

    Args:
        coefficients: length of the half-plane. latent_dim: latent coordinates. width, layers: of the perceptron.
    """

    def __init__(self, coefficients: int, latent_dim: int, width: int = 1024, layers: int = 3) -> None:
        super().__init__()
        self.perceptron = ResidualPerceptron(2 * coefficients, 0, width, layers, 2 * latent_dim)

    def forward(self, coefficients: Complex[Tensor, "batch coefficients"]) -> LatentPosterior:
        """The posterior of every image."""
        hartley = torch.cat((coefficients.real - coefficients.imag, coefficients.real + coefficients.imag), dim=-1)
        nothing = hartley.new_zeros(1, 0)
        mean, log_variance = self.perceptron(hartley[None], nothing)[0].chunk(2, dim=-1)
        return LatentPosterior(mean, log_variance)


@final
class ConvolutionalEncoder(Encoder):
    """Convolutions on the real image: blocks of two 3 x 3 convolutions and a 2 x 2 average, then a linear head.

    Channels double from block to block, the side halves, until it is at most four pixels; every block is normalised over
    groups of channels, so that images do not see each other.

    Args:
        layout: the half-plane of the images. latent_dim: latent coordinates. channels: of the first block.
    """

    def __init__(self, layout: HalfPlane, latent_dim: int, channels: int = 16) -> None:
        super().__init__()
        self.layout = layout
        blocks: list[nn.Module] = []
        side, before, after = layout.box_size, 1, channels
        while side > 4:
            blocks += [
                nn.Conv2d(before, after, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(after, after, 3, padding=1),
                nn.ReLU(),
                nn.AvgPool2d(2),
                nn.GroupNorm(4, after),
            ]
            side, before, after = side // 2, after, min(2 * after, 16 * channels)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before * side * side, 2 * latent_dim)

    def forward(self, coefficients: Complex[Tensor, "batch coefficients"]) -> LatentPosterior:
        """The posterior of every image."""
        # coefficients have unit variance, an inverse transform divides by box_size^2: give pixels unit variance again
        images = coefficients_to_images(coefficients, self.layout) * self.layout.box_size
        mean, log_variance = self.head(self.blocks(images[:, None]).flatten(1)).chunk(2, dim=-1)
        return LatentPosterior(mean, log_variance)
