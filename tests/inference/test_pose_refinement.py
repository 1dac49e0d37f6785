"""Refinement goes down to the minimum that lies near."""

import pytest
import torch

from frazil.inference.pose_refinement import ObservedImages, refine_poses
from frazil.numerics.rotations import from_rotation_vector, geodesic_angle
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.pose import DEGREE, Pose


def scene(box_size: int, count: int = 12) -> tuple[list[Gaussians], ObservedImages, Pose, torch.Tensor]:
    """A molecule with a part that grows, its noise-free images, the poses and how far the part has grown."""
    generator = torch.Generator().manual_seed(1)
    grid = Grid(box_size, 4.0)
    layout = grid.half_plane()
    centres = 11 * torch.randn(9, 3, generator=generator)
    maps = [
        Gaussians(centres, torch.rand(9, generator=generator) + 0.5, torch.full((9,), 6.0)),
        Gaussians(centres[:2], torch.full((2,), 0.3), torch.full((2,), 6.0)),
    ]
    pose, latent = Pose.random(count, 5.0, generator), torch.randn(count, generator=generator)
    transfer = 0.5 + torch.rand(count, layout.count, generator=generator)
    parts = [one.project(pose, grid, layout) for one in maps]
    images = transfer * (parts[0] + latent[:, None] * parts[1])
    return maps, ObservedImages(images, transfer, 1e8 * layout.weight, grid, layout), pose, latent


def disturbed(pose: Pose, degrees: float, shift: float) -> Pose:
    generator = torch.Generator().manual_seed(2)
    axis = torch.nn.functional.normalize(torch.randn(len(pose), 3, generator=generator), dim=1)
    turn = from_rotation_vector(axis * degrees * DEGREE)
    return Pose(turn @ pose.rotation, pose.shift + shift * torch.randn(len(pose), 2, generator=generator))


@pytest.mark.parametrize("box_size", [20, 21])
def test_pose_and_conformation_come_back_from_ten_degrees_away(box_size: int) -> None:
    maps, observed, pose, latent = scene(box_size)
    found = refine_poses(maps, observed, disturbed(pose, 10, 2.0), steps=15)
    angle = geodesic_angle(found.pose.rotation, pose.rotation) / DEGREE
    assert float(angle.median()) < 0.1
    near = angle < 1
    assert int(near.sum()) >= 10
    torch.testing.assert_close(found.pose.shift[near], pose.shift[near], atol=0.05, rtol=0)
    torch.testing.assert_close(found.latent[near, 0], latent[near], atol=0.05, rtol=0)


def test_the_error_never_rises() -> None:
    maps, observed, pose, _ = scene(20)
    errors = [refine_poses(maps, observed, disturbed(pose, 40, 8.0), steps=k).error for k in range(5)]
    assert all(bool((after <= before).all()) for before, after in zip(errors[:-1], errors[1:], strict=True))
    assert bool((errors[-1] < errors[0]).all())


def test_a_rigid_map_has_no_latent() -> None:
    maps, observed, pose, _ = scene(20)
    assert refine_poses(maps[:1], observed, pose, steps=1).latent.shape == (12, 0)


def test_a_lower_band_is_a_prefix_of_the_coefficients() -> None:
    _, observed, _, _ = scene(20)
    low = observed.within(4)
    assert low.layout.band == 4
    assert torch.equal(low.coefficients, observed.coefficients[:, : low.layout.count])
    assert low[:3].transfer.shape == (3, low.layout.count)
