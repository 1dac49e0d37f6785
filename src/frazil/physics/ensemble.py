"""From a conformation to a density."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from frazil.physics.density import Density
from frazil.physics.grid import Grid


class Ensemble(ABC):
    """A family of densities over a latent coordinate z. One rigid structure is an ensemble with no z.

    Every ensemble is saved as a table of tensors and a few settings, under a name (`kind`): see `frazil.data.ensemble`.
    """

    @property
    @abstractmethod
    def latent_dim(self) -> int:
        """Number of latent coordinates."""

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """The grid of the images it was learnt from."""

    @abstractmethod
    def density(self, latent: Float[Tensor, " latent"]) -> Density:
        """The density at one conformation."""

    def to(self, device: str) -> Ensemble:
        """The same ensemble, decoding on another device; one that holds nothing heavy returns itself."""
        return self
