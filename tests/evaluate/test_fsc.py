"""Fourier shell correlations have known values for known signals and noise."""

import numpy as np
import pytest
import torch

from frazil.errors import InputError
from frazil.evaluate.fsc import (
    area_under,
    benchmark_curve,
    benchmark_resolution,
    curve_figures,
    masked_correlation,
    perfect_area,
)
from frazil.numerics.masks import soft_sphere
from frazil.numerics.resolution import randomise_phases
from frazil.numerics.shells import shell_correlation


def noise_map(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(a: np.ndarray, b: np.ndarray) -> list[float]:
    """The published rule, coefficient by coefficient, on the full spectrum."""
    n = len(a)
    first, second = (np.fft.fftshift(np.fft.fftn(np.fft.fftshift(volume))) for volume in (a, b))
    axis = np.arange(-(n // 2), n - n // 2)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    curve = [1.0]
    for i in range(1, n // 2):
        shell = (radius >= i - 1) & (radius < i)
        u, v = first[shell], second[shell]
        curve.append(float((np.vdot(u, v) / np.sqrt(np.vdot(u, u) * np.vdot(v, v))).real))
    return curve


@pytest.mark.parametrize("n", [16, 17])
def test_benchmark_curve_is_the_published_rule(n):
    a = noise_map(n, 1)
    b = 0.6 * a + 0.8 * noise_map(n, 2)
    np.testing.assert_allclose(benchmark_curve(a, b).numpy(), by_definition(a.numpy(), b.numpy()), atol=1e-12)


def test_two_halves_with_equal_noise_correlate_by_signal_over_signal_plus_noise():
    n, signal_to_noise = 48, 0.5
    signal = noise_map(n, 1)
    halves = [signal + signal_to_noise**-0.5 * noise_map(n, seed) for seed in (2, 3)]
    expected = signal_to_noise / (1 + signal_to_noise)
    curve = shell_correlation(*halves)
    assert abs(float(curve[8:24].mean()) - expected) < 0.02
    assert abs(float(benchmark_curve(*halves)[8:].mean()) - expected) < 0.02


@pytest.mark.parametrize(("n", "area"), [(128, 0.4921875), (64, 0.484375)])
def test_a_perfect_map_has_the_published_perfect_area(n, area):
    assert perfect_area(n) == area
    assert area_under(torch.ones(n // 2), n) == pytest.approx(area)


def test_resolution_is_that_of_the_first_entry_below_the_threshold_and_two_pixels_without_one():
    curve = torch.ones(32)
    assert benchmark_resolution(curve, 0.5, 64) == 2.0
    curve[16] = 0.2
    assert benchmark_resolution(curve, 0.5, 64) == 4.0
    assert curve_figures(torch.tensor([1, 1, 1, 0.0]), 60.0, 6)["resolution_0.5"] == pytest.approx(60 / 2.5)


def test_a_mask_alone_correlates_noise_and_the_correction_removes_it():
    n = 40
    mask = soft_sphere(n, 7, 3, like=noise_map(4, 0))
    a, b = noise_map(n, 1), noise_map(n, 2)
    grid = torch.arange(n) - n // 2
    blob = 200 * torch.exp(-(grid[:, None, None] ** 2 + grid[:, None] ** 2 + grid**2) / 18.0).double()
    found = masked_correlation(a + blob, b + blob, mask)
    far = slice(found.randomised_from + 3, n // 2)
    assert float(found.masked[far].mean()) - float(found.unmasked[far].mean()) > -0.05
    assert abs(float(found.corrected[far].mean())) < 0.12
    assert float(found.corrected[1]) > 0.9


def test_sharp_masks_are_found_out():
    n = 32
    shared = torch.zeros(n, n, n, dtype=torch.float64)
    shared[12:20, 12:20, 12:20] = 1.0  # the mask itself, with its sharp edges
    a, b = noise_map(n, 1) * 0.1 + 5, noise_map(n, 2) * 0.1 + 5
    found = masked_correlation(a, b, shared)
    far = slice(found.randomised_from + 2, n // 2)
    assert float(found.masked[far].mean()) > 0.8
    assert float(found.corrected[far].mean()) < 0.3


def test_randomised_phases_keep_amplitudes_and_low_shells():
    n = 24
    volume = noise_map(n, 4)
    random = randomise_phases(volume, 6, torch.Generator().manual_seed(0))
    curve = shell_correlation(volume, random)
    assert torch.allclose(curve[:6], torch.ones(6, dtype=torch.float64), atol=1e-9)
    assert float(curve[7:].abs().mean()) < 0.1
    np.testing.assert_allclose(torch.fft.rfftn(random).abs().numpy(), torch.fft.rfftn(volume).abs().numpy(), atol=1e-8)


def test_maps_of_different_size_are_refused_with_both_sizes():
    with pytest.raises(InputError, match=r"8 × 8 × 8 and 9 × 9 × 9"):
        benchmark_curve(torch.zeros(8, 8, 8), torch.zeros(9, 9, 9))
