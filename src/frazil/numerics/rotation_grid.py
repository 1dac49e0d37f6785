"""Even grids over the rotations: viewing directions on HEALPix, times in-plane angles.

A grid of order ``p`` has ``12 * 4^p`` directions (Gorski et al. 2005), about ``58.6 / 2^p`` degrees apart, and in-plane
angles equally far apart. Turning a view by 180 degrees in its plane conjugates its Fourier coefficients, so a grid lists one
of each such pair: `half_turned` gives the others.

A rotation of a grid stands for a cell of rotations around it. `divided` gives the eight that share its cell: the four
directions inside its HEALPix pixel, times two angles in the plane.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from frazil.numerics.rotations import from_euler_zyz, rotation_about_z, shortest_turn

# a direction that no symmetry axis of any point group comes near: among equivalent directions the nearest to it is kept
_SINGLED_OUT = (0.3134, 0.1872, 0.9310)


def grid_spacing(order: int) -> float:
    """Degrees between neighbouring directions of a grid: the side of a HEALPix pixel."""
    return math.degrees(math.sqrt(4 * math.pi / (12 * 4**order)))


def in_plane_angles(order: int) -> int:
    """How many in-plane angles of a full turn belong to a grid: an even number, about as far apart as its directions."""
    return 2 * round(180 / grid_spacing(order))


@lru_cache(maxsize=8)
def directions(order: int) -> Float[Tensor, "directions 2"]:
    """HEALPix directions in nested order: rot and tilt in radians, float64."""
    import healpy

    sides = 2**order
    tilt, rot = healpy.pix2ang(sides, range(12 * sides * sides), nest=True)
    return torch.stack((torch.as_tensor(rot), torch.as_tensor(tilt)), dim=1).to(torch.float64)


def rotation_grid(
    order: int, symmetry: Float[Tensor, "operations 3 3"] | None = None, turn: Float[Tensor, "3 3"] | None = None
) -> Float[Tensor, "rotations 3 3"]:
    """Rotations of half a turn in the plane, for directions that symmetry does not repeat, float32.

    Args:
        symmetry: a point group; one of each set of equivalent directions is kept.
        turn: a rotation of the object by which the whole grid is turned, so that not always the same ones are tried.
    """
    angles = directions(order)
    steps = in_plane_angles(order) // 2
    psi = torch.arange(steps, dtype=torch.float64) * (math.pi / steps)
    rot, tilt = (column.repeat_interleave(steps) for column in angles.T)
    rotations = from_euler_zyz(rot, tilt, psi.repeat(len(angles)))
    if turn is not None:
        rotations = rotations @ turn.to(torch.float64)
    if symmetry is not None and len(symmetry) > 1:
        rotations = rotations[is_representative(rotations, symmetry)]
    return rotations.to(torch.float32)


def is_representative(
    rotations: Float[Tensor, "rotations 3 3"], symmetry: Float[Tensor, "operations 3 3"]
) -> Bool[Tensor, " rotations"]:
    """Whether each rotation's viewing direction is the one kept of those that symmetry makes equal."""
    fixed = torch.tensor(_SINGLED_OUT, dtype=torch.float64)
    nearness = rotations[:, 2].to(torch.float64) @ (symmetry.to(torch.float64) @ fixed).T
    own = rotations[:, 2].to(torch.float64) @ fixed
    return own >= nearness.amax(dim=1) - 1e-9


def grid_pixels(order: int, symmetry: Float[Tensor, "operations 3 3"] | None = None) -> Int[Tensor, " rotations"]:
    """The number, in nested order, of the HEALPix pixel that each of `rotation_grid` looks along."""
    pixels = torch.arange(len(directions(order))).repeat_interleave(in_plane_angles(order) // 2)
    if symmetry is not None and len(symmetry) > 1:
        angles = directions(order)[pixels]
        looking = from_euler_zyz(angles[:, 0], angles[:, 1], torch.zeros(len(angles), dtype=torch.float64))
        pixels = pixels[is_representative(looking, symmetry)]
    return pixels


@lru_cache(maxsize=8)
def unit_vectors(order: int) -> Float[Tensor, "directions 3"]:
    """The directions of a grid as unit vectors, float64."""
    rot, tilt = directions(order).T
    return torch.stack((tilt.sin() * rot.cos(), tilt.sin() * rot.sin(), tilt.cos()), dim=1)


def divided(
    rotations: Float[Tensor, "*batch 3 3"], pixels: Int[Tensor, "*batch"], order: int, step: float
) -> tuple[Float[Tensor, "*batch 8 3 3"], Int[Tensor, "*batch 8"]]:
    """The rotations of the next order that share the cell of each rotation, and the pixels they look along.

    A view is turned the shortest way from its parent's direction to its own, and then in its plane. So all stay close to
    the parent near the poles too, where Euler angles of like directions differ much.

    Args:
        pixels: nested number of the pixel that each rotation looks along. order: of these pixels.
        step: radians between in-plane angles of the parents; between those of their children it is half of that.
    """
    inner = 4 * pixels[..., None] + torch.arange(4)
    towards = unit_vectors(order + 1)[inner].to(rotations.dtype)
    turned = rotations[..., None, :, :] @ shortest_turn(rotations[..., None, 2, :].expand_as(towards), towards).mT
    sides = rotation_about_z(torch.tensor([-step / 4, step / 4], dtype=torch.float64)).to(rotations.dtype)
    children = sides @ turned[..., None, :, :]
    return children.flatten(-4, -3), inner.repeat_interleave(2, dim=-1)


def half_turned(rotations: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The same views turned by 180 degrees in their plane."""
    return rotations * torch.tensor([-1.0, -1.0, 1.0], dtype=rotations.dtype, device=rotations.device)[:, None]
