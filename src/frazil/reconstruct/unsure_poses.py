"""What images say of their conformation when their poses were found from the same images.

A small turn of the whole and a small motion of a part look much alike, so a pose that is only nearly known leaves the
conformation less well known too. Near the pose found, an image is linear in both:

    y = A c + J d + noise,   d ~ N(0, P^-1),

with the slices A of the volumes, and J the changes of the image with the three angles and two shifts. With d integrated out
the likelihood of c is that of `frazil.inference.coefficient_posteriors` with other numbers, G = A^T M A and b = A^T M y where
M = 1 - J (J^T J + P)^-1 J^T (the Schur complement of the pose).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.inference.local_refinement import PriorWidths
from frazil.numerics.fourier import HalfPlane
from frazil.numerics.rotations import from_rotation_vector
from frazil.numerics.spectrum_table import Table, TableLayout, gather_table
from frazil.physics.grid import Grid

# degrees by which an image is turned to see how it changes: a part of a voxel at the rim of a table. Between its points a
# table is linear, so single slopes are off by a fifth, but what they say together by a few per cent.
TURN = 0.25
DEGREE = math.pi / 180


@final
@dataclass(frozen=True)
class UnsurePoses:
    """Poses that were refined.

    Attributes:
        weights: (1, c_1, ..., c_K) of the conformation that each image shows, in working order.
        prior: of a pose before its image is seen.
    """

    weights: Float[Tensor, "images volumes"]
    prior: PriorWidths

    def changes(
        self,
        some: slice,
        slices: Float[Tensor, "batch numbers volumes"],
        rotation: Float[Tensor, "batch 3 3"],
        table: Table,
        layout: TableLayout,
        plane: HalfPlane,
        factor: Float[Tensor, "batch coefficients"],
        grid: Grid,
    ) -> Float[Tensor, "batch 5 numbers"]:
        """How predicted images change per degree about the axes x, y, z of the view, and per Å along x and y.

        Args:
            slices: of the volumes at the poses found, real and imaginary parts one after the other.
        """
        weights = self.weights[some, :, None]

        def predicted(of_volumes: Tensor) -> Tensor:
            return (of_volumes @ weights)[..., 0]

        here = predicted(slices)
        turned = (step @ rotation for step in from_rotation_vector(torch.eye(3) * TURN * DEGREE).to(rotation))
        views = (gather_table(table, layout, each.contiguous(), plane, factor) for each in turned)
        turns = [(predicted(view.flatten(1, 2)) - here) / TURN for view in views]
        # of exp(-2 pi i k.t) at t = 0
        image = torch.view_as_complex(here.unflatten(1, (-1, 2)))
        moves = [-2j * math.pi / grid.extent * axis * image for axis in (plane.x, plane.y)]
        return torch.stack([*turns, *(torch.view_as_real(move).flatten(1) for move in moves)], dim=1)

    def integrated(
        self, overlap: Float[Tensor, "batch rows rows"], information: Float[Tensor, "batch 5 5"]
    ) -> Float[Tensor, "batch others others"]:
        """Overlaps of rows once the pose is integrated out, of which the last five are its changes.

        Args:
            information: of the image about its pose: J^T J, of all coefficients that it was refined by.
        """
        known = information.double() + (self.prior.as_tensor(information.device)[:5] ** -2).diag()
        shared = overlap[:, :-5, -5:].double()
        lost = shared @ torch.linalg.solve(known, shared.mT)
        return overlap[:, :-5, :-5] - lost.to(overlap)
