"""Batched values behave as one."""

import torch

from frazil.physics.pose import Pose


def test_rows_of_a_value_are_replaced_and_the_value_itself_stays() -> None:
    generator = torch.Generator().manual_seed(0)
    first, other = Pose.random(5, 2.0, generator), Pose.random(2, 2.0, generator)
    before, rows = first.rotation.clone(), torch.tensor([3, 1])
    changed = first.replaced(rows, other)
    assert torch.equal(changed.rotation[rows], other.rotation) and torch.equal(changed.shift[rows], other.shift)
    kept = torch.tensor([0, 2, 4])
    assert torch.equal(changed.shift[kept], first.shift[kept]) and torch.equal(first.rotation, before)
