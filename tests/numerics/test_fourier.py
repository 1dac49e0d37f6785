"""Centred transforms and the half-plane."""

import cmath

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frazil.numerics.fourier import (
    coefficients_to_images,
    half_plane,
    images_to_coefficients,
    resize_images,
    resize_volume,
    spectrum_to_volume,
    volume_to_spectrum,
)

BOXES = [8, 9, 32, 33]


@pytest.mark.parametrize("box_size", BOXES)
def test_coefficients_equal_the_defining_sum(box_size: int):
    image = torch.randn(box_size, box_size, dtype=torch.float64)
    layout = half_plane(box_size)
    coefficients = images_to_coefficients(image, layout)
    centre = box_size // 2
    for index in (0, 1, layout.count // 2, layout.count - 1):
        kx, ky = int(layout.x[index]), int(layout.y[index])
        direct = sum(
            float(image[y, x]) * cmath.exp(-2j * cmath.pi * (kx * (x - centre) + ky * (y - centre)) / box_size)
            for y in range(box_size)
            for x in range(box_size)
        )
        assert abs(complex(coefficients[index]) - direct) < 1e-9


@pytest.mark.parametrize("box_size", BOXES)
def test_half_plane_lists_every_coefficient_or_its_mate_once(box_size: int):
    layout = half_plane(box_size)
    listed = {(int(x), int(y)) for x, y in zip(layout.x, layout.y, strict=True)}
    assert len(listed) == layout.count
    assert not any((-x, -y) in listed for x, y in listed - {(0, 0)})
    disc = sum(
        x * x + y * y < (layout.band + 0.5) ** 2
        for x in range(-box_size, box_size + 1)
        for y in range(-box_size, box_size + 1)
    )
    assert int(layout.weight.sum()) == disc


@pytest.mark.parametrize("box_size", BOXES)
def test_a_band_limit_is_a_prefix(box_size: int):
    whole, part = half_plane(box_size), half_plane(box_size).within(2)
    assert torch.equal(whole.x[: part.count], part.x)
    assert torch.equal(whole.y[: part.count], part.y)
    assert bool((whole.radius[1:] >= whole.radius[:-1]).all())


@pytest.mark.parametrize("box_size", BOXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_within_the_band_survive_the_round_trip(box_size: int, dtype: torch.dtype):
    layout = half_plane(box_size)
    images = coefficients_to_images(
        images_to_coefficients(torch.randn(3, box_size, box_size, dtype=dtype), layout), layout
    )
    again = coefficients_to_images(images_to_coefficients(images, layout), layout)
    assert images.dtype == dtype
    torch.testing.assert_close(again, images, atol=1e-5 if dtype == torch.float32 else 1e-12, rtol=0)


@pytest.mark.parametrize("box_size", BOXES)
def test_parseval_holds_with_the_weights_of_the_half_plane(box_size: int):
    layout = half_plane(box_size)
    coefficients = images_to_coefficients(torch.randn(box_size, box_size, dtype=torch.float64), layout)
    image = coefficients_to_images(coefficients, layout)
    spectral = (layout.weight * coefficients.abs().square()).sum() / box_size**2
    assert float(spectral) == pytest.approx(float(image.square().sum()), rel=1e-10)


@pytest.mark.parametrize("box_size", BOXES)
def test_a_point_at_the_centre_has_a_flat_real_spectrum(box_size: int):
    volume = torch.zeros(box_size, box_size, box_size, dtype=torch.float64)
    volume[box_size // 2, box_size // 2, box_size // 2] = 1
    spectrum = volume_to_spectrum(volume)
    torch.testing.assert_close(spectrum, torch.ones_like(spectrum))
    torch.testing.assert_close(spectrum_to_volume(spectrum, box_size), volume)


def test_a_band_beyond_the_box_is_refused():
    with pytest.raises(ValueError, match="band 16 does not fit a box of 32"):
        half_plane(32, 16)


@settings(deadline=None, max_examples=20)
@given(size=st.integers(8, 20), larger=st.integers(0, 9))
def test_padding_a_spectrum_and_cropping_it_again_changes_nothing(size: int, larger: int):
    layout = half_plane(size)
    image = coefficients_to_images(
        images_to_coefficients(torch.randn(1, size, size, dtype=torch.float64), layout), layout
    )
    grown = resize_images(image, size + larger)
    torch.testing.assert_close(resize_images(grown, size), image, atol=1e-10, rtol=0)
    assert float(grown.mean()) == pytest.approx(float(image.mean()), abs=1e-10)


@pytest.mark.parametrize(("before", "after"), [(16, 24), (15, 9), (12, 11)])
def test_a_smooth_wave_keeps_its_values_when_the_box_is_resized(before: int, after: int):
    def wave(n: int) -> torch.Tensor:
        x = (torch.arange(n, dtype=torch.float64) - n // 2) / n
        return torch.cos(2 * torch.pi * (x[:, None, None] + 2 * x[:, None] - x))

    torch.testing.assert_close(resize_volume(wave(before), after), wave(after), atol=1e-10, rtol=0)
