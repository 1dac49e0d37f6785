"""Poses refined particle by particle against a map: Levenberg and Marquardt in five numbers.

What an encoder says of an image is as good as its weights; from there the image itself leads to the nearest minimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from frazil.numerics.fourier import HalfPlane
from frazil.numerics.rotations import from_rotation_vector
from frazil.physics.density import Density
from frazil.physics.grid import Grid
from frazil.physics.pose import DEGREE, Pose

# degrees by which a view is turned to see how it changes: a small part of a Fourier pixel at the edge of a box of 256
DIFFERENCE = 0.1
# damping of the first step, and how it falls and rises
FIRST_DAMPING, EASE, STIFFEN = 0.01, 0.3, 10.0


@final
@dataclass(frozen=True)
class ObservedImages:
    """Images with all that a squared error needs.

    Attributes:
        coefficients: of the images. transfer: their CTF. weight: of each coefficient in the error. grid, layout: of the
            images.
    """

    coefficients: Complex[Tensor, "batch coefficients"]
    transfer: Float[Tensor, "batch coefficients"]
    weight: Float[Tensor, " coefficients"]
    grid: Grid
    layout: HalfPlane

    def __getitem__(self, rows: Tensor | slice) -> ObservedImages:
        return ObservedImages(self.coefficients[rows], self.transfer[rows], self.weight, self.grid, self.layout)

    def within(self, band: int) -> ObservedImages:
        """The same images out to a lower band."""
        layout = self.layout.within(band)
        kept = slice(layout.count)
        return ObservedImages(self.coefficients[:, kept], self.transfer[:, kept], self.weight[kept], self.grid, layout)

    def predicted(self, density: Density, pose: Pose) -> Complex[Tensor, "batch coefficients"]:
        """What the density looks like from these poses, seen through the optics."""
        return density.project(pose, self.grid, self.layout) * self.transfer

    def error_of(self, predicted: Complex[Tensor, "batch coefficients"]) -> Float[Tensor, " batch"]:
        """Weighted sum of squared differences of each image."""
        return torch.view_as_real(predicted - self.coefficients).square().sum(-1) @ self.weight


@torch.no_grad()
def refine_poses(density: Density, observed: ObservedImages, pose: Pose, steps: int = 6) -> tuple[Pose, Tensor]:
    """Poses at a minimum of each image's error near the given ones, and the errors there.

    Each step solves ``(J^T W J + damping diag) p = J^T W r`` for a rotation vector in the frame of the view and a
    shift; a step that does not lower the error is taken back and tried again with more damping. So the error never rises.
    """
    seen = observed.predicted(density, pose)
    error = observed.error_of(seen)
    damping = torch.full_like(error, FIRST_DAMPING)
    for _ in range(steps):
        moved = _moved(pose, *_step(density, observed, pose, seen, damping))
        tried = observed.predicted(density, moved)
        found = observed.error_of(tried)
        better = found < error
        pose = Pose(_choose(better, moved.rotation, pose.rotation), _choose(better, moved.shift, pose.shift))
        seen, error = _choose(better, tried, seen), torch.where(better, found, error)
        damping = damping * torch.where(better, EASE, STIFFEN)
    return pose, error


def _step(
    density: Density, observed: ObservedImages, pose: Pose, seen: Tensor, damping: Tensor
) -> tuple[Float[Tensor, "batch 3"], Float[Tensor, "batch 2"]]:
    """Rotation vector (radians) and shift (Å) of one damped step."""
    layout, angle = observed.layout, DIFFERENCE * DEGREE
    turns = from_rotation_vector(torch.eye(3).to(pose.rotation) * angle)
    slopes = [(observed.predicted(density, Pose(turn @ pose.rotation, pose.shift)) - seen) / angle for turn in turns]
    wave = torch.stack((layout.x, layout.y)).to(pose.shift) * (-2 * torch.pi / observed.grid.extent)
    slopes += [seen * torch.complex(torch.zeros_like(along), along) for along in wave]
    jacobian = torch.view_as_real(torch.stack(slopes, 1)).flatten(2)
    weight = observed.weight.repeat_interleave(2)
    residual = torch.view_as_real(observed.coefficients - seen).flatten(1)
    normal = (jacobian * weight) @ jacobian.mT
    pull = ((jacobian * weight) @ residual[..., None])[..., 0]
    diagonal = normal.diagonal(dim1=-2, dim2=-1)
    # a direction that changes nothing must not make the matrix singular
    floor = 1e-6 * diagonal.mean(-1, keepdim=True) + 1e-30
    system = normal + torch.diag_embed(damping[:, None] * diagonal + floor)
    step = torch.linalg.solve(system, pull)
    return step[:, :3], step[:, 3:]


def _moved(pose: Pose, vector: Tensor, shift: Tensor) -> Pose:
    return Pose(from_rotation_vector(vector) @ pose.rotation, pose.shift + shift)


def _choose(better: Bool[Tensor, " batch"], new: Tensor, old: Tensor) -> Tensor:
    return torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old)
