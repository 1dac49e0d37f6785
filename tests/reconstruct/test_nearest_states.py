"""States hang from their nearest, and differ from it only where both half-sets say so."""

import pytest
import torch
from torch import Tensor

from frazil.reconstruct.nearest_states import between_nearest, branches, squared_distances
from frazil.reconstruct.states import States


def assembly(box: int, noise: float) -> tuple[States, Tensor]:
    """Three states that a lobe is added to one after the other, with the noise of two halves; and their true maps."""
    axis = torch.arange(box, dtype=torch.float32) - box // 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    places = torch.tensor([[-6.0, 0, 0], [0, 6.0, 0], [6.0, -4.0, 0]])
    lobes = torch.stack([torch.exp(-(points - place).square().sum(-1) / 8) for place in places])
    true = lobes.cumsum(0)
    generator = torch.Generator().manual_seed(box)
    a, b = (true + noise * torch.randn(true.shape, generator=generator) for _ in range(2))
    return States(a, b, torch.tensor([0.2, 0.5, 0.3])), true


@pytest.mark.parametrize("box", [24, 25])
def test_each_state_hangs_from_the_one_least_away_and_the_most_populated_from_none(box: int) -> None:
    states, _ = assembly(box, 0.05)
    assert sorted(branches(states)) == [(0, 1), (2, 1)]


def test_a_neighbour_stands_before_the_states_that_hang_from_it() -> None:
    states, _ = assembly(24, 0.05)
    states = States(states.a, states.b, torch.tensor([0.6, 0.3, 0.1]))
    assert branches(states) == [(1, 0), (2, 1)]


@pytest.mark.parametrize("box", [24, 25])
def test_noise_is_left_out_where_no_change_is_told(box: int) -> None:
    states, true = assembly(box, 0.1)
    found = between_nearest(states)
    apart, wanted = found.a[2] - found.a[1], true[2] - true[1]
    changes = wanted > 0.5
    assert float((apart - wanted)[changes].abs().mean()) < 0.2
    far = wanted < 1e-3
    # of the noise of a difference, 0.14, a tenth is left
    assert float(apart[far].square().mean().sqrt()) < 0.02


@pytest.mark.parametrize("box", [24, 25])
def test_the_mean_of_all_states_stays_as_it_was(box: int) -> None:
    states, _ = assembly(box, 0.1)
    found = between_nearest(states)
    for now, before in ((found.a, states.a), (found.b, states.b)):
        torch.testing.assert_close(torch.tensordot(states.share, now, 1), torch.tensordot(states.share, before, 1))


def test_noise_has_no_part_in_the_distance_of_states() -> None:
    noisy, true = assembly(24, 0.3)
    exact = States(true, true, noisy.share)
    # noise adds 2 x 0.09 in each of 13,824 voxels, twenty times a lobe, to the distance within a half
    torch.testing.assert_close(squared_distances(noisy), squared_distances(exact), atol=60.0, rtol=0)


def test_one_state_alone_stays_as_it_is() -> None:
    states, _ = assembly(24, 0.1)
    alone = States(states.a[:1], states.b[:1], torch.ones(1))
    assert between_nearest(alone) is alone


def test_equal_states_are_no_obstacle() -> None:
    states, _ = assembly(24, 0.0)
    same = States(states.a[[0, 0, 0]], states.b[[0, 0, 0]], states.share)
    torch.testing.assert_close(between_nearest(same).a, same.a)
