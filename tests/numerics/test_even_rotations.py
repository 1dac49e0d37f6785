"""Grids of rotations: even, complete, and free of what symmetry repeats."""

from __future__ import annotations

import pytest
import torch

from frazil.numerics.fourier import half_plane
from frazil.numerics.rotation_grid import grid_spacing, half_turned, in_plane_angles, rotation_grid
from frazil.numerics.rotations import random_rotations
from frazil.numerics.slices import extract_slices, padded_spectrum
from frazil.numerics.symmetry import point_group


def nearest_degrees(rotations: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """The angle from each rotation to the nearest of a grid."""
    trace = rotations.flatten(1).double() @ grid.flatten(1).double().T
    return torch.rad2deg(torch.arccos(((trace.amax(dim=1) - 1) / 2).clamp(-1, 1)))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_every_rotation_is_near_one_of_the_grid(order: int) -> None:
    grid = rotation_grid(order)
    whole = torch.cat((grid, half_turned(grid)))
    assert len(whole) == 12 * 4**order * in_plane_angles(order)
    found = nearest_degrees(random_rotations(2000, torch.Generator().manual_seed(1)), whole)
    # half a diagonal of the cell: directions and in-plane angles are a spacing apart
    assert float(found.max()) < grid_spacing(order)
    assert float(found.median()) < 0.6 * grid_spacing(order)


@pytest.mark.parametrize("group", ["C1", "C4", "D2", "T", "O", "I1"])
def test_symmetry_leaves_one_of_each_set_of_equal_views(group: str) -> None:
    symmetry = point_group(group)
    turn = random_rotations(1, torch.Generator().manual_seed(3))[0]
    grid = rotation_grid(3, symmetry, turn)
    assert len(grid) == pytest.approx(len(rotation_grid(3)) / len(symmetry), rel=0.15)
    whole = torch.cat((grid, half_turned(grid)))
    everything = (whole[:, None].double() @ symmetry).flatten(0, 1)
    found = nearest_degrees(random_rotations(300, torch.Generator().manual_seed(4)), everything)
    assert float(found.max()) < grid_spacing(3)


@pytest.mark.parametrize("box_size", [15, 16])
def test_half_a_turn_in_the_plane_conjugates_a_slice(box_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    volume = torch.randn(box_size, box_size, box_size, generator=generator)
    plane = half_plane(box_size, 5)
    rotations = random_rotations(4, generator)
    spectrum = padded_spectrum(volume, 5, 2)
    first, second = (extract_slices(spectrum, turn, plane, 2) for turn in (rotations, half_turned(rotations)))
    assert torch.allclose(second, first.conj(), atol=1e-4 * float(first.abs().max()))


def test_a_turned_grid_is_the_grid_of_the_turned_object() -> None:
    turn = random_rotations(1, torch.Generator().manual_seed(5))[0]
    assert torch.allclose(rotation_grid(1, turn=turn), rotation_grid(1) @ turn, atol=1e-6)
