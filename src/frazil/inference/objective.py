"""What training minimises: the error of the images plus the price of the latent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def squared_error(
    predicted: Complex[Tensor, "batch coefficients"],
    observed: Complex[Tensor, "batch coefficients"],
    weight: Float[Tensor, " coefficients"],
) -> Float[Tensor, " batch"]:
    """Mean squared difference of each image over the full Fourier plane.

    ``sum_k w_k |P_k - Y_k|^2 / sum_k w_k``; with w = 2 on a half-plane (0 at the origin, to leave it out) it equals the
    mean squared difference of the Hartley transforms in the circle.
    """
    squared = torch.view_as_real(predicted - observed).square().sum(-1)
    return squared @ (weight / weight.sum())


@final
@dataclass(frozen=True)
class BetaSchedule:
    """The weight of the divergence: from ``first`` to ``last``, linear between two numbers of images seen."""

    first: float
    last: float
    starts: float = 0.0
    ends: float = 1.0

    def __call__(self, images_seen: float) -> float:
        """The weight after that many images."""
        progress = (images_seen - self.starts) / (self.ends - self.starts)
        return self.first + (self.last - self.first) * min(max(progress, 0.0), 1.0)


# the schedules of cryoDRGN's --beta a, b, c, d
BETA_SCHEDULES = {
    "a": BetaSchedule(0.001, 15.0, 0.0, 1_000_000.0),
    "b": BetaSchedule(5.0, 15.0, 200_000.0, 800_000.0),
    "c": BetaSchedule(5.0, 18.0, 200_000.0, 800_000.0),
    "d": BetaSchedule(5.0, 18.0, 1_000_000.0, 5_000_000.0),
}


def latent_price(
    divergence: Float[Tensor, ""], beta: float, pixels: float, control: float | None = None
) -> Float[Tensor, ""]:
    """What the latent costs, in units of the mean squared error of one pixel.

    ``beta KL / pixels``, or with ``control`` the pull of the divergence towards beta, ``control (beta - KL)^2 / pixels``.
    """
    if control is None:
        return beta * divergence / pixels
    return control * (beta - divergence).square() / pixels
