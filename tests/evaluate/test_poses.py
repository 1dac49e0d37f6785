"""Poses are compared after the object's own rotation, hand and centre are taken away."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from frazil.evaluate.poses import align_rotations, out_of_plane_angle, pose_errors, pose_figures, shift_residuals
from frazil.numerics.symmetry import point_group
from frazil.physics.pose import Pose


def rotations(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(Rotation.random(count, random_state=seed).as_matrix())


def figures_of(estimated, shift, true, true_shift, pixel_size, group=None) -> dict:
    return pose_figures(pose_errors(Pose(estimated, shift), Pose(true, true_shift), group), pixel_size)


def small_turns(count: int, degrees: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    axes = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1)
    return torch.from_numpy(Rotation.from_rotvec(axes.numpy() * math.radians(degrees)).as_matrix())


MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turned_and_mirrored_frame_is_undone(mirrored):
    true = rotations(200, 1)
    frame = rotations(1, 2)[0]
    estimated = MIRROR @ true @ MIRROR @ frame if mirrored else true @ frame
    zero = torch.zeros(200, 2)
    figures = figures_of(estimated, zero, true, zero, 1.0)
    assert figures["rotation_error_median"] < 1e-5
    assert figures["mirrored"] is mirrored


def test_the_error_of_every_pose_is_found_when_frames_agree_up_to_a_turn():
    true = rotations(400, 1)
    estimated = small_turns(400, 3.0, 5) @ true @ rotations(1, 2)[0]
    figures = figures_of(estimated, torch.zeros(400, 2), true, torch.zeros(400, 2), 1.0)
    assert figures["rotation_error_median"] == pytest.approx(3.0, abs=0.15)
    assert figures["squared_frobenius_median"] == pytest.approx(8 * math.sin(math.radians(1.5)) ** 2, rel=0.1)


def test_one_lost_half_does_not_move_the_median_of_the_rest():
    true = rotations(300, 1)
    estimated = true @ rotations(1, 2)[0]
    estimated[::3] = rotations(100, 9)
    figures = figures_of(estimated, torch.zeros(300, 2), true, torch.zeros(300, 2), 1.0)
    assert figures["rotation_error_median"] < 1e-5
    assert figures["rotation_error_mean"] > 20


def test_symmetry_mates_count_as_right():
    group = point_group("D3")
    true = rotations(120, 1)
    estimated = true @ group[torch.arange(120) % 6] @ rotations(1, 3)[0]
    zero = torch.zeros(120, 2)
    assert figures_of(estimated, zero, true, zero, 1.0, group)["rotation_error_median"] < 1e-5
    assert figures_of(estimated, zero, true, zero, 1.0)["rotation_error_median"] > 30


def test_an_in_plane_turn_leaves_the_viewing_direction():
    true = rotations(5, 1)
    angle = math.radians(10)
    spin = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    assert float(out_of_plane_angle(spin.double() @ true, true).max()) < 1e-6
    tilt = torch.tensor([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    assert torch.allclose(out_of_plane_angle(tilt.double() @ true, true), torch.full((5,), 10.0).double())


def test_the_centre_of_the_object_is_fitted_away():
    true, offset = rotations(100, 1), torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64)
    shift = torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = shift - (true @ offset)[:, :2]
    residual, found = shift_residuals(moved, shift, true)
    assert float(residual.abs().max()) < 1e-9
    assert torch.allclose(found, offset)


def test_shift_errors_are_given_in_angstrom_and_pixels():
    true = rotations(500, 1)
    error = torch.tensor([[3.0, 4.0]], dtype=torch.float64).repeat(500, 1)
    error[::2] *= -1
    figures = figures_of(true, error, true, torch.zeros(500, 2), 2.0)
    assert figures["shift_error_rms"] == pytest.approx(5.0, rel=0.02)
    assert figures["shift_error_rms_px"] == pytest.approx(2.5, rel=0.02)


def test_nothing_to_align_is_an_error():
    with pytest.raises(ValueError, match="no poses"):
        align_rotations(torch.zeros(0, 3, 3), torch.zeros(0, 3, 3))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("wrong", [0.2, 0.5, 0.7])
def test_the_frame_is_found_from_the_right_poses_however_many_are_wrong(wrong, mirrored):
    count = 600
    true, frame, lost = rotations(count, 1), rotations(1, 2)[0], int(wrong * count)
    offset, error = torch.tensor([6.0, -3.0, 4.0]).double(), small_turns(count, 4.0, 5)
    estimated = error @ true
    estimated[:lost] = rotations(lost, 9)
    # x_result = turn (x_true + offset), as seen by the true poses
    shift = -(true @ offset)[:, :2]
    shift[:lost] = 20 * torch.randn(lost, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    estimated = MIRROR @ estimated @ MIRROR @ frame if mirrored else estimated @ frame
    errors = pose_errors(Pose(estimated, shift), Pose(true, torch.zeros(count, 2).double()))
    right = errors.remaining.angle[lost:]
    assert errors.alignment.mirrored is mirrored
    assert float(right.median()) == pytest.approx(4.0, abs=0.1)
    assert float(right.max()) < 5.5
    assert torch.allclose(errors.offset, offset, atol=0.05)
    assert float(errors.remaining.shift[lost:].norm(dim=1).max()) < 0.1


def test_wrong_poses_do_not_move_the_frame_of_an_object_with_symmetry():
    group = point_group("O")
    true = rotations(500, 1)
    estimated = small_turns(500, 3.0, 4) @ true @ group[torch.arange(500) % 24]
    estimated[::2] = rotations(250, 7)
    errors = pose_errors(
        Pose(estimated @ rotations(1, 3)[0], torch.zeros(500, 2)), Pose(true, torch.zeros(500, 2)), group
    )
    assert float(errors.remaining.angle[1::2].median()) == pytest.approx(3.0, abs=0.15)


def test_fractions_count_the_poses_within_each_limit():
    true = rotations(400, 1)
    estimated = true.clone()
    for first, degrees in enumerate((1.0, 4.0, 8.0, 60.0)):
        estimated[first::4] = small_turns(100, degrees, first) @ true[first::4]
    figures = figures_of(estimated, torch.zeros(400, 2), true, torch.zeros(400, 2), 1.0)
    assert [figures[f"rotation_within_{limit}"] for limit in (3, 5, 10, 30)] == pytest.approx([0.25, 0.5, 0.75, 0.75])
    assert figures["rotation_error_mean"] == pytest.approx((1 + 4 + 8 + 60) / 4, abs=0.3)


def test_random_poses_have_nothing_in_common_with_the_truth():
    figures = figures_of(rotations(1000, 1), torch.zeros(1000, 2), rotations(1000, 2), torch.zeros(1000, 2), 1.0)
    assert figures["rotation_error_median"] > 100
    assert figures["rotation_within_10"] < 0.03
