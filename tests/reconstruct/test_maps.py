"""What is read off two half-maps."""

import pytest
import torch

from frazil.numerics.masks import soft_sphere
from frazil.numerics.shells import filter_shells, first_shell_below, low_pass, shell_correlation
from frazil.physics.grid import Grid
from frazil.reconstruct.maps import (
    SOLVENT_GAIN,
    believed,
    contrast_of,
    finish_maps,
    guinier_b_factor,
    solvent_window,
)

GRID = Grid(48, 2.0)


def _blob() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    inside = soft_sphere(48, 13, 2)
    return inside * (1 + 0.5 * torch.randn(48, 48, 48, generator=generator))


def test_contrast_of_a_bright_map_is_plus_one_and_of_a_dark_map_minus_one():
    noise = 0.3 * torch.randn(48, 48, 48, generator=torch.Generator().manual_seed(1))
    assert contrast_of(_blob() + noise, GRID) == 1
    assert contrast_of(-_blob() + noise, GRID) == -1


@pytest.mark.parametrize("b_factor", [0.0, -80.0, -250.0])
def test_guinier_recovers_the_b_factor_of_a_map(b_factor: float):
    white = torch.randn(64, 64, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    grid = Grid(64, 1.5)
    squared = (torch.arange(33, dtype=torch.float64) / grid.extent) ** 2
    damped = filter_shells(white, torch.exp(b_factor / 4 * squared))
    assert guinier_b_factor(damped, grid, 3.5) == pytest.approx(b_factor, abs=8)


def test_a_map_that_ends_before_the_guinier_range_is_not_sharpened():
    assert guinier_b_factor(_blob(), Grid(48, 8.0), 17.0) == 0.0


def test_resolution_is_where_the_signal_ends():
    generator = torch.Generator().manual_seed(4)
    signal = low_pass(_blob() * 5, 12, 1)
    halves = [signal + 0.05 * torch.randn(48, 48, 48, generator=generator) for _ in range(2)]
    maps = finish_maps(halves[0], halves[1], (halves[0] + halves[1]) / 2, GRID, None, 0)
    assert maps.unmasked_resolution() == pytest.approx(GRID.resolution_of(12.5), rel=0.1)
    beyond = (
        torch.fft.fftn(maps.filtered).abs()[15:20, 0, 0].max() / torch.fft.fftn(maps.half_a).abs()[15:20, 0, 0].max()
    )
    assert float(beyond) < 0.15


def test_belief_never_rises_again_and_never_falls_below_zero():
    curve = torch.tensor([1.0, 0.98, 0.9, 0.5, 0.2, -0.1, 0.3, -0.3, 0.1], dtype=torch.float64)
    weight = believed(curve)
    assert bool((weight[1:] <= weight[:-1]).all())
    assert float(weight.min()) >= 0
    assert float(weight[2]) == pytest.approx((0.98 + 0.9 + 0.5) / 3)


def test_far_from_the_molecule_the_noise_is_turned_down_and_near_it_nothing_changes():
    grid = Grid(64, 4.0)
    window = solvent_window(soft_sphere(64, 10, 2), grid)
    assert torch.all(window[soft_sphere(64, 12, 0) > 0.5] == 1)
    torch.testing.assert_close(window[0, 0], torch.full((64,), SOLVENT_GAIN))
    assert torch.all(solvent_window(torch.zeros(64, 64, 64), grid) == 1)


def test_turning_the_solvent_down_brings_a_noisy_map_closer_to_the_truth():
    generator = torch.Generator().manual_seed(5)
    grid, truth = Grid(64, 4.0), torch.zeros(64, 64, 64)
    truth[22:42, 22:42, 22:42] = low_pass(torch.randn(64, 64, 64, generator=generator), 25)[22:42, 22:42, 22:42]
    noisy = truth + truth.std() * 3 * torch.randn(64, 64, 64, generator=generator)
    quiet = noisy * solvent_window(soft_sphere(64, 18, 2), grid)
    assert first_shell_below(shell_correlation(quiet, truth), 0.3) > first_shell_below(
        shell_correlation(noisy, truth), 0.3
    )
