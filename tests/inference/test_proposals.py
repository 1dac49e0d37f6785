"""Random poses are scored by their squared error."""

import torch

from frazil.inference.proposals import best_proposal, pose_distance, shift_lattice
from frazil.numerics.rotations import random_rotations, rotation_about_z
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose


def test_the_best_proposal_is_the_one_with_the_least_error_of_all_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    grid = Grid(14, 4.0)
    layout = grid.half_plane()
    molecule = Gaussians(8 * torch.randn(5, 3, generator=generator), torch.ones(5), torch.full((5,), 5.0))
    rotations, shifts = random_rotations(6, generator), shift_lattice(6.0, 2)
    images = molecule.project(Pose.random(4, 6.0, generator), grid, layout)
    transfer = torch.rand(4, layout.count, generator=generator)
    slices = molecule.project(Pose(rotations, torch.zeros(6, 2)), grid, layout)
    found = best_proposal(slices, rotations, shifts, images, transfer, layout.weight, grid, layout)
    tried = [Pose(r[None], s[None]) for r in rotations for s in shifts]
    for i in range(4):
        seen = torch.cat([transfer[i] * molecule.project(pose, grid, layout) for pose in tried])
        best = tried[int(((images[i] - seen).abs().square() @ layout.weight).argmin())]
        assert torch.equal(found.rotation[i], best.rotation[0])
        assert torch.equal(found.shift[i], best.shift[0])


def test_shifts_stand_in_the_middle_of_equal_squares() -> None:
    assert sorted({round(x, 4) for x in shift_lattice(9.0, 3)[:, 0].tolist()}) == [-6, 0, 6]
    assert shift_lattice(9.0, 1).tolist() == [[0, 0]]


def test_the_distance_of_poses_is_eight_squared_sines_of_half_the_angle() -> None:
    angle = torch.tensor([0.3])
    turned = Pose(rotation_about_z(angle), torch.tensor([[4.0, 0.0]]))
    expected = 8 * torch.sin(angle / 2) ** 2 + 2.0
    torch.testing.assert_close(pose_distance(turned, Pose.identity(), 2.0), expected)
