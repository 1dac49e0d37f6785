"""Noise has the variance and the spectrum that a signal-to-noise ratio asks for, at any pixel size."""

import math

import numpy as np
import pytest
import torch

from frazil.numerics.fourier import coefficients_to_images
from frazil.physics.grid import Grid
from frazil.simulate.molecules import generate
from frazil.simulate.noise import NoiseLevel, NoiseShape, mean_variance, reference_grid
from frazil.simulate.particles import OpticsLaw, draw_particles, noise_level, normalised, sample_images, seeded
from frazil.simulate.specimen import MovingMolecule

GRID = Grid(32, 8.0)
LAW = OpticsLaw(300, 2.7, 0.1, 0.0, 100.0, (8000, 22000), 150)


def draw(count: int = 200, grid: Grid = GRID, seed: int = 0, optics: OpticsLaw | None = LAW):
    specimen = MovingMolecule(generate("linear-1d", grid, 170.0, 3.6))
    return draw_particles(specimen, grid, count, optics=optics, shift_range=10.0, states=4, seed=seed)


def test_the_variance_from_coefficients_is_that_of_the_pixels():
    drawn = draw(20)
    coefficients = drawn.coefficients(slice(0, 20), GRID)
    pixels = coefficients_to_images(coefficients, GRID.half_plane())
    expected = float(pixels.flatten(1).var(dim=1, correction=0).mean())
    assert mean_variance(coefficients, GRID.half_plane()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["white", "coloured"])
def test_the_measured_ratio_is_the_one_asked_for(kind):
    shape = NoiseShape(4.0 if kind == "coloured" else 0.0, 30.0)
    drawn = draw()
    drawn, level = normalised(drawn, noise_level(drawn, 0.05, None, shape))
    clean = sample_images(drawn, slice(0, 200), None, seeded(0, "noise"))
    noisy = sample_images(drawn, slice(0, 200), level, seeded(0, "noise"))
    signal = float(clean.flatten(1).var(dim=1).mean())
    noise = float((noisy - clean).square().mean())
    assert noise == pytest.approx(1.0, rel=0.02)
    assert signal / noise == pytest.approx(0.05, rel=0.02)


def test_the_measured_spectrum_is_the_one_asked_for():
    shape = NoiseShape(6.0, 40.0)
    level = NoiseLevel.from_ratio(0.1, 0.2, GRID, shape)
    images = level.noise(GRID).sample(800, GRID, torch.Generator().manual_seed(1))
    power = np.abs(np.fft.fft2(images.numpy())) ** 2
    index = np.fft.fftfreq(32, 1 / 32)
    shell = np.round(np.hypot(index[:, None], index)).astype(int)
    measured = torch.tensor([power[:, shell == radius].mean() for radius in range(16)])
    frequency = torch.arange(16) / GRID.extent
    expected = 1 + 6 / (1 + (40 * frequency) ** 2)
    ratio = measured / expected
    assert torch.allclose(ratio[1:] / ratio[1:].mean(), torch.ones(15), atol=0.06)
    assert float(images.var()) == pytest.approx(2.0, rel=0.02)


def test_a_ratio_stated_at_fine_pixels_leaves_the_spectral_density_when_images_are_cropped():
    """Noise of variance s^2 on 128 pixels, Fourier-cropped to 32 (mean kept), has variance s^2 / 16."""
    fine = reference_grid(GRID, 2.0)
    assert fine == Grid(128, 2.0)
    drawn = draw()
    level = noise_level(drawn, 0.01, 2.0, NoiseShape())
    assert drawn.signal_variance(fine) / level.variance(fine) == pytest.approx(0.01)
    # a pixel is a line integral over the pixel size: 4 times smaller numbers on 4 times larger pixels
    assert level.variance(GRID) * 4**2 == pytest.approx(level.variance(fine) / 16)
    effective = drawn.signal_variance(GRID) / level.variance(GRID)
    assert 0.10 < effective < 0.1601


def test_coloured_noise_at_fine_pixels_keeps_its_shape_in_physical_frequency():
    shape, fine = NoiseShape(5.0, 25.0), Grid(128, 2.0)
    level = NoiseLevel.from_ratio(0.1, 1.0, fine, shape)
    spectra = [level.noise(grid).power[:16] * grid.pixel_size**4 / grid.box_size**2 for grid in (fine, GRID)]
    assert torch.allclose(*spectra)


def test_normalised_images_have_unit_noise_and_the_ratio_is_kept():
    drawn = draw()
    level = noise_level(drawn, 0.3, None, NoiseShape())
    scaled, scaled_level = normalised(drawn, level)
    assert scaled_level.variance(GRID) == pytest.approx(1.0)
    assert scaled.signal_variance(GRID) == pytest.approx(0.3)
    silent, none = normalised(drawn, None)
    assert none is None
    assert silent.signal_variance(GRID) == pytest.approx(1.0)


def test_defocus_and_astigmatism_follow_their_law():
    optics = LAW.draw(4000, torch.Generator().manual_seed(0))
    mean = (optics.defocus_u + optics.defocus_v) / 2
    assert float(mean.min()) >= 8000 and float(mean.max()) <= 22000
    assert float(mean.mean()) == pytest.approx(15000, rel=0.02)
    split = optics.defocus_u - optics.defocus_v
    assert float(split.min()) >= 0
    assert float(split.mean()) == pytest.approx(150 * math.sqrt(2 / math.pi), rel=0.05)


def test_poses_stay_when_the_noise_or_the_optics_change():
    assert torch.equal(draw().pose.rotation, draw(optics=None).pose.rotation)
    assert not torch.equal(draw(seed=1).pose.rotation, draw(seed=2).pose.rotation)


def test_half_sets_are_equal_in_size():
    assert torch.bincount(draw(201).half_set).tolist() == [101, 100]
