"""Where a result lies in the frame of the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from frazil.numerics.rotations import geodesic_angle
from frazil.physics.grid import Grid


@final
@dataclass(frozen=True)
class Frame:
    """Where the result lies in the frame of the truth: ``x_result = turn (x_true + offset)``.

    Attributes:
        turn: 3 x 3, a reflection when the result has the other hand. offset: Å.
    """

    turn: Tensor
    offset: Tensor

    def is_same(self, grid: Grid) -> bool:
        """Whether the two frames differ by less than half a degree and a quarter of a pixel."""
        turned = torch.det(self.turn) < 0 or float(
            torch.rad2deg(geodesic_angle(self.turn, torch.eye(3, dtype=torch.float64)))
        )
        return float(turned) < 0.5 and float(self.offset.norm()) < grid.pixel_size / 4

    def into_truth(self, volume: Tensor, grid: Grid) -> Tensor:
        """A map of the result in the frame of the truth, by cubic splines; as it is when the frames are the same."""
        if self.is_same(grid):
            return volume
        from scipy.ndimage import affine_transform

        # scipy counts indices in (z, y, x)
        flip = torch.eye(3, dtype=torch.float64).flip(0)
        matrix = flip @ self.turn @ flip
        centre = torch.full((3,), grid.box_size // 2, dtype=torch.float64)
        start = centre + matrix @ (self.offset.flip(0) / grid.pixel_size - centre)
        turned = affine_transform(volume.numpy(), matrix.numpy(), start.numpy(), order=3)  # type: ignore[arg-type]
        return torch.from_numpy(turned)


SAME_FRAME = Frame(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
