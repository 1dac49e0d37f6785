"""Poses: conventions and conversions, each with a worked example."""

import pytest
import torch

from frazil.numerics.fourier import coefficients_to_images
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose

GRID = Grid(32, 2.0)


def _degrees(*angles: float) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([angle], dtype=torch.float64) for angle in angles)


def _point(x: float, y: float, z: float) -> Gaussians:
    one = torch.ones(1, dtype=torch.float64)
    return Gaussians(torch.tensor([[x, y, z]], dtype=torch.float64), one, 2.5 * one)


def _brightest(pose: Pose, point: Gaussians) -> tuple[int, int]:
    """(x, y) of the brightest pixel from the centre, in pixels."""
    layout = GRID.half_plane()
    image = coefficients_to_images(point.project(pose, GRID, layout), layout)[0]
    place = int(image.argmax())
    return place % 32 - 16, place // 32 - 16


def test_relion_euler_worked_example():
    """rot 90, tilt 90, psi 0: z of the object is seen along +x of the image reversed, its y towards the viewer."""
    zero = torch.zeros(1, dtype=torch.float64)
    pose = Pose.from_relion(*_degrees(90.0, 90.0, 0.0), zero, zero)
    expected = torch.tensor([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(pose.rotation[0], expected, atol=1e-12, rtol=0)
    assert _brightest(pose, _point(0, 0, 16.0)) == (-8, 0)
    assert _brightest(pose, _point(16.0, 0, 0)) == (0, -8)
    assert _brightest(pose, _point(0, 16.0, 0)) == (0, 0)


def test_relion_matrix_elements_are_the_documented_ones():
    """Elements of the 3D-EM convention (Heymann, Chagoyen and Belnap 2005, equation 5)."""
    rot, tilt, psi = (torch.tensor(angle * torch.pi / 180, dtype=torch.float64) for angle in (20.0, 50.0, -75.0))
    zero = torch.zeros(1, dtype=torch.float64)
    matrix = Pose.from_relion(*_degrees(20.0, 50.0, -75.0), zero, zero).rotation[0]
    assert float(matrix[0, 0]) == pytest.approx(
        float(psi.cos() * tilt.cos() * rot.cos() - psi.sin() * rot.sin()), abs=1e-12
    )
    assert float(matrix[0, 2]) == pytest.approx(float(-psi.cos() * tilt.sin()), abs=1e-12)
    assert float(matrix[2, 0]) == pytest.approx(float(tilt.sin() * rot.cos()), abs=1e-12)
    assert float(matrix[2, 1]) == pytest.approx(float(tilt.sin() * rot.sin()), abs=1e-12)


def test_shift_moves_image_to_plus_x_and_plus_y():
    pose = Pose(torch.eye(3, dtype=torch.float64)[None], torch.tensor([[6.0, -10.0]], dtype=torch.float64))
    assert _brightest(pose, _point(0, 0, 0)) == (3, -5)


def test_relion_origin_is_the_shift_that_centres():
    zero = torch.zeros(1, dtype=torch.float64)
    pose = Pose.from_relion(zero, zero, zero, zero + 4.0, zero - 2.0)
    torch.testing.assert_close(pose.shift, torch.tensor([[-4.0, 2.0]], dtype=torch.float64))


def test_in_plane_angle_turns_the_axes():
    """psi 90: what lies on +x of the object is seen on -y of the image."""
    zero = torch.zeros(1, dtype=torch.float64)
    pose = Pose.from_relion(*_degrees(0.0, 0.0, 90.0), zero, zero)
    assert _brightest(pose, _point(10.0, 0, 0)) == (0, -5)


def test_cryosparc_worked_example():
    """A rotation vector of 90 degrees about z takes the view to the object: x of the view is y of the object."""
    vector = torch.tensor([[0.0, 0.0, torch.pi / 2]], dtype=torch.float64)
    pose = Pose.from_cryosparc(vector, torch.tensor([[2.0, -3.0]], dtype=torch.float64), 1.5)
    object_y = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(pose.rotation[0] @ object_y, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(pose.shift, torch.tensor([[-3.0, 4.5]], dtype=torch.float64))


@pytest.mark.parametrize("convention", ["relion", "cryosparc", "cryodrgn"])
def test_conversions_round_trip(convention: str):
    pose = Pose.random(30, 8.0, torch.Generator().manual_seed(0), torch.float64)
    if convention == "relion":
        again = Pose.from_relion(*pose.to_relion())
    elif convention == "cryosparc":
        again = Pose.from_cryosparc(*pose.to_cryosparc(1.7), 1.7)
    else:
        again = Pose.from_cryodrgn(*pose.to_cryodrgn(96.0), 96.0)
    torch.testing.assert_close(again.rotation, pose.rotation, atol=1e-9, rtol=0)
    torch.testing.assert_close(again.shift, pose.shift, atol=1e-9, rtol=0)


def test_cryodrgn_translation_is_a_fraction_of_the_box():
    pose = Pose(torch.eye(3)[None], torch.tensor([[24.0, -12.0]]))
    _, translation = pose.to_cryodrgn(96.0)
    torch.testing.assert_close(translation, torch.tensor([[-0.25, 0.125]]))


def test_poses_are_indexed_cast_and_detached_as_one():
    pose = Pose.random(5, 2.0)
    assert len(pose[torch.tensor([0, 3])]) == 2
    assert pose.to(torch.float64).shift.dtype == torch.float64
    moving = Pose(pose.rotation, pose.shift.requires_grad_())
    assert not moving.detach().shift.requires_grad
