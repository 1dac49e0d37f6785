"""Beam tilt from the phases of images that were simulated with a known one."""

import dataclasses

import pytest
import torch

from frazil.inference.beam_tilt import BeamTilt, PhaseSums, beam_tilt_of
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.microscope import Microscope
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose

TILT = (0.8, -0.5)


def estimate(grid: Grid, noise: float, moved: float, seed: int = 0) -> BeamTilt:
    """``noise``: standard deviation of a coefficient's parts over the signal's. moved: Å by which all poses are wrong."""
    generator = torch.Generator().manual_seed(seed)
    centres = 0.14 * grid.extent * torch.randn(40, 3, generator=generator, dtype=torch.float64).clamp(-2, 2)
    one = torch.ones(40, dtype=torch.float64)
    density = Gaussians(centres, one, 1.2 * one)
    pose = Pose.random(60, 4.0, generator, torch.float64)
    optics = Optics.make(
        voltage=300.0, cs=2.7, amplitude_contrast=0.1, defocus_u=torch.linspace(8000, 20000, 60), beam_tilt_x=TILT[0],
        beam_tilt_y=TILT[1],
    )  # fmt: skip
    plane = grid.half_plane()
    images = torch.view_as_real(Microscope(density).image(pose, optics, grid, plane))
    sigma = noise * float(images[:, 1:].std())
    images = images + sigma * torch.randn(images.shape, generator=generator, dtype=torch.float64)
    wrong = dataclasses.replace(pose, shift=pose.shift + moved)
    flat = torch.zeros(60, dtype=torch.float64)
    plain = dataclasses.replace(optics, beam_tilt_x=flat, beam_tilt_y=flat)
    model = torch.view_as_real(Microscope(density).image(wrong, plain, grid, plane))
    whitening = 1 / max(sigma, 1e-3)
    return beam_tilt_of(PhaseSums.of(images * whitening, model * whitening), grid, plane, 300.0, 2.7)


@pytest.mark.parametrize("grid", [Grid(48, 1.2), Grid(49, 1.2)])
def test_the_tilt_of_images_without_noise_is_found_and_so_is_a_shift_of_all(grid: Grid):
    found = estimate(grid, 0.0, 0.3)
    torch.testing.assert_close(found.tilt, torch.tensor(TILT, dtype=torch.float64), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.shift, torch.full((2,), -0.3, dtype=torch.float64), atol=1e-3, rtol=0)


def test_errors_of_the_tilt_are_those_that_it_states():
    found = [estimate(Grid(48, 1.2), 4.0, 0.1, seed) for seed in range(12)]
    error = torch.stack([(one.tilt - torch.tensor(TILT)) / one.error for one in found])
    # 24 standard normal numbers
    assert 0.6 < float(error.square().mean().sqrt()) < 1.45


def test_without_spherical_aberration_there_is_nothing_to_see():
    plane = Grid(24, 2.0).half_plane()
    with pytest.raises(ValueError, match="spherical aberration"):
        one = torch.ones(1, plane.count, 2)
        beam_tilt_of(PhaseSums.of(one, one), Grid(24, 2.0), plane, 300.0, 0.0)
