"""Tables of poses and latents."""

import torch

from frazil.inference.tables import LatentTable, PoseTable, row_optimizer
from frazil.physics.pose import Pose


def table_of_poses() -> tuple[PoseTable, Pose]:
    given = Pose.random(6, 5.0, torch.Generator().manual_seed(0))
    return PoseTable(given, 2.0), given


def step(table: torch.nn.Module, optimizer: torch.optim.Optimizer, rows: list[int]) -> None:
    optimizer.zero_grad()
    value = table(torch.tensor(rows))
    tensors = [value.rotation[:, :2], value.shift] if isinstance(value, Pose) else [value]
    sum(tensor.square().sum() + tensor.sum() for tensor in tensors).backward()
    optimizer.step()


def test_a_new_table_returns_the_given_poses() -> None:
    table, given = table_of_poses()
    pose = table(torch.tensor([4, 1]))
    assert torch.equal(pose.rotation, given.rotation[[4, 1]])
    assert torch.equal(pose.shift, given.shift[[4, 1]])


def test_only_the_poses_of_seen_particles_move() -> None:
    table, given = table_of_poses()
    optimizer = row_optimizer(table, 1e-2)
    step(table, optimizer, [0, 3])
    step(table, optimizer, [0, 5])
    # particle 3 has momentum now: a dense Adam would have moved it in the second step, and all rows in both
    third = table(torch.tensor([3])).rotation.detach().clone()
    step(table, optimizer, [1])
    now = table(torch.arange(6))
    assert torch.equal(now.rotation[[2, 4]], given.rotation[[2, 4]])
    assert torch.equal(now.shift[[2, 4]], given.shift[[2, 4]])
    assert torch.equal(now.rotation[3:4], third)
    assert not torch.allclose(now.rotation[0], given.rotation[0])


def test_trained_rotations_stay_rotations() -> None:
    table, _ = table_of_poses()
    optimizer = row_optimizer(table, 0.1)
    for _ in range(5):
        step(table, optimizer, list(range(6)))
    rotation = table(torch.arange(6)).rotation
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(6, 3, 3), atol=1e-5)


def test_only_the_latents_of_seen_particles_move() -> None:
    table = LatentTable(5, 2, 0.1, torch.Generator().manual_seed(1))
    before = table(torch.arange(5)).detach().clone()
    optimizer = row_optimizer(table, 1e-2)
    step(table, optimizer, [2])
    step(table, optimizer, [4])
    now = table(torch.arange(5))
    assert torch.equal(now[[0, 1, 3]], before[[0, 1, 3]])
    assert not torch.equal(now[2], before[2])
