"""From a conformation to a density."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from frazil.physics.density import Density
from frazil.physics.field import Field, FieldNetwork
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


@final
class FieldEnsemble(Ensemble):
    """A neural field whose latent coordinate is the conformation.

    Args:
        network: the trained field; it is put into evaluation mode and frozen.
    """

    kind = "field"

    def __init__(self, network: FieldNetwork) -> None:
        self.network = network.eval().requires_grad_(False)

    @property
    def latent_dim(self) -> int:
        """Number of latent coordinates."""
        return self.network.latent_dim

    @property
    def grid(self) -> Grid:
        """The grid of the images the field was trained on."""
        return self.network.grid

    def density(self, latent: Float[Tensor, "*batch latent"]) -> Field:
        """The field at one conformation, or at one conformation per pose."""
        return Field(self.network, latent.to(self.network.frequencies.dtype))

    def settings(self) -> dict[str, Any]:
        """What rebuilds the network besides its tensors; numbers and words only."""
        return dict(self.network.settings)

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers by name."""
        return {name: tensor.detach().contiguous() for name, tensor in self.network.state_dict().items()}

    @staticmethod
    def restore(settings: dict[str, Any], tensors: dict[str, Tensor]) -> FieldEnsemble:
        """The ensemble that gave these settings and tensors.

        Raises:
            KeyError, RuntimeError: if settings or tensors are missing or do not fit each other.
        """
        options = dict(settings)
        grid = Grid(int(options.pop("box_size")), float(options.pop("pixel_size")))
        network = FieldNetwork(grid, int(options.pop("latent_dim")), **options)
        network.load_state_dict(tensors)
        return FieldEnsemble(network)
