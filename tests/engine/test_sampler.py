"""Every epoch sees every row once, in an order that a few integers remember."""

from __future__ import annotations

import json

import pytest
import torch

from frazil.engine.sampler import Sampler


@pytest.mark.parametrize("block", [1, 7, 64])
@pytest.mark.parametrize("count", [1, 100, 1003])
def test_an_epoch_has_every_row_once(count: int, block: int) -> None:
    sampler = Sampler(count, batch_size=16, seed=3, block=block)
    first = torch.cat(list(sampler.rest_of_epoch()))
    second = torch.cat(list(sampler.rest_of_epoch()))
    assert torch.equal(first.sort().values, torch.arange(count))
    assert torch.equal(second.sort().values, torch.arange(count))
    assert count == 1 or not torch.equal(first, second)
    assert (sampler.epoch, sampler.position) == (2, 0)


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    assert torch.equal(Sampler(50, 4, seed=1).order(3), Sampler(50, 8, seed=1).order(3))
    assert not torch.equal(Sampler(50, 4, seed=1).order(3), Sampler(50, 4, seed=2).order(3))


def test_a_restored_sampler_goes_on_where_the_other_was() -> None:
    sampler = Sampler(40, batch_size=4, seed=5)
    batches = sampler.rest_of_epoch()
    for _ in range(3):
        next(batches)
    sampler.left_out.add(17)
    state = json.loads(json.dumps(sampler.state()))
    other = Sampler(40, batch_size=4, seed=5)
    other.restore(state)
    rest, expected = list(other.rest_of_epoch()), list(batches)
    assert all(torch.equal(a, b) for a, b in zip(rest, expected, strict=True))
    assert 17 not in torch.cat(rest) and len(rest) == 7


def test_blocks_keep_neighbours_near_in_time_and_still_mix_them() -> None:
    order = Sampler(6400, batch_size=10, seed=0, block=10).order(0)
    window = order[:160]
    assert len({int(row) // 10 for row in window}) == 16  # 16 whole blocks are read for 160 images
    assert not torch.equal(window[:10] // 10, (window[0] // 10).repeat(10))
