"""Images that a picker takes for the molecule and that are none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from frazil.numerics.fourier import coefficients_to_images, images_to_coefficients
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose

KINDS = ("noise alone", "a piece of the molecule", "another object of the same contrast", "two molecules side by side")
_NOISE, _PIECE, _OBJECT, _PAIR = range(1, 5)
_BLOBS = 12

# projections of the molecule of some particles (rows) at other poses, without CTF
Project = Callable[[Int[Tensor, " rows"], Pose], Complex[Tensor, "rows coefficients"]]


@final
@dataclass(frozen=True)
class Junk:
    """Which images are not the molecule, and what they are instead.

    Attributes:
        kind: 0 for the molecule, else a number into `KINDS`, counted from 1. second: pose of the other molecule of a pair,
            and of a cut. direction: of a cut or of the gap between two, degrees from x. object_seed: of the other object.
        size: diameter of the molecule, Å.
    """

    kind: Int[Tensor, " particles"]
    second: Pose
    direction: Float[Tensor, " particles"]
    object_seed: Int[Tensor, " particles"]
    size: float

    @staticmethod
    def draw(count: int, fraction: float, size: float, generator: torch.Generator) -> Junk:
        """The stated share of ``count`` particles, to the nearest, in equal parts of each kind."""
        wanted = round(fraction * count)
        kind = torch.zeros(count, dtype=torch.int64)
        kind[torch.randperm(count, generator=generator)[:wanted]] = 1 + torch.arange(wanted) % len(KINDS)
        return Junk(
            kind=kind,
            second=Pose.random(count, 0.1 * size, generator, torch.float64),
            direction=360 * torch.rand(count, generator=generator, dtype=torch.float64),
            object_seed=torch.randint(2**31, (count,), generator=generator),
            size=size,
        )

    @property
    def is_junk(self) -> Bool[Tensor, " particles"]:
        """Which particles are."""
        return self.kind > 0

    def __getitem__(self, rows: Tensor) -> Junk:
        return Junk(self.kind[rows], self.second[rows], self.direction[rows], self.object_seed[rows], self.size)

    def put(
        self, rows: slice, clean: Complex[Tensor, "rows coefficients"], pose: Pose, grid: Grid, project: Project
    ) -> Complex[Tensor, "rows coefficients"]:
        """Projections (without CTF) with junk in the place of the molecule where there is some.

        Args:
            clean: projections of the molecule of every particle in ``rows``. pose: of all particles.
        """
        found = clean.clone()
        for row in (rows.start + torch.nonzero(self.kind[rows] > 0)[:, 0]).tolist():
            one = torch.tensor([row])
            place, kind = row - rows.start, int(self.kind[row])
            if kind == _NOISE:
                found[place] = 0
            elif kind == _PIECE:
                found[place] = self._piece(row, clean[place], pose[one], grid)
            elif kind == _OBJECT:
                found[place] = self._object(row, clean[place], pose[one], grid)
            else:
                apart = 0.35 * self.size * _along(float(self.direction[row]))
                there, other = pose[one], self.second[one]
                found[place] = project(one, Pose(there.rotation, there.shift + apart))[0]
                found[place] += project(one, Pose(other.rotation, there.shift - apart))[0]
        return found

    def _piece(self, row: int, clean: Tensor, pose: Pose, grid: Grid) -> Tensor:
        """What lies on one side of a line near the centre; the edge is two pixels soft."""
        layout = grid.half_plane()
        x = (torch.arange(grid.box_size, dtype=torch.float64) - grid.box_size // 2) * grid.pixel_size
        normal = _along(float(self.direction[row]))
        middle = pose.shift[0].double() + self.second.shift[row]
        distance = normal[0] * (x - middle[0]) + normal[1] * (x[:, None] - middle[1])
        side = torch.sigmoid(distance / (2 * grid.pixel_size)).float()
        return images_to_coefficients(coefficients_to_images(clean, layout) * side, layout)

    def _object(self, row: int, clean: Tensor, pose: Pose, grid: Grid) -> Tensor:
        """A cluster of blobs whose projection has the variance of the molecule's."""
        generator = torch.Generator().manual_seed(int(self.object_seed[row]))
        sigmas = self.size * (0.04 + 0.06 * torch.rand(_BLOBS, generator=generator))
        centres = 0.18 * self.size * torch.randn(_BLOBS, 3, generator=generator)
        cluster = Gaussians(centres, sigmas.pow(3), sigmas)
        layout = grid.half_plane()
        found = cluster.project(pose.to(torch.float32), grid, layout)[0]

        def contrast(coefficients: Tensor) -> float:
            return float(coefficients_to_images(coefficients, layout).std())

        return (found * (contrast(clean) / contrast(found))).to(clean.dtype)


def _along(degrees: float) -> Float[Tensor, " 2"]:
    angle = math.radians(degrees)
    return torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
