"""Grids of rotations and the division of their cells, with healpy as the reference."""

import math

import healpy
import pytest
import torch

from frazil.numerics.rotation_grid import divided, grid_pixels, grid_spacing, in_plane_angles, rotation_grid
from frazil.numerics.rotations import from_rotation_vector, geodesic_angle, random_rotations, shortest_turn
from frazil.numerics.symmetry import point_group


def full_grid(order: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All rotations of a grid, half-turned ones too, and their pixels."""
    half, pixels = rotation_grid(order).double(), grid_pixels(order)
    turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    return torch.cat((half, turn @ half)), torch.cat((pixels, pixels))


def between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Radians between all rotations of two sets that broadcast."""
    return geodesic_angle(*torch.broadcast_tensors(a, b))


def step_of(order: int) -> float:
    return 2 * math.pi / in_plane_angles(order)


def seen_pixels(rotations: torch.Tensor, order: int) -> torch.Tensor:
    """The pixels that rotations look along, by healpy."""
    x, y, z = rotations[..., 2, :].reshape(-1, 3).numpy().T
    return torch.from_numpy(healpy.vec2pix(2**order, x, y, z, nest=True)).view(rotations.shape[:-2])


def test_the_shortest_turn_takes_one_direction_to_another_and_turns_by_the_angle_between() -> None:
    generator = torch.Generator().manual_seed(1)
    start, end = torch.nn.functional.normalize(torch.randn(2, 50, 3, generator=generator, dtype=torch.float64), dim=-1)
    turn = shortest_turn(start, end)
    torch.testing.assert_close((turn @ start[..., None])[..., 0], end)
    identity = torch.eye(3, dtype=torch.float64).expand_as(turn)
    torch.testing.assert_close(geodesic_angle(turn, identity), torch.acos((start * end).sum(-1)))


def test_every_rotation_of_a_grid_looks_along_its_pixel() -> None:
    rotations, pixels = full_grid(2)
    assert torch.equal(seen_pixels(rotations, 2), pixels)


def test_pixels_of_a_symmetric_grid_belong_to_its_rotations() -> None:
    symmetry = point_group("D2")
    rotations = rotation_grid(2, symmetry)
    assert torch.equal(seen_pixels(rotations.double(), 2), grid_pixels(2, symmetry))


def test_children_look_along_the_four_directions_inside_the_pixel_of_their_parent_twice() -> None:
    rotations, pixels = full_grid(1)
    children, inner = divided(rotations, pixels, 1, step_of(1))
    assert children.shape == (len(rotations), 8, 3, 3)
    assert torch.equal(seen_pixels(children, 2), inner)
    expected = (4 * pixels[:, None] + torch.arange(4)).repeat_interleave(2, dim=1)
    assert torch.equal(inner, expected)


def test_children_of_one_direction_are_half_a_step_apart_in_their_plane() -> None:
    rotations, pixels = full_grid(1)
    children, _ = divided(rotations, pixels, 1, step_of(1))
    turn = from_rotation_vector(torch.tensor([0.0, 0.0, -step_of(1) / 2], dtype=torch.float64))
    torch.testing.assert_close(turn @ children[:, 0::2], children[:, 1::2])


def test_children_stay_in_the_reach_of_their_parent_near_the_poles_too() -> None:
    rotations, pixels = full_grid(1)
    children, _ = divided(rotations, pixels, 1, step_of(1))
    reach = torch.rad2deg(between(children, rotations[:, None]))
    # half a pixel's diagonal away along the sphere, and a quarter of a step in the plane
    assert float(reach.max()) < 0.75 * grid_spacing(1)
    assert float(reach.min()) > 0.25 * grid_spacing(1)


@pytest.mark.parametrize("where", ["anywhere", "north", "south"])
def test_children_of_the_nearest_nodes_cover_every_rotation(where: str) -> None:
    truth = random_rotations(1500, torch.Generator().manual_seed(2), torch.float64)
    if where != "anywhere":
        pole = torch.tensor([0.0, 0.0, 1.0 if where == "north" else -1.0], dtype=torch.float64)
        near = torch.nn.functional.normalize(pole + 0.2 * truth[:, 0], dim=-1)
        truth = truth @ shortest_turn(near, truth[:, 2])
    rotations, pixels = full_grid(1)
    nearest = between(truth[:, None], rotations).topk(8, dim=1, largest=False).indices
    children, inner = divided(rotations[nearest], pixels[nearest], 1, step_of(1))
    children, _ = divided(children, inner, 2, step_of(1) / 2)
    distance = between(truth[:, None], children.flatten(1, -3)).min(1).values
    assert float(torch.rad2deg(distance).max()) < grid_spacing(3)
