"""Images turned in their plane: against the same blobs drawn at turned places, and the adjoint against its definition."""

from __future__ import annotations

import math

import pytest
import torch

from frazil.numerics.fourier import half_plane, images_to_coefficients
from frazil.numerics.turning import (
    Turning,
    images_of_spectra,
    shift_of_tables,
    spectra_of_images,
    table_shells,
    table_side,
    with_mates,
)

BLOBS = ((3.0, 1.0, 1.9, 1.0), (-5.0, 4.0, 2.2, 2.0), (0.0, -6.0, 1.8, 1.5))
ANGLES = torch.tensor([0.0, 0.3, 1.2, 2.9])


def blobs(n: int, angle: float = 0.0, moved: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    """Gaussians at places turned counter-clockwise from x to y, then moved."""
    axis = torch.arange(n) - n // 2
    image = torch.zeros(n, n)
    for x, y, sigma, weight in BLOBS:
        across = math.cos(angle) * x - math.sin(angle) * y + moved[0]
        up = math.sin(angle) * x + math.cos(angle) * y + moved[1]
        image += weight * torch.exp(-((axis - across) ** 2 + (axis[:, None] - up) ** 2) / (2 * sigma**2))
    return image


@pytest.mark.parametrize("n", [32, 33])
def test_turned_image_is_the_image_of_what_is_turned(n: int) -> None:
    layout = half_plane(n)
    turning = Turning.of(ANGLES, layout, layout.band)
    found = torch.view_as_complex(turning.turned(spectra_of_images(blobs(n)[None], layout.band))[0].contiguous())
    expected = torch.stack([images_to_coefficients(blobs(n, float(angle)), layout) for angle in ANGLES])
    error = (found - expected).abs().square().sum(dim=1) / expected.abs().square().sum(dim=1)
    assert float(error.max()) < 0.04**2


@pytest.mark.parametrize("n", [16, 17])
def test_turning_back_is_the_adjoint_of_turning(n: int) -> None:
    layout, generator = half_plane(n, 5), torch.Generator().manual_seed(1)
    turning = Turning.of(ANGLES, layout, 6)  # the table reaches further than the coefficients
    rows, columns = table_side(6)
    tables = torch.randn(3, rows * columns, 2, generator=generator)
    values = torch.randn(3, len(ANGLES), layout.count, 2, generator=generator)
    left = (turning.turned(tables) * values).double().sum()
    right = (tables * turning.turned_back(values)).double().sum()
    assert float(left) == pytest.approx(float(right), rel=1e-4)


@pytest.mark.parametrize("n", [24, 25])
def test_images_come_back_from_their_turned_coefficients(n: int) -> None:
    layout = half_plane(n)
    angles = torch.arange(48) * (torch.pi / 48)
    turning = Turning.of(angles, layout, layout.band)
    values = torch.stack([images_to_coefficients(blobs(n, float(angle)), layout) for angle in angles])
    sums = turning.turned_back(torch.view_as_real(values)[None])
    weight = with_mates(turning.weights_back(torch.ones(1, len(angles), layout.count)), layout.band)
    band = layout.band
    whole = torch.stack((with_mates(sums[..., 0], band), with_mates(sums[..., 1], band, -1)), dim=-1)
    found = images_to_coefficients(images_of_spectra(whole / weight.clamp(min=1e-6)[..., None], band, n)[0], layout)
    expected = images_to_coefficients(blobs(n), layout)
    # between the first shells there is nothing to read from: the lowest come out changed
    shown = layout.shell > 2
    assert float((found - expected)[shown].abs().norm() / expected[shown].abs().norm()) < 0.08


def test_a_table_times_its_phases_is_that_of_the_moved_image() -> None:
    n, band = 32, 12
    moved = spectra_of_images(blobs(n, moved=(2.0, -3.0))[None], band)
    phases = shift_of_tables(torch.tensor([[2.0, -3.0]]), band, n)
    back = torch.view_as_complex(moved.contiguous()) * phases
    expected = torch.view_as_complex(spectra_of_images(blobs(n)[None], band).contiguous())
    inside = table_shells(band) <= band
    error = ((back - expected).abs()[:, inside].norm() / expected.abs()[:, inside].norm()).item()
    assert error < 0.05  # the compensation for the interpolation is that of another place
