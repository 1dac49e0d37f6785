"""Shell statistics, half-map correlation, masks, small statistics."""

import pytest
import torch
from scipy import stats

from frazil.numerics.masks import mask_from_volume, soft_circle, soft_sphere
from frazil.numerics.resolution import compare_half_maps, randomise_phases
from frazil.numerics.shells import filter_shells, first_shell_below, low_pass, shell_correlation, shell_power
from frazil.numerics.statistics import pearson, spearman

BOXES = [24, 25]


@pytest.mark.parametrize("box_size", BOXES)
def test_correlation_of_noisy_copies_follows_their_signal_to_noise(box_size: int):
    generator = torch.Generator().manual_seed(0)
    signal, a, b = (torch.randn(3, box_size, box_size, box_size, generator=generator, dtype=torch.float64)).unbind(0)
    for ratio in (4.0, 1.0, 0.25):
        curve = shell_correlation(signal * ratio**0.5 + a, signal * ratio**0.5 + b)
        assert float(curve[6:12].mean()) == pytest.approx(ratio / (1 + ratio), abs=0.04)


@pytest.mark.parametrize("box_size", BOXES)
def test_correlation_equals_a_direct_sum_over_the_full_spectrum(box_size: int):
    a, b = torch.randn(2, box_size, box_size, box_size, dtype=torch.float64).unbind(0)
    full_a, full_b = torch.fft.fftn(a), torch.fft.fftn(b)
    k = torch.fft.fftfreq(box_size, 1 / box_size, dtype=torch.float64)
    shell = (k[:, None, None] ** 2 + k[:, None] ** 2 + k**2).sqrt().round()
    for index in (1, 5, box_size // 2):
        here = shell == index
        cross = (full_a * full_b.conj()).real[here].sum()
        direct = cross / (full_a[here].abs().square().sum() * full_b[here].abs().square().sum()).sqrt()
        assert float(shell_correlation(a, b)[index]) == pytest.approx(float(direct), abs=1e-10)


@pytest.mark.parametrize("box_size", BOXES)
def test_power_of_white_noise_is_flat(box_size: int):
    power = shell_power(2 * torch.randn(box_size, box_size, box_size, dtype=torch.float64))
    assert float((power[4:12] / (4 * box_size**3)).sub(1).abs().max()) < 0.25


def test_first_shell_below_interpolates_and_skips_shell_zero():
    assert first_shell_below(torch.tensor([0.0, 1.0, 0.75, 0.25, 0.0]), 0.5) == pytest.approx(2.5)
    assert first_shell_below(torch.tensor([1.0, 1.0, 1.0]), 0.5) == 2.0
    assert first_shell_below(torch.tensor([1.0, 0.2, 0.0]), 0.6) == pytest.approx(0.5)


@pytest.mark.parametrize("box_size", BOXES)
def test_filtering_scales_each_shell_by_its_gain(box_size: int):
    volume = torch.randn(box_size, box_size, box_size, dtype=torch.float64)
    gain = torch.linspace(1, 0.1, box_size // 2 + 1, dtype=torch.float64)
    expected = shell_power(volume) * gain**2
    torch.testing.assert_close(shell_power(filter_shells(volume, gain)), expected, rtol=1e-8, atol=1e-8)


def test_low_pass_keeps_low_shells_and_removes_high_ones():
    power = shell_power(low_pass(torch.randn(32, 32, 32, dtype=torch.float64), 8, 2))
    assert float(power[10:].max()) < 1e-12 * float(power[1])


@pytest.mark.parametrize("box_size", BOXES)
def test_soft_masks_are_one_inside_zero_outside_half_between(box_size: int):
    for mask, centre in (
        (soft_circle(box_size, 5, 4), (box_size // 2,) * 2),
        (soft_sphere(box_size, 5, 4), (box_size // 2,) * 3),
    ):
        line = mask[centre[:-1]]
        assert float(line[centre[0] + 5]) == 1.0
        assert float(line[centre[0] + 7]) == pytest.approx(0.5)
        assert float(line[centre[0] + 9]) == 0.0


def test_mask_from_volume_keeps_the_molecule_and_drops_specks():
    volume = 2 * soft_sphere(32, 6, 1)
    volume[2, 2, 2] = 5
    mask = mask_from_volume(volume, 1.0, 2.0, 3.0)
    assert float(mask[2, 2, 2]) == 0.0
    assert float(mask[16, 16, 16 + 8]) == 1.0
    assert float(mask[16, 16, 16 + 13]) == 0.0


def test_randomising_phases_keeps_amplitudes_and_low_shells():
    volume = torch.randn(20, 20, 20, dtype=torch.float64)
    changed = randomise_phases(volume, 5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(shell_power(changed), shell_power(volume), rtol=2e-2, atol=0)
    curve = shell_correlation(volume, changed)
    assert float(curve[1:5].min()) > 0.999
    assert float(curve[6:].abs().max()) < 0.3


def test_correction_removes_the_agreement_that_a_mask_makes():
    generator = torch.Generator().manual_seed(1)
    signal = low_pass(torch.randn(40, 40, 40, generator=generator, dtype=torch.float64), 6) * 8
    halves = [signal + 0.3 * torch.randn(40, 40, 40, generator=generator, dtype=torch.float64) for _ in range(2)]
    tight = soft_sphere(40, 4, 2).to(torch.float64)
    curves = compare_half_maps(halves[0], halves[1], tight, generator)
    assert float(curves.masked[12:].mean()) > 3 * abs(float(curves.corrected[14:].mean()))
    assert abs(float(curves.corrected[14:].mean())) < 0.1


def test_spearman_and_pearson_agree_with_scipy():
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(200, generator=generator)
    b = (a + torch.randn(200, generator=generator)).round(decimals=1)
    assert spearman(a, b) == pytest.approx(float(stats.spearmanr(a.numpy(), b.numpy()).statistic), abs=1e-9)
    assert pearson(a, b) == pytest.approx(float(stats.pearsonr(a.numpy(), b.numpy()).statistic), abs=1e-6)
    assert spearman(a, torch.ones(200)) == 0.0
