"""What stands still has no part in the directions of change."""

import torch

from frazil.reconstruct.region import region_of_change

BOX, DIRECTIONS = 20, 6


def _halves(signal: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions that change the density in a cube, the same in both halves, with noise of deviation 1 everywhere."""
    generator = torch.Generator().manual_seed(3)
    moving = torch.zeros(DIRECTIONS, BOX, BOX, BOX)
    moving[:, 5:11, 5:11, 5:11] = signal * torch.randn(DIRECTIONS, 6, 6, 6, generator=generator)
    a, b = moving + torch.randn(2, *moving.shape, generator=generator)
    return a, b


def test_the_region_is_where_both_halves_change():
    region = region_of_change(*_halves(signal=5.0))
    inside = torch.zeros(BOX, BOX, BOX, dtype=torch.bool)
    inside[5:11, 5:11, 5:11] = True
    assert float(region[inside].median()) > 0.95
    assert float(region[~inside].median()) < 0.01
    assert float(region[~inside].max()) < 0.6


def test_what_changes_most_is_believed_however_weak_it_is():
    assert float(region_of_change(*_halves(signal=0.5)).max()) > 0.98


def test_where_nothing_is_noise_every_change_is_believed():
    a = torch.full((1, 4, 4, 4), 0.1)
    a[0, 0, 0, 0] = 1.0
    torch.testing.assert_close(region_of_change(a, a), torch.ones(4, 4, 4))


def test_no_direction_changes_nothing():
    none = torch.zeros(0, 4, 4, 4)
    assert float(region_of_change(none, none).abs().max()) == 0
