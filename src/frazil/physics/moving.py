"""Gaussians that move: an ensemble whose every conformation is known exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor

from frazil.physics.density import Gaussians
from frazil.physics.ensemble import Ensemble


class MovingGaussians(Ensemble, ABC):
    """Gaussians of constant amplitude and width whose centres depend on latent coordinates from 0 to 1."""

    kind: str

    @property
    @abstractmethod
    def rest(self) -> Gaussians:
        """The Gaussians at rest: their amplitudes and widths hold in every conformation."""

    @property
    @abstractmethod
    def circular(self) -> tuple[bool, ...]:
        """For each latent coordinate, whether 1 is the same conformation as 0."""

    @abstractmethod
    def centres(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch gaussians 3"]:
        """Positions at each of a batch of conformations, Å."""

    @abstractmethod
    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Named tensors and plain settings: see `frazil.data.ensemble`."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        """The ensemble that `to_tensors` took apart."""

    @abstractmethod
    def scaled(self, factor: float) -> Self:
        """The same ensemble with its density multiplied by a factor."""

    def density(self, latent: Float[Tensor, " latent"]) -> Gaussians:
        """The Gaussians at one conformation."""
        return Gaussians(self.centres(latent[None])[0], self.rest.amplitudes, self.rest.sigmas)

    def conformers(self, latent: Float[Tensor, "batch latent"]) -> Gaussians:
        """The Gaussians at a batch of conformations: each pose of a projection sees its own."""
        centres = self.centres(latent)
        shape = centres.shape[:-1]
        return Gaussians(centres, self.rest.amplitudes.expand(shape), self.rest.sigmas.expand(shape))
