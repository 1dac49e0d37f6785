"""Maps of a moving molecule, each in a frame of its own, brought into the frame of the part that stands still."""

from __future__ import annotations

import math

import pytest
import torch

from frazil.inference.still_frames import still_frames
from frazil.numerics.rotations import from_rotation_vector
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid


def beads(count: int, centre: tuple[float, float, float], radius: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    points = points / points.norm(dim=1, keepdim=True) * radius
    points = points * torch.rand(count, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    return points + torch.tensor(centre, dtype=torch.float64)


def turn(degrees: float, axis: tuple[float, float, float]) -> torch.Tensor:
    vector = torch.tensor(axis, dtype=torch.float64)
    return from_rotation_vector(vector / vector.norm() * math.radians(degrees))


@pytest.mark.parametrize("box_size", [48, 49])
def test_the_larger_part_stands_still_whatever_frames_the_maps_had(box_size: int) -> None:
    grid = Grid(box_size, 4.0)
    body, arm = beads(150, (0, -18, 0), 28, 1), beads(90, (0, 30, 4), 22, 2)
    ones = torch.ones(240, dtype=torch.float64)
    maps, frames = [], []
    angles = torch.linspace(-36, 36, 9).tolist()
    for angle in angles:
        # as a rigid map would have it: the whole is turned against the arm, by a share of its angle, and aside
        frame = turn(-0.3 * angle, (0.2, 0.1, 1.0)), torch.tensor([0.05, -0.04, 0.02]) * angle
        centres = torch.cat((body, arm @ turn(angle, (0.2, 0.1, 1.0)).T)) @ frame[0].T + frame[1]
        maps.append(Gaussians(centres, ones, 4 * ones).voxels(grid))
        frames.append(frame)
    found = still_frames(torch.stack(maps), torch.tensor(angles)[:, None], grid)
    middle = body @ frames[4][0].T + frames[4][1]
    for number, (rotation, offset) in enumerate(frames):
        placed = middle @ found.turn[number].T + found.offset[number]
        assert float((placed - (body @ rotation.T + offset)).norm(dim=1).mean()) < 0.5
        # without it the body was far away at the ends
        if number in (0, 8):
            assert float((middle - (body @ rotation.T + offset)).norm(dim=1).mean()) > 2


def test_the_most_central_map_keeps_its_frame() -> None:
    grid = Grid(32, 6.0)
    ones = torch.ones(150, dtype=torch.float64)
    moved = [beads(150, (0, 0, 0), 40, 3) @ turn(angle, (1, 2, 3)).T for angle in (-6.0, 0.0, 6.0)]
    maps = torch.stack([Gaussians(one, ones, 6 * ones).voxels(grid) for one in moved])
    found = still_frames(maps, torch.tensor([[-1.0], [0.0], [1.0]]), grid)
    torch.testing.assert_close(found.turn[1], torch.eye(3, dtype=torch.float64), atol=0.01, rtol=0)
    torch.testing.assert_close(found.turn[2], turn(6.0, (1, 2, 3)), atol=0.01, rtol=0)
