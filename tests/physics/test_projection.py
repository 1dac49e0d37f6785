"""Projection: against analytic integrals, between densities, and its adjoint."""

import math

import pytest
import torch

from frazil.numerics.fourier import coefficients_to_images, images_to_coefficients
from frazil.physics.density import Gaussians, Voxels
from frazil.physics.grid import Grid
from frazil.physics.microscope import Microscope
from frazil.physics.noise import Noise
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose

GRIDS = [Grid(32, 3.0), Grid(33, 3.0)]


def _optics(count: int, tilt: float = 0.0) -> Optics:
    return Optics.make(
        voltage=300.0,
        cs=2.7,
        amplitude_contrast=0.1,
        defocus_u=torch.linspace(9000, 15000, count),
        defocus_v=torch.linspace(8800, 14900, count),
        defocus_angle=torch.linspace(-60, 60, count),
        b_factor=20.0,
        beam_tilt_x=tilt,
        beam_tilt_y=-tilt / 2,
    )


@pytest.mark.parametrize("grid", GRIDS)
def test_a_gaussian_projects_to_its_line_integral(grid: Grid):
    centre, sigma, amplitude = (7.0, -4.0, 11.0), 6.0, 3.0
    gaussian = Gaussians(
        torch.tensor([centre], dtype=torch.float64),
        torch.tensor([amplitude], dtype=torch.float64),
        torch.tensor([sigma], dtype=torch.float64),
    )
    layout = grid.half_plane()
    image = coefficients_to_images(gaussian.project(Pose.identity(1, torch.float64), grid, layout), layout)[0]
    x = (torch.arange(grid.box_size, dtype=torch.float64) - grid.box_size // 2) * grid.pixel_size
    squared = (x - centre[0]) ** 2 + ((x - centre[1]) ** 2)[:, None]
    # integral over z of amplitude times the normal density, divided by the pixel size
    exact = amplitude * torch.exp(-squared / (2 * sigma**2)) / (2 * math.pi * sigma**2) / grid.pixel_size
    torch.testing.assert_close(image, exact, atol=1e-6 * float(exact.max()), rtol=0)


@pytest.mark.parametrize("grid", GRIDS)
def test_projection_slice_theorem_holds_against_analytic_gaussians(grid: Grid, molecule):
    gaussians = molecule(grid)
    pose = Pose.random(20, 4.0, torch.Generator().manual_seed(0), torch.float64)
    layout = grid.half_plane()
    within = layout.radius < 0.8 * grid.box_size / 2
    exact = gaussians.project(pose, grid, layout)[:, within]
    slices = Voxels(gaussians.voxels(grid), grid, padding=2).project(pose, grid, layout)[:, within]
    assert float((slices - exact).norm() / exact.norm()) <= 0.02


@pytest.mark.parametrize("grid", GRIDS)
def test_voxels_of_gaussians_are_their_density(grid: Grid, molecule):
    gaussians = molecule(grid)
    x = (torch.arange(grid.box_size, dtype=torch.float64) - grid.box_size // 2) * grid.pixel_size
    exact = torch.zeros(grid.box_size, grid.box_size, grid.box_size, dtype=torch.float64)
    for centre, amplitude, sigma in zip(gaussians.centres, gaussians.amplitudes, gaussians.sigmas, strict=True):
        squared = ((x - centre[2]) ** 2)[:, None, None] + ((x - centre[1]) ** 2)[:, None] + (x - centre[0]) ** 2
        exact += amplitude * torch.exp(-squared / (2 * sigma**2)) / (2 * math.pi * sigma**2) ** 1.5
    torch.testing.assert_close(gaussians.voxels(grid), exact, atol=2e-3 * float(exact.max()), rtol=0)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", ["voxels", "gaussians"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("tilt", [0.0, 1.5])
def test_projector_and_backprojector_are_adjoint(
    grid: Grid, kind: str, dtype: torch.dtype, tolerance: float, tilt: float, molecule
):
    generator = torch.Generator().manual_seed(1)
    gaussians = molecule(grid, dtype)
    n = grid.box_size
    density = Voxels(torch.randn(n, n, n, generator=generator, dtype=dtype), grid) if kind == "voxels" else gaussians
    pose = Pose.random(6, 5.0, generator, dtype)
    optics = _optics(6, tilt).to(dtype)
    layout = grid.half_plane()
    microscope = Microscope(density)
    image = microscope.image(pose, optics, grid, layout)
    probe = torch.randn(image.shape, generator=generator, dtype=image.dtype)
    left = (image.conj() * probe).real.sum().double()
    back = microscope.adjoint(probe, pose, optics, grid, layout)
    right = (density.linear_parameters().double() * back.double()).sum()
    assert abs(float(left - right)) <= tolerance * float(image.norm() * probe.norm())


@pytest.mark.parametrize("ratio", [(24, 4.0), (48, 2.0)])
def test_a_map_projects_onto_images_with_other_pixels(ratio: tuple[int, float], molecule):
    grid, other = Grid(32, 3.0), Grid(*ratio)
    gaussians = molecule(grid)
    pose = Pose.random(4, 4.0, torch.Generator().manual_seed(2), torch.float64)
    layout = other.half_plane(9)
    exact = gaussians.project(pose, other, layout)
    slices = Voxels(gaussians.voxels(grid), grid).project(pose, other, layout)
    assert float((slices - exact).norm() / exact.norm()) < 0.02


def test_a_map_projects_onto_a_box_of_another_extent(molecule):
    grid, larger = Grid(32, 3.0), Grid(40, 3.0)
    gaussians = molecule(grid)
    pose = Pose.random(4, 4.0, torch.Generator().manual_seed(3), torch.float64)
    layout = larger.half_plane(14)
    exact = gaussians.project(pose, larger, layout)
    slices = Voxels(gaussians.voxels(grid), grid).project(pose, larger, layout)
    assert float((slices - exact).norm() / exact.norm()) < 0.02


def test_a_map_is_not_stretched_onto_another_extent(molecule):
    grid = Grid(32, 3.0)
    with pytest.raises(ValueError, match="cannot be resampled"):
        Voxels(molecule(grid).voxels(grid), grid).voxels(Grid(40, 3.0))


@pytest.mark.parametrize("kind", ["voxels", "gaussians"])
def test_gradients_of_pose_shift_defocus_and_density_equal_finite_differences(kind: str, molecule):
    grid = Grid(10, 3.0)
    gaussians = molecule(grid, count=4)
    density = Voxels(gaussians.voxels(grid), grid) if kind == "voxels" else gaussians
    layout = grid.half_plane(3)
    pose = Pose.random(2, 3.0, torch.Generator().manual_seed(4), torch.float64)

    def image(rotation: torch.Tensor, shift: torch.Tensor, defocus: torch.Tensor, parameters: torch.Tensor):
        optics = Optics.make(voltage=300.0, cs=2.7, amplitude_contrast=0.1, defocus_u=defocus * 1e4, defocus_angle=20.0)
        here = density.with_linear_parameters(parameters)
        return torch.view_as_real(Microscope(here).image(Pose(rotation, shift), optics, grid, layout))

    given = (pose.rotation, pose.shift, torch.tensor([1.1, 1.4]).double(), density.linear_parameters())
    inputs = tuple(value.clone().requires_grad_() for value in given)
    assert torch.autograd.gradcheck(image, inputs, fast_mode=True)


@pytest.mark.parametrize("grid", GRIDS)
def test_noise_likelihood_is_calibrated(grid: Grid, molecule):
    """Of all noise levels the true one is the likeliest, and its likelihood is minus the entropy."""
    gaussians = molecule(grid)
    pose = Pose.random(40, 4.0, torch.Generator().manual_seed(6), torch.float64)
    optics, layout = _optics(40), grid.half_plane()
    truth = Microscope(gaussians, Noise.white(0.4, grid, torch.float64))
    images = truth.sample(pose, optics, grid, torch.Generator().manual_seed(7))
    coefficients = images_to_coefficients(images, layout)

    def likelihood(sigma: float) -> float:
        noise = Noise.white(sigma, grid, torch.float64)
        return float(Microscope(gaussians, noise).log_likelihood(coefficients, pose, optics, grid, layout).mean())

    assert likelihood(0.4) > likelihood(0.38)
    assert likelihood(0.4) > likelihood(0.42)
    power = 0.4**2 * grid.box_size**2
    complex_count = layout.count - 1
    entropy = complex_count * (math.log(math.pi * power) + 1) + 0.5 * (math.log(2 * math.pi * power) + 1)
    assert likelihood(0.4) == pytest.approx(-entropy, rel=0.005)


def test_a_likelihood_without_noise_is_refused(molecule):
    grid = GRIDS[0]
    pose = Pose.identity(1, torch.float64)
    with pytest.raises(ValueError, match="a likelihood needs noise"):
        Microscope(molecule(grid)).log_likelihood(torch.zeros(1, grid.half_plane().count) + 0j, pose, None, grid)


@pytest.mark.parametrize("grid", GRIDS)
def test_sampled_noise_has_the_spectrum_it_was_asked_for(grid: Grid):
    power = torch.linspace(9, 1, grid.box_size // 2 + 1, dtype=torch.float64) * grid.box_size**2
    images = Noise(power).sample(400, grid, torch.Generator().manual_seed(8))
    measured = Noise.measured(images).power
    assert float((measured / power)[1:-1].sub(1).abs().max()) < 0.12
    layout = grid.half_plane()
    white = Noise(power).whiten(images_to_coefficients(images, layout), layout)
    assert float(white.abs().square().mean()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("box_size", "pixel_size"), [(2, 1.0), (32, 0.0), (32, float("nan"))])
def test_an_impossible_grid_is_refused(box_size: int, pixel_size: float):
    with pytest.raises(ValueError, match="too small|impossible"):
        Grid(box_size, pixel_size)
