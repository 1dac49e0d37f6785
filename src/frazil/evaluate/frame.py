"""Where a result lies in the frame of the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from frazil.evaluate.poses import AlignedPoses
from frazil.numerics.fourier import resize_volume
from frazil.numerics.rotations import geodesic_angle
from frazil.physics.grid import Grid


@final
@dataclass(frozen=True)
class Frame:
    """Where the result lies in the frame of the truth: ``x_result = turn (x_true + offset)``.

    Attributes:
        turn: 3 x 3, a reflection when the result has the other hand. offset: Å.
    """

    turn: Float[Tensor, "3 3"]
    offset: Float[Tensor, " 3"]

    @staticmethod
    def of_poses(found: AlignedPoses) -> Frame:
        """The frame in which the poses of a result were found."""
        return Frame(found.alignment.turn, found.offset)

    @property
    def mirrored(self) -> bool:
        """Whether the result has the other hand."""
        return bool(torch.det(self.turn) < 0)

    @property
    def degrees(self) -> float:
        """By how much the result is turned; of a mirrored one, by how much after inversion at the centre."""
        turn = -self.turn if self.mirrored else self.turn
        return float(torch.rad2deg(geodesic_angle(turn, torch.eye(3, dtype=turn.dtype))))

    def is_same(self, grid: Grid) -> bool:
        """Whether the two frames differ by less than half a degree and a quarter of a pixel."""
        return not self.mirrored and self.degrees < 0.5 and float(self.offset.norm()) < grid.pixel_size / 4

    def differs_from(self, other: Frame, degrees: float = 5.0) -> bool:
        """Whether two frames differ in hand, or by more than an angle."""
        if self.mirrored != other.mirrored:
            return True
        return float(torch.rad2deg(geodesic_angle(self.turn, other.turn))) > degrees

    def into_truth(self, volume: Float[Tensor, "n n n"], grid: Grid) -> Float[Tensor, "n n n"]:
        """A map of the result in the frame of the truth; as it is when the frames are the same.

        By cubic splines on voxels of half the size, so that what reaches Nyquist is kept: interpolation between the voxels
        themselves would cost the last shells.
        """
        if self.is_same(grid):
            return volume
        from scipy.ndimage import affine_transform

        # scipy counts indices in (z, y, x)
        flip = torch.eye(3, dtype=torch.float64).flip(0)
        matrix = 2 * flip @ self.turn.double() @ flip
        fine = resize_volume(volume, 2 * grid.box_size)
        middle = torch.full((3,), grid.box_size // 2, dtype=torch.float64)
        fine_middle = torch.full((3,), fine.shape[-1] // 2, dtype=torch.float64)
        start = fine_middle + matrix @ (self.offset.double().flip(0) / grid.pixel_size - middle)
        shape = (grid.box_size,) * 3
        turned = affine_transform(fine.numpy(), matrix.numpy(), start.numpy(), shape, order=3)  # type: ignore[arg-type]
        return torch.from_numpy(turned)


SAME_FRAME = Frame(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))


@final
@dataclass(frozen=True)
class Frames:
    """The frame of each particle's map: one for all, or one for each class.

    Attributes:
        common: of everything that is not of one class. by_class: of classes that have one of their own. component: the
            class of each particle; None where there are no classes.
    """

    common: Frame
    by_class: Mapping[int, Frame] = field(default_factory=dict)
    component: np.ndarray | None = None

    def of(self, row: int) -> Frame:
        """The frame of a particle's map."""
        if self.component is None:
            return self.common
        return self.by_class.get(int(self.component[row]), self.common)

    def select(self, some: Bool[np.ndarray, " particles"]) -> Frames:
        """Those of some particles."""
        return self if self.component is None else replace(self, component=self.component[some])
