"""Gaussians on a path through given conformations."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.moving import MovingGaussians


@final
@dataclass(frozen=True)
class GaussianPath(MovingGaussians):
    """Gaussians that pass through given conformations, evenly spaced in one latent coordinate from 0 to 1.

    Between two conformations every centre moves along a straight line at constant speed.

    Attributes:
        knots: the centres in each given conformation, two of them or more, Å. amplitudes, sigmas: as in `Gaussians`.
        images: the grid of the images.
    """

    kind = "path"
    knots: Float[Tensor, "knots gaussians 3"]
    amplitudes: Float[Tensor, " gaussians"]
    sigmas: Float[Tensor, " gaussians"]
    images: Grid

    @property
    def latent_dim(self) -> int:
        """One."""
        return 1

    @property
    def grid(self) -> Grid:
        """The grid of the images."""
        return self.images

    @property
    def rest(self) -> Gaussians:
        """The first conformation."""
        return Gaussians(self.knots[0], self.amplitudes, self.sigmas)

    @property
    def circular(self) -> tuple[bool, ...]:
        """A path has two ends."""
        return (False,)

    def centres(self, latent: Float[Tensor, "batch 1"]) -> Float[Tensor, "batch gaussians 3"]:
        """Positions at each of a batch of conformations, Å."""
        legs = len(self.knots) - 1
        along = latent[:, 0].to(self.knots).clamp(0, 1) * legs
        leg = along.long().clamp(max=legs - 1)
        return torch.lerp(self.knots[leg], self.knots[leg + 1], (along - leg)[:, None, None])

    def scaled(self, factor: float) -> GaussianPath:
        """The same path with every amplitude multiplied by a factor."""
        return replace(self, amplitudes=self.amplitudes * factor)

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Named tensors and plain settings: see `frazil.data.ensemble`."""
        tensors = {"knots": self.knots, "amplitudes": self.amplitudes, "sigmas": self.sigmas}
        return tensors, {"grid": asdict(self.images)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> GaussianPath:
        """The path that `to_tensors` took apart."""
        return cls(tensors["knots"], tensors["amplitudes"], tensors["sigmas"], Grid(**settings["grid"]))
