"""Random poses that images are compared with: a teacher for an encoder that looks where it should not.

Every batch draws rotations of its own and scores them against all of its images, with a few shifts, as one matrix product.
The best one of an image is near its pose with some luck, and since draws never repeat, an encoder taught by many of them
becomes more exact than any. It costs less than the encoder itself.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from frazil.numerics.fourier import HalfPlane
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose


def shift_lattice(extent: float, per_axis: int) -> Float[Tensor, "shifts 2"]:
    """Shifts that stand for equal squares of plus and minus ``extent`` Å on both axes."""
    along = (2 * torch.arange(per_axis) + 1 - per_axis) * (extent / per_axis)
    return torch.cartesian_prod(along, along)


@torch.no_grad()
def best_proposal(
    slices: Complex[Tensor, "rotations coefficients"],
    rotation: Float[Tensor, "rotations 3 3"],
    shifts: Float[Tensor, "shifts 2"],
    images: Complex[Tensor, "batch coefficients"],
    transfer: Float[Tensor, "batch coefficients"],
    weight: Float[Tensor, " coefficients"],
    grid: Grid,
    layout: HalfPlane,
) -> Pose:
    """The rotation and shift with the least squared error, for every image.

    ``|y - T P|^2 = |y|^2 - 2 Re <y T, P> + <T^2, |P|^2>``: the first term is the same for all, the others are
    matrix products.

    Args:
        slices: of the density at the rotations, unshifted. transfer: CTF of each image. weight: of the coefficients.
    """
    power = (transfer.square() * weight) @ slices.abs().square().mT
    still = Pose(torch.eye(3).to(shifts).expand(len(shifts), 3, 3), shifts)
    centred = still.shift_phase(grid, layout).conj()[:, None] * (images * transfer * weight)
    seen = torch.view_as_real(centred).flatten(-2).flatten(0, 1)
    cross = seen @ torch.view_as_real(slices).flatten(1).mT
    score = (power - 2 * cross.unflatten(0, (len(shifts), len(images)))).transpose(0, 1).flatten(1)
    best = score.argmin(1)
    return Pose(rotation[best % len(rotation)], shifts[best // len(rotation)])


def pose_distance(guess: Pose, target: Pose, pixel_size: float) -> Float[Tensor, "*batch"]:
    """``|R - R'|^2 + |t - t'|^2 / (2 pixel^2)``: eight sines squared of half the angle, and the shift in pixels."""
    turned = (guess.rotation - target.rotation).square().sum((-2, -1))
    return turned + (guess.shift - target.shift).square().sum(-1) / (2 * pixel_size**2)
