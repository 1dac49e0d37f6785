"""The local correlation finds where a map was filtered to what."""

from __future__ import annotations

import pytest
import torch

from frazil.numerics.local_resolution import local_correlation, window_average
from frazil.numerics.shells import low_pass


def _two_regions(n: int, low: float, high: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Half-maps that share white noise up to shell `low` where x < 0 and up to `high` elsewhere, each with its own."""
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(n, n, n, generator=generator)
    left = (torch.arange(n) < n // 2).to(torch.float32)
    signal = low_pass(shared, low, 1.0) * left + low_pass(shared, high, 1.0) * (1 - left)
    halves = [signal + 0.5 * torch.randn(n, n, n, generator=generator) for _ in range(2)]
    return halves[0], halves[1]


@pytest.mark.parametrize("n", [64, 63])
def test_two_regions_filtered_to_two_resolutions_are_told_apart(n: int) -> None:
    low, high = 10.0, 20.0
    limit = local_correlation(*_two_regions(n, low, high)).limit()
    quarter = n // 4
    left, right = limit[:, :, quarter - 4 : quarter + 4], limit[:, :, -quarter - 4 : -quarter + 4]
    # the noise has 1/4 of the signal's power: the correlation is 0.5 where the filter's edge has fallen to a half
    assert float(left.median()) == pytest.approx(low, abs=2.0)
    assert float(right.median()) == pytest.approx(high, abs=2.0)
    assert float((left < (low + high) / 2).float().mean()) > 0.95
    assert float((right > (low + high) / 2).float().mean()) > 0.95


def test_the_same_map_twice_agrees_everywhere_to_the_last_band() -> None:
    volume = torch.randn(24, 24, 24, generator=torch.Generator().manual_seed(0))
    found = local_correlation(volume, volume)
    assert float(found.correlation.min()) > 0.999
    assert (found.limit() == 11).all()


def test_noise_agrees_nowhere() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(32, 32, 32, generator=generator) for _ in range(2))
    assert float(local_correlation(a, b).limit().median()) < 4


def test_bands_are_as_many_as_asked_and_limits_are_interpolated() -> None:
    a, b = _two_regions(32, 6.0, 12.0)
    found = local_correlation(a, b, bands=5)
    assert found.shells.tolist() == [2, 5.25, 8.5, 11.75, 15]
    assert len(found.limit().unique()) > 100


def test_the_window_is_a_gaussian_of_its_width() -> None:
    point = torch.zeros(33, 33, 33, dtype=torch.float64)
    point[16, 16, 16] = 1
    x = torch.arange(33, dtype=torch.float64) - 16
    squared = x[:, None, None] ** 2 + x[:, None] ** 2 + x**2
    expected = torch.exp(-squared / (2 * 2.5**2)) / (2 * torch.pi * 2.5**2) ** 1.5
    torch.testing.assert_close(window_average(point, 2.5), expected, atol=1e-7, rtol=0)
