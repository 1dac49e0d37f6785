"""Poses refined particle by particle against a map, or against maps that move: Levenberg and Marquardt in a few numbers.

What an encoder says of an image is as good as its weights; from there the image itself leads to the nearest minimum. Where
molecules move, a rigid map draws poses away from the truth: what a domain has turned is taken for a turn of the whole. So the
conformation is refined with the pose.
"""

from __future__ import annotations

from collections.abc import Sequence
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

    def seen(self, maps: Sequence[Density], pose: Pose) -> Complex[Tensor, "batch maps coefficients"]:
        """Each map from these poses, through the optics."""
        return torch.stack([one.project(pose, self.grid, self.layout) * self.transfer for one in maps], 1)

    def error_of(
        self, predicted: Complex[Tensor, "batch coefficients"], latent: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, " batch"]:
        """Weighted sum of squared differences of each image, and the price of its latent: twice minus the log posterior."""
        rest = torch.view_as_real(predicted - self.coefficients).square().sum(-1) @ self.weight
        return rest + latent.square().sum(-1)


@final
@dataclass(frozen=True)
class Refined:
    """Where refinement has come to.

    Attributes:
        pose: of every image. latent: its conformation, without coordinates for a rigid map. error: see
            `ObservedImages.error_of`.
    """

    pose: Pose
    latent: Float[Tensor, "batch latent"]
    error: Float[Tensor, " batch"]


@torch.no_grad()
def refine_poses(
    maps: Sequence[Density],
    observed: ObservedImages,
    pose: Pose,
    latent: Float[Tensor, "batch latent"] | None = None,
    steps: int = 6,
) -> Refined:
    """Poses and conformations at a minimum of each image's error near the given ones.

    Each step solves ``(J^T W J + damping diag) p = J^T W r`` for a rotation vector in the frame of the view, a shift and the
    latent; a step that does not lower the error is taken back and tried again with more damping. So the error never rises.

    Args:
        maps: the mean, then directions of change whose weights are the latent, each with a standard normal prior; weights of
            the observed images are one over the power of the noise then. latent: to start from; 0 unless given.
    """
    latent = pose.shift.new_zeros(len(pose), len(maps) - 1) if latent is None else latent
    parts = observed.seen(maps, pose)
    error = observed.error_of(_mixed(parts, latent), latent)
    damping = torch.full_like(error, FIRST_DAMPING)
    for _ in range(steps):
        turn, shift, change = _step(maps, observed, pose, parts, latent, damping)
        moved = Pose(from_rotation_vector(turn) @ pose.rotation, pose.shift + shift)
        tried, changed = observed.seen(maps, moved), latent + change
        found = observed.error_of(_mixed(tried, changed), changed)
        better = found < error
        pose = Pose(_choose(better, moved.rotation, pose.rotation), _choose(better, moved.shift, pose.shift))
        parts, latent = _choose(better, tried, parts), _choose(better, changed, latent)
        error = torch.where(better, found, error)
        damping = damping * torch.where(better, EASE, STIFFEN)
    return Refined(pose, latent, error)


def _mixed(parts: Tensor, latent: Tensor) -> Tensor:
    """The mean and the directions of change, weighted."""
    return parts[:, 0] + (parts[:, 1:] * latent[..., None]).sum(1)


def _step(
    maps: Sequence[Density], observed: ObservedImages, pose: Pose, parts: Tensor, latent: Tensor, damping: Tensor
) -> tuple[Float[Tensor, "batch 3"], Float[Tensor, "batch 2"], Float[Tensor, "batch latent"]]:
    """Rotation vector (radians), shift (Å) and change of the latent of one damped step."""
    layout, angle = observed.layout, DIFFERENCE * DEGREE
    seen = _mixed(parts, latent)
    turns = from_rotation_vector(torch.eye(3).to(pose.rotation) * angle)
    turned = [_mixed(observed.seen(maps, Pose(turn @ pose.rotation, pose.shift)), latent) for turn in turns]
    wave = torch.stack((layout.x, layout.y)).to(pose.shift) * (-2 * torch.pi / observed.grid.extent)
    slopes = [(one - seen) / angle for one in turned]
    slopes += [seen * torch.complex(torch.zeros_like(along), along) for along in wave]
    jacobian = torch.view_as_real(torch.cat((torch.stack(slopes, 1), parts[:, 1:]), 1)).flatten(2)
    weighted = jacobian * observed.weight.repeat_interleave(2)
    residual = torch.view_as_real(observed.coefficients - seen).flatten(1)
    normal, pull = weighted @ jacobian.mT, (weighted @ residual[..., None])[..., 0]
    diagonal = normal.diagonal(dim1=-2, dim2=-1)
    # a direction that changes nothing must not make the matrix singular
    system = normal + torch.diag_embed(damping[:, None] * diagonal + 1e-6 * diagonal.mean(-1, keepdim=True) + 1e-30)
    prior = torch.cat((torch.zeros(5), torch.ones(latent.shape[1]))).to(latent)
    step = torch.linalg.solve(system + torch.diag(prior), pull - torch.nn.functional.pad(latent, (5, 0)))
    return step[:, :3], step[:, 3:5], step[:, 5:]


def _choose(better: Bool[Tensor, " batch"], new: Tensor, old: Tensor) -> Tensor:
    return torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old)
