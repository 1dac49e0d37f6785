"""Rotations and point groups."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from frazil.numerics.rotations import (
    from_euler_zyz,
    from_rotation_vector,
    from_six_numbers,
    geodesic_angle,
    random_rotations,
    to_euler_zyz,
    to_rotation_vector,
)
from frazil.numerics.symmetry import point_group

ORDERS = {
    "C1": 1,
    "C4": 4,
    "C7": 7,
    "D2": 4,
    "D5": 10,
    "T": 12,
    "O": 24,
    "I": 60,
    "I1": 60,
    "I2": 60,
    "I3": 60,
    "I4": 60,
}


@settings(deadline=None, max_examples=50)
@given(st.tuples(*[st.floats(-3.1, 3.1)] * 3))
def test_euler_angles_agree_with_scipy(angles: tuple[float, float, float]):
    rot, tilt, psi = (torch.tensor(angle, dtype=torch.float64) for angle in angles)
    # scipy turns the object, RELION's matrices turn the axes: the transpose
    expected = Rotation.from_euler("ZYZ", angles).as_matrix().T
    torch.testing.assert_close(from_euler_zyz(rot, tilt, psi), torch.from_numpy(expected.copy()), atol=1e-12, rtol=0)


@settings(deadline=None, max_examples=50)
@given(rot=st.floats(-3.1, 3.1), tilt=st.floats(0, math.pi), psi=st.floats(-3.1, 3.1))
def test_euler_angles_give_back_their_rotation(rot: float, tilt: float, psi: float):
    rotation = from_euler_zyz(*(torch.tensor(angle, dtype=torch.float64) for angle in (rot, tilt, psi)))
    torch.testing.assert_close(from_euler_zyz(*to_euler_zyz(rotation)), rotation, atol=1e-9, rtol=0)


@pytest.mark.parametrize("tilt", [0.0, math.pi])
def test_euler_angles_at_the_poles_give_back_their_rotation(tilt: float):
    rotation = from_euler_zyz(*(torch.tensor(angle, dtype=torch.float64) for angle in (0.7, tilt, -1.9)))
    torch.testing.assert_close(from_euler_zyz(*to_euler_zyz(rotation)), rotation, atol=1e-9, rtol=0)


def test_rotation_vectors_round_trip():
    rotation = random_rotations(50, torch.Generator().manual_seed(1), torch.float64)
    torch.testing.assert_close(from_rotation_vector(to_rotation_vector(rotation)), rotation)


def test_geodesic_angle_is_the_angle_of_the_rotation_between():
    base = random_rotations(1, torch.Generator().manual_seed(2), torch.float64)[0]
    for angle in (1e-7, 0.3, 3.0):
        turned = from_rotation_vector(torch.tensor([0.0, 0.0, angle], dtype=torch.float64)) @ base
        assert float(geodesic_angle(base, turned)) == pytest.approx(angle, rel=1e-6)


def test_random_rotations_cover_the_sphere_evenly():
    rotation = random_rotations(20_000, torch.Generator().manual_seed(3), torch.float64)
    assert float(rotation.mean(0).abs().max()) < 0.02
    # the angle between two uniform rotations has the mean pi/2 + 2/pi
    angle = geodesic_angle(rotation[:10_000], rotation[10_000:])
    assert float(angle.mean()) == pytest.approx(math.pi / 2 + 2 / math.pi, abs=0.02)


def test_six_numbers_give_proper_rotations():
    rotation = from_six_numbers(torch.randn(20, 6, dtype=torch.float64))
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(20, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(20, dtype=torch.float64))


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_point_groups_are_closed_groups_of_the_right_order(name: str, order: int):
    group = point_group(name)
    assert len(group) == order
    torch.testing.assert_close(group[0], torch.eye(3, dtype=torch.float64))
    products = (group[:, None] @ group[None]).reshape(-1, 9)
    distance = torch.cdist(products, group.reshape(-1, 9)).min(1).values
    assert float(distance.max()) < 1e-6
    torch.testing.assert_close(torch.linalg.det(group), torch.ones(order, dtype=torch.float64))


def test_octahedral_fourfolds_lie_on_the_axes():
    group = point_group("O")
    for axis in range(3):
        vector = torch.zeros(3, dtype=torch.float64)
        vector[axis] = math.pi / 2
        assert float((group - from_rotation_vector(vector)).flatten(1).norm(dim=1).min()) < 1e-9


@pytest.mark.parametrize(
    ("name", "axis", "fold"),
    [
        ("C5", (0, 0, 1), 5),
        ("D3", (0, 0, 1), 3),
        ("D3", (1, 0, 0), 2),
        ("T", (0, 0, 1), 3),
        ("I1", (0, 0, 1), 2),
        ("I1", (1, 0, 0), 2),
        ("I2", (0, 1, 0), 2),
        ("I3", (0, 0, 1), 5),
        ("I4", (0, 0, 1), 5),
    ],
)
def test_axes_stand_where_relion_has_them(name: str, axis: tuple[float, float, float], fold: int):
    turn = from_rotation_vector(torch.tensor(axis, dtype=torch.float64) * (2 * math.pi / fold))
    assert float((point_group(name) - turn).flatten(1).norm(dim=1).min()) < 1e-6


@pytest.mark.parametrize("name", ["", "C0", "X3", "D", "I5", "octahedral"])
def test_an_unknown_point_group_is_named_in_the_error(name: str):
    with pytest.raises(ValueError, match="is not a point group"):
        point_group(name)
