"""A map is brought onto another by its rotation, hand and shift, however it lay."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from frazil.errors import InputError
from frazil.evaluate.alignment import align_maps
from frazil.evaluate.frame import Frame
from frazil.numerics.rotations import geodesic_angle
from frazil.numerics.shells import shell_correlation
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.simulate.molecules import generate

OFFSET = torch.tensor([9.0, -15.0, 12.0], dtype=torch.float64)


def molecule(grid: Grid) -> Gaussians:
    return generate("linear-1d", grid, 0.65 * grid.extent, 0.8 * grid.pixel_size).body.rest


def moved(there: Gaussians, turn: torch.Tensor, offset: torch.Tensor) -> Gaussians:
    return Gaussians((there.centres + offset) @ turn.T, there.amplitudes, there.sigmas)


@pytest.mark.parametrize(("box", "mirrored", "seed"), [(24, False, 1), (25, True, 2)])
def test_a_moved_and_noisy_map_is_brought_back_and_its_hand_is_told(box, mirrored, seed):
    grid = Grid(box, 200 / box)
    turn = torch.from_numpy(Rotation.random(random_state=seed).as_matrix()) * (-1 if mirrored else 1)
    there = molecule(grid)
    truth = there.voxels(grid).float()
    result = moved(there, turn, OFFSET).voxels(grid).float()
    result = result + 0.2 * result.std() * torch.randn(result.shape, generator=torch.Generator().manual_seed(seed))
    found = align_maps(result, truth, grid).frame
    assert found.mirrored is mirrored
    assert float(torch.rad2deg(geodesic_angle(found.turn, turn))) < 1.0
    assert float((found.offset - OFFSET).norm()) < grid.pixel_size / 8
    known, aligned = (
        shell_correlation(frame.into_truth(result, grid), truth) for frame in (Frame(turn, OFFSET), found)
    )
    assert torch.allclose(aligned[2 : box // 2 - 1], known[2 : box // 2 - 1], atol=0.03)


def test_a_map_that_lies_as_it_should_stays(tmp_path):
    grid = Grid(24, 8.0)
    truth = molecule(grid).voxels(grid).float()
    found = align_maps(truth, truth, grid)
    assert found.frame.is_same(grid)
    assert found.correlation == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("box", [32, 33])
def test_turning_a_map_keeps_what_reaches_nearly_to_nyquist(box):
    grid = Grid(box, 200 / box)
    turn = -torch.from_numpy(Rotation.random(random_state=3).as_matrix())
    there = molecule(grid)
    back = Frame(turn, OFFSET).into_truth(moved(there, turn, OFFSET).voxels(grid).float(), grid)
    curve = shell_correlation(back, there.voxels(grid).float())
    assert float(curve[: int(0.45 * box)].min()) > 0.98


def test_the_turn_of_a_mirrored_frame_is_told_without_the_inversion():
    turn = torch.from_numpy(Rotation.from_rotvec([0, 0, np.deg2rad(20)]).as_matrix())
    assert Frame(-turn, torch.zeros(3)).degrees == pytest.approx(20)


def test_an_empty_map_is_refused():
    with pytest.raises(InputError, match="empty map"):
        align_maps(torch.zeros(16, 16, 16), torch.rand(16, 16, 16), Grid(16, 2.0))
