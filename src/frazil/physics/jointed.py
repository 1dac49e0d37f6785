"""Gaussians in domains on joints."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.numerics.rotations import from_rotation_vector
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.moving import MovingGaussians


@final
@dataclass(frozen=True)
class Joint:
    """A joint about which one domain turns.

    Attributes:
        domain: index of the domain that moves.
        pivot: a point of the axis, Å. axis: unit vector along it.
        low, high: the angles at latent 0 and 1, degrees.
        circular: whether ``high`` is the same conformation as ``low``, a full turn later.
    """

    domain: int
    pivot: tuple[float, float, float]
    axis: tuple[float, float, float]
    low: float
    high: float
    circular: bool = False

    def turn(self, latent: Float[Tensor, " batch"]) -> Float[Tensor, "batch 3 3"]:
        """The rotation of the domain at coordinates from 0 to 1."""
        angle = torch.deg2rad(self.low + (self.high - self.low) * latent)
        return from_rotation_vector(angle[:, None] * torch.tensor(self.axis, dtype=latent.dtype))


@final
@dataclass(frozen=True)
class JointedGaussians(MovingGaussians):
    """Gaussians whose domains turn about joints; one latent coordinate, from 0 to 1, for each joint.

    Attributes:
        straight: the Gaussians with every joint at 0 degrees. domain: the domain each one belongs to.
        joints: in the order of the latent coordinates. images: the grid of the images.
    """

    kind = "jointed"
    straight: Gaussians
    domain: Int[Tensor, " gaussians"]
    joints: tuple[Joint, ...]
    images: Grid

    @property
    def latent_dim(self) -> int:
        """Number of joints."""
        return len(self.joints)

    @property
    def grid(self) -> Grid:
        """The grid of the images."""
        return self.images

    @property
    def rest(self) -> Gaussians:
        """Every joint at 0 degrees."""
        return self.straight

    @property
    def circular(self) -> tuple[bool, ...]:
        """For each joint, whether a full turn lies between its ends."""
        return tuple(joint.circular for joint in self.joints)

    def scaled(self, factor: float) -> JointedGaussians:
        """The same molecule with every amplitude multiplied by a factor."""
        return replace(self, straight=self.rest.with_linear_parameters(self.rest.amplitudes * factor))

    def centres(self, latent: Float[Tensor, "batch joints"]) -> Float[Tensor, "batch gaussians 3"]:
        """Positions at each of a batch of conformations, Å."""
        rest = self.rest.centres
        moved = rest.expand(latent.shape[0], -1, -1).clone()
        for coordinate, joint in zip(latent.to(rest).T, self.joints, strict=True):
            mine = self.domain == joint.domain
            pivot = torch.tensor(joint.pivot).to(rest)
            moved[:, mine] = (moved[:, mine] - pivot) @ joint.turn(coordinate).mT + pivot
        return moved

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Named tensors and plain settings: see `frazil.data.ensemble`."""
        rest = self.rest
        tensors = {"centres": rest.centres, "amplitudes": rest.amplitudes, "sigmas": rest.sigmas, "domain": self.domain}
        return tensors, {"joints": [asdict(joint) for joint in self.joints], "grid": asdict(self.images)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> JointedGaussians:
        """The ensemble that `to_tensors` took apart."""
        rest = Gaussians(tensors["centres"], tensors["amplitudes"], tensors["sigmas"])
        joints = tuple(
            Joint(**(joint | {"pivot": tuple(joint["pivot"]), "axis": tuple(joint["axis"])}))
            for joint in settings["joints"]
        )
        return cls(rest, tensors["domain"], joints, Grid(**settings["grid"]))
