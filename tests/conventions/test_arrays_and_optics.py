"""The statements of docs/conventions.md about arrays, transforms and the sign of the contrast. Poses: test_pose.py."""

import pytest
import torch

from frazil.data.mrc import read_volume, write_volume
from frazil.numerics.fourier import coefficients_to_images, half_plane, images_to_coefficients
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.microscope import Microscope
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose


def _point(x: float, y: float, z: float, sigma: float = 3.0) -> Gaussians:
    one = torch.ones(1, dtype=torch.float64)
    return Gaussians(torch.tensor([[x, y, z]], dtype=torch.float64), one, sigma * one)


@pytest.mark.parametrize("box_size", [24, 25])
def test_vectors_are_x_y_z_and_arrays_are_z_y_x(box_size: int):
    volume = _point(4.0, 8.0, -6.0).voxels(Grid(box_size, 2.0))
    place = torch.unravel_index(volume.argmax(), volume.shape)
    centre = box_size // 2
    assert [int(index) for index in place] == [centre - 3, centre + 4, centre + 2]


def test_row_zero_of_a_map_is_the_first_row_of_its_file(tmp_path):
    volume = torch.arange(4.0**3).reshape(4, 4, 4)
    write_volume(tmp_path / "map.mrc", volume, 1.5)
    stored = (tmp_path / "map.mrc").read_bytes()[1024:]
    assert torch.frombuffer(bytearray(stored), dtype=torch.float32)[:4].tolist() == [0.0, 1.0, 2.0, 3.0]
    again, grid = read_volume(tmp_path / "map.mrc")
    assert torch.equal(again, volume)
    assert grid == Grid(4, 1.5)


@pytest.mark.parametrize("box_size", [24, 25])
def test_the_zero_coefficient_is_the_sum_of_the_pixels(box_size: int):
    image = torch.rand(box_size, box_size, dtype=torch.float64)
    assert float(images_to_coefficients(image, half_plane(box_size))[0].real) == pytest.approx(float(image.sum()))


@pytest.mark.parametrize("box_size", [32, 33])
def test_a_pixel_is_the_sum_of_the_voxels_behind_it(box_size: int):
    grid = Grid(box_size, 2.0)
    layout = grid.half_plane()
    blob = _point(4.0, -6.0, 2.0, sigma=4.0)
    image = coefficients_to_images(blob.project(Pose.identity(1, torch.float64), grid, layout), layout)[0]
    torch.testing.assert_close(image, blob.voxels(grid).sum(0), atol=1e-6, rtol=0)


def test_underfocused_bright_particles_stay_bright():
    """Positive defocus is underfocus; a particle is bright in its density and in its image, with dark rings around it."""
    grid = Grid(48, 3.0)
    layout = grid.half_plane()
    optics = Optics.make(voltage=300.0, cs=2.7, amplitude_contrast=0.1, defocus_u=15000.0)
    blob = Microscope(_point(0, 0, 0, sigma=6.0))
    image = coefficients_to_images(blob.image(Pose.identity(1, torch.float64), optics, grid, layout), layout)[0]
    assert float(image[24, 24]) == float(image.max()) > -float(image.min()) > 0


def test_defocus_u_is_the_larger_one_along_its_angle_from_x_towards_y():
    optics = Optics.make(
        voltage=300.0, cs=0.0, amplitude_contrast=0.0, defocus_u=20000.0, defocus_v=10000.0, defocus_angle=90.0
    )
    # at this low frequency the phase is small: more defocus means more contrast
    s = torch.tensor([0.002])
    assert float(optics.ctf_at(0 * s, s)) == pytest.approx(2 * float(optics.ctf_at(s, 0 * s)), rel=1e-2)
