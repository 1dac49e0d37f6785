"""Rotations as 3 x 3 matrices: conversions, random draws, distances. Angles here are radians: `physics.pose` speaks degrees.

Conversions of unit quaternions and rotation vectors come from `roma`. It brings torch's compiler with it, two seconds
of start-up, and is therefore imported where it is used.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def rotation_about_y(angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """The change of coordinates that turns the axes by ``angle`` about y: rows (cos, 0, -sin), (0, 1, 0), (sin, 0, cos)."""
    cosine, sine, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = (cosine, zero, -sine, zero, one, zero, sine, zero, cosine)
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def rotation_about_z(angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """The change of coordinates that turns the axes by ``angle`` about z: rows (cos, sin, 0), (-sin, cos, 0), (0, 0, 1)."""
    cosine, sine, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = (cosine, sine, zero, -sine, cosine, zero, zero, zero, one)
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def from_euler_zyz(
    rot: Float[Tensor, "*batch"], tilt: Float[Tensor, "*batch"], psi: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 3 3"]:
    """R = Z(psi) Y(tilt) Z(rot), the order of RELION and of the 3D-EM convention (Heymann et al. 2005)."""
    return rotation_about_z(psi) @ rotation_about_y(tilt) @ rotation_about_z(rot)


def to_euler_zyz(rotation: Float[Tensor, "*batch 3 3"]) -> tuple[Tensor, Tensor, Tensor]:
    """Angles (rot, tilt, psi) of R = Z(psi) Y(tilt) Z(rot), tilt from 0 to pi. At the poles psi is 0."""
    sine = torch.hypot(rotation[..., 2, 0], rotation[..., 2, 1])
    tilt = torch.atan2(sine, rotation[..., 2, 2])
    pole = sine < 8 * torch.finfo(rotation.dtype).eps
    rot = torch.atan2(rotation[..., 2, 1], rotation[..., 2, 0])
    psi = torch.atan2(rotation[..., 1, 2], -rotation[..., 0, 2])
    up = torch.sign(rotation[..., 2, 2])
    rot = torch.where(pole, torch.atan2(up * rotation[..., 0, 1], rotation[..., 1, 1]), rot)
    return rot, tilt, torch.where(pole, torch.zeros_like(psi), psi)


def from_rotation_vector(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation by the length of the vector, in radians, about its direction (right-hand rule)."""
    import roma

    return roma.rotvec_to_rotmat(vector)


def to_rotation_vector(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """The rotation vector of length 0 to pi of each matrix."""
    import roma

    return roma.rotmat_to_rotvec(rotation)


def from_six_numbers(six: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 3 3"]:
    """Gram-Schmidt of two 3-vectors: a smooth, redundant parametrisation to train (Zhou et al. 2019)."""
    first = torch.nn.functional.normalize(six[..., :3], dim=-1)
    second = six[..., 3:] - (first * six[..., 3:]).sum(-1, keepdim=True) * first
    second = torch.nn.functional.normalize(second, dim=-1)
    return torch.stack((first, second, torch.linalg.cross(first, second)), dim=-2)


def shortest_turn(start: Float[Tensor, "*batch 3"], end: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The smallest rotation that takes one unit vector to another, which must not be its opposite: R start = end.

    ``R = 1 + [v] + [v]^2 / (1 + c)`` with v the cross product and c the cosine (Rodrigues' formula).
    """
    x, y, z = torch.linalg.cross(start, end).unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).unflatten(-1, (3, 3))
    cosine = (start * end).sum(-1)[..., None, None]
    return torch.eye(3).to(start) + skew + skew @ skew / (1 + cosine)


def random_rotations(
    count: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "count 3 3"]:
    """Rotations drawn uniformly over SO(3), from normalised Gaussian quaternions."""
    quaternions = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    import roma

    return roma.unitquat_to_rotmat(torch.nn.functional.normalize(quaternions, dim=-1)).to(dtype)


def geodesic_angle(a: Float[Tensor, "*batch 3 3"], b: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """The angle of the rotation that takes one matrix to the other, radians, 0 to pi. Accurate for small angles too."""
    chord = (a - b).flatten(-2).norm(dim=-1) / (2 * 2**0.5)
    return 2 * torch.asin(chord.clamp(max=1))
