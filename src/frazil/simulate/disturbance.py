"""Errors added to what a particle table says, while the truth keeps what is so: refinement has to take them away."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from frazil.numerics.rotations import from_rotation_vector
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose

if TYPE_CHECKING:
    from frazil.data.tilts import TiltViews


@final
@dataclass(frozen=True)
class Disturbance:
    """Gaussian errors of the table's values.

    Attributes:
        pose: root mean square angle of a turn about a random axis, degrees. shift: standard deviation along x and along
            y, Å. defocus: standard deviation, Å; U and V of an image move together.
    """

    pose: float = 0.0
    shift: float = 0.0
    defocus: float = 0.0

    def poses(self, pose: Pose, tilts: TiltViews | None, generator: torch.Generator) -> Pose:
        """Poses with their errors. The views of one particle turn together: their relative rotation is known."""
        vector = _normal(len(pose), 3, generator) * (math.radians(self.pose) / 3**0.5)
        moved = pose.shift + self.shift * _normal(len(pose), 2, generator)
        if self.pose == 0:
            return Pose(pose.rotation, moved)
        if tilts is None:
            return Pose(from_rotation_vector(vector) @ pose.rotation, moved)
        turn = tilts.stage @ from_rotation_vector(vector[tilts.first_rows()]) @ tilts.stage.mT
        return Pose(turn @ pose.rotation, moved)

    def optics(self, optics: Optics | None, generator: torch.Generator) -> Optics | None:
        """Optics with their errors."""
        if optics is None:
            return None
        error = self.defocus * _normal(len(optics), 1, generator)[:, 0]
        return replace(optics, defocus_u=optics.defocus_u + error, defocus_v=optics.defocus_v + error)


def _normal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)
