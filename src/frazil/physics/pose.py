"""The pose of a particle: a rotation and an in-plane shift.

``rotation`` takes object coordinates to view coordinates, ``x_view = R x_object``; the beam runs along z of the view.
``shift`` (x, y) is where the particle lies relative to the centre of the image, Å: the image is the projection moved
by +shift. The conversions of RELION, cryoSPARC and cryoDRGN live here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from frazil.numerics import rotations
from frazil.numerics.fourier import HalfPlane
from frazil.physics.grid import Grid
from frazil.physics.value import TensorValue

DEGREE = torch.pi / 180


@final
@dataclass(frozen=True)
class Pose(TensorValue):
    """A batch of poses.

    Attributes:
        rotation: object to view. shift: displacement of the particle in the image (x, y), Å.
    """

    rotation: Float[Tensor, "*batch 3 3"]
    shift: Float[Tensor, "*batch 2"]

    @staticmethod
    def identity(count: int = 1, dtype: torch.dtype = torch.float32) -> Pose:
        """``count`` unrotated, unshifted poses."""
        return Pose(torch.eye(3, dtype=dtype).expand(count, 3, 3).clone(), torch.zeros(count, 2, dtype=dtype))

    @staticmethod
    def random(
        count: int,
        shift_range: float = 0.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Pose:
        """Rotations uniform over SO(3) and shifts uniform in ±``shift_range`` Å on each axis."""
        rotation = rotations.random_rotations(count, generator, dtype)
        shift = (2 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 1) * shift_range
        return Pose(rotation, shift.to(dtype))

    def of_moved_object(self, turn: Float[Tensor, "*batch 3 3"], offset: Float[Tensor, "*batch 3"]) -> Pose:
        """Poses of an object that lies elsewhere, in which it looks as before: its points were at ``turn x + offset``.

        Args:
            offset: Å.
        """
        aside = (self.rotation @ offset.to(self.rotation)[..., None])[..., :2, 0]
        return Pose(self.rotation @ turn.to(self.rotation), self.shift + aside.to(self.shift))

    @staticmethod
    def from_relion(
        rot: Float[Tensor, "*batch"],
        tilt: Float[Tensor, "*batch"],
        psi: Float[Tensor, "*batch"],
        origin_x: Float[Tensor, "*batch"],
        origin_y: Float[Tensor, "*batch"],
    ) -> Pose:
        """Poses of rlnAngleRot/Tilt/Psi (degrees) and rlnOriginX/YAngst (Å).

        ``R = Z(psi) Y(tilt) Z(rot)``. RELION's origin is the shift that would centre the particle: minus ours.
        """
        rotation = rotations.from_euler_zyz(rot * DEGREE, tilt * DEGREE, psi * DEGREE)
        return Pose(rotation, -torch.stack((origin_x, origin_y), dim=-1))

    def to_relion(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(rlnAngleRot, rlnAngleTilt, rlnAnglePsi) in degrees and (rlnOriginXAngst, rlnOriginYAngst) in Å."""
        rot, tilt, psi = rotations.to_euler_zyz(self.rotation)
        return rot / DEGREE, tilt / DEGREE, psi / DEGREE, -self.shift[..., 0], -self.shift[..., 1]

    @staticmethod
    def from_cryosparc(
        axis_angle: Float[Tensor, "*batch 3"], shift_px: Float[Tensor, "*batch 2"], pixel_size: float | Tensor
    ) -> Pose:
        """Poses of alignments3D/pose (rotation vector, radians) and alignments3D/shift (pixels of alignments3D/psize_A).

        cryoSPARC's rotation takes the view to the object: ours is its transpose. Its shift centres the particle.
        """
        rotation = rotations.from_rotation_vector(axis_angle).mT
        size = torch.as_tensor(pixel_size, dtype=shift_px.dtype, device=shift_px.device)
        return Pose(rotation, -shift_px * size[..., None])

    def to_cryosparc(self, pixel_size: float | Tensor) -> tuple[Tensor, Tensor]:
        """(alignments3D/pose, alignments3D/shift) for images of ``pixel_size`` Å."""
        size = torch.as_tensor(pixel_size, dtype=self.shift.dtype, device=self.shift.device)
        return rotations.to_rotation_vector(self.rotation.mT), -self.shift / size[..., None]

    @staticmethod
    def from_cryodrgn(
        rotation: Float[Tensor, "*batch 3 3"], translation: Float[Tensor, "*batch 2"], extent: float | Tensor
    ) -> Pose:
        """Poses of a cryoDRGN pose pickle; ``extent`` is the side of its box in Å.

        Its rotation multiplies rows of lattice points, which is ours; its translation is the centring shift as a
        fraction of the box.
        """
        side = torch.as_tensor(extent, dtype=translation.dtype, device=translation.device)
        return Pose(rotation, -translation * side[..., None])

    def to_cryodrgn(self, extent: float | Tensor) -> tuple[Tensor, Tensor]:
        """(rotation, translation) of a cryoDRGN pose pickle for boxes of side ``extent`` Å."""
        side = torch.as_tensor(extent, dtype=self.shift.dtype, device=self.shift.device)
        return self.rotation, -self.shift / side[..., None]

    def shift_phase(self, grid: Grid, layout: HalfPlane) -> Complex[Tensor, "*batch coefficients"]:
        """exp(-2 pi i k.t): what moves an image by the shift. Multiply by its conjugate to centre an image."""
        index = torch.stack((layout.x, layout.y)).to(self.shift.dtype)
        angle = (-2 * torch.pi / grid.extent) * (self.shift @ index)
        return torch.polar(torch.ones_like(angle), angle)
