"""What a checkpoint holds comes back to the bit, and nothing in it can run code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from frazil.engine.checkpoint import (
    flatten_optimizer,
    load_checkpoint,
    part,
    random_state,
    restore_optimizer,
    restore_random_state,
    save_checkpoint,
    under,
)
from frazil.errors import InputError


def test_tensors_of_every_kind_and_exact_numbers_come_back(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    tensors = {
        "float": base,
        "turned": base.T,
        "part": base[1:3, ::2],
        "half": base.bfloat16(),
        "whole": torch.tensor(3),
        "complex": torch.randn(3, dtype=torch.complex64),
    }
    save_checkpoint(tmp_path / "c.safetensors", tensors, {"loss": 0.1 + 0.2, "rows": [1, 2]})
    loaded, state = load_checkpoint(tmp_path / "c.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert state == {"loss": 0.1 + 0.2, "rows": [1, 2]}


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"a": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(
        InputError, match=r"c.safetensors: this is not a checkpoint of frazil: .* Run the job with --again\."
    ):
        load_checkpoint(path)
    with pytest.raises(InputError, match="this is not a checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "make", [torch.optim.AdamW, torch.optim.Adam, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)]
)
def test_a_restored_optimizer_makes_the_same_steps(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    def step(layer: nn.Linear, optimizer: torch.optim.Optimizer, value: float) -> None:
        layer(torch.full((1, 3), value)).pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    layer = nn.Linear(3, 2)
    optimizer = make(layer.parameters())
    for value in (1.0, 2.0):
        step(layer, optimizer, value)
    optimizer.param_groups[0]["lr"] = 0.0123
    tensors, rest = flatten_optimizer(optimizer)
    save_checkpoint(tmp_path / "c", under("o", tensors) | under("m", layer.state_dict()), rest)

    loaded, rest = load_checkpoint(tmp_path / "c")
    other = nn.Linear(3, 2)
    other.load_state_dict(part("m", loaded))
    restored = make(other.parameters())
    restore_optimizer(restored, part("o", loaded), rest)
    for one, its in ((layer, optimizer), (other, restored)):
        step(one, its, 3.0)
    assert torch.equal(layer.weight, other.weight) and torch.equal(layer.bias, other.bias)


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    torch.manual_seed(4)
    np.random.seed(4)
    tensors, rest = random_state()
    save_checkpoint(tmp_path / "c", tensors, rest)
    expected = (torch.randn(3), np.random.standard_normal(3))
    restore_random_state(*load_checkpoint(tmp_path / "c"))
    assert torch.equal(torch.randn(3), expected[0])
    assert np.array_equal(np.random.standard_normal(3), expected[1])
