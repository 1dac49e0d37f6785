"""Latent maps and viewing directions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from frazil.figures import latent, poses, style
from frazil.physics.pose import Pose


@pytest.mark.parametrize("columns", [1, 2])
def test_density_map_marks_points_in_one_or_two_dimensions(columns: int) -> None:
    points = np.random.default_rng(0).normal(size=(300, columns))
    spec, figure = latent.density(points, "latent", marks=points[:3], mark_names=["a", "b", "c"], paths=[points[:4]])
    assert spec["count"] == 300 and len(spec["points"]) == 300 and spec["mark_names"] == ["a", "b", "c"]
    json.dumps(spec, allow_nan=False)
    figure.canvas.draw()
    latent.scatter(points, np.arange(300) % 3, "states", marks=points[:3])[1].canvas.draw()


@pytest.mark.parametrize("columns", [1, 2])
def test_the_typical_error_has_room_beside_the_cloud(columns: int) -> None:
    points = np.random.default_rng(0).normal(size=(300, columns))
    spec, figure = latent.density(points, "latent", error=4 * np.eye(columns))
    assert spec["error"] == (4 * np.eye(columns)).tolist()
    left, right = figure.axes[0].get_xlim()
    assert left < points[:, 0].min() and right - left > 4
    figure.canvas.draw()


@pytest.mark.parametrize("count", [3, 8, 20, 100])
def test_no_two_states_have_one_colour(count: int) -> None:
    assert len(set(style.state_colours(count))) == count


def test_a_plane_has_at_most_two_columns() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 3\): one or two columns"):
        latent.density(np.zeros((4, 3)), "latent")


def test_large_clouds_are_thinned_in_the_spec_only() -> None:
    spec, _ = latent.density(np.random.default_rng(0).normal(size=(50_000, 2)), "latent")
    assert spec["count"] == 50_000 and len(spec["points"]) <= latent.POINTS_IN_SPEC


def test_truth_and_variance_figures_are_drawn() -> None:
    values = np.linspace(0, 1, 50)
    spec, _ = latent.against_truth(values**2, values, "truth", note="Spearman 1.00")
    assert spec["note"] == "Spearman 1.00"
    assert latent.explained_variance(np.array([0.8, 0.2]))[0]["values"] == [0.8, 0.2]


def test_viewing_direction_has_the_longitude_rot_and_the_angle_tilt() -> None:
    rot, tilt, zero = torch.tensor([30.0]), torch.tensor([70.0]), torch.zeros(1)
    pose = Pose.from_relion(rot, tilt, torch.tensor([123.0]), zero, zero)
    x, y, z = poses.viewing_directions(pose.rotation)[0]
    assert np.degrees(np.arctan2(y, x)) == pytest.approx(30, abs=1e-3)
    assert np.degrees(np.arccos(z)) == pytest.approx(70, abs=1e-3)


def test_uniform_directions_are_one_times_uniform_everywhere() -> None:
    pose = Pose.random(20_000, generator=torch.Generator().manual_seed(0))
    spec, figure = poses.angular_distribution(pose, cells=12)
    relative = np.array(spec["times_uniform"])
    assert relative.mean() == pytest.approx(1, abs=1e-3)
    assert abs(relative - 1).max() < 0.25
    figure.canvas.draw()


def test_symmetry_repeats_directions_in_every_copy() -> None:
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    group = torch.stack([torch.linalg.matrix_power(quarter, i) for i in range(4)])
    pose = Pose.from_relion(*(torch.tensor([value]) for value in (20.0, 90.0, 0.0, 0.0, 0.0)))
    relative = np.array(poses.angular_distribution(pose, symmetry=group)[0]["times_uniform"])
    assert (relative > 0).sum() == 4


def test_shifts_histogram_counts_every_particle() -> None:
    spec, _ = poses.shifts(np.ones((7, 2)))
    assert sum(spec["counts"]) == 7


def test_lists_for_json_have_no_nan() -> None:
    assert style.as_list(np.array([1.23456789, np.nan, np.inf])) == [1.23457, None, None]


def test_figures_ignore_the_readers_matplotlib_settings() -> None:
    import matplotlib

    with matplotlib.rc_context({"figure.facecolor": "black", "font.size": 30}):
        _, figure = latent.explained_variance(np.array([1.0]))
        assert matplotlib.rcParams["font.size"] == 30
    assert figure.get_facecolor()[:3] == (1.0, 1.0, 1.0)


def test_energy_is_the_negative_logarithm_of_the_density_with_its_minimum_at_zero() -> None:
    generator = np.random.default_rng(0)
    points = generator.normal(size=(40_000, 1)) * 2.0
    spec, figure = latent.free_energy(points, "landscape")
    energy = np.array(spec["energy"], dtype=float)
    edges = np.array(spec["edges"][0])
    middle = 0.5 * (edges[1:] + edges[:-1])
    near = np.abs(middle) < 4
    # of a normal distribution, -ln p = x^2 / (2 sigma^2)
    np.testing.assert_allclose(energy[near], middle[near] ** 2 / 8, atol=0.15)
    assert np.nanmin(energy) == 0
    figure.canvas.draw()


def test_two_valleys_lie_where_two_groups_of_particles_are() -> None:
    generator = np.random.default_rng(0)
    points = generator.normal(size=(3000, 2))
    points[:1000] += [8, 3]
    spec, figure = latent.free_energy(points, "landscape", marks=np.array([[0, 0], [8, 3]]), mark_names=["a", "b"])
    energy = np.array([[np.inf if value is None else value for value in row] for row in spec["energy"]])
    x, y = (0.5 * (np.array(e)[1:] + np.array(e)[:-1]) for e in spec["edges"])

    def at(place: tuple[float, float]) -> float:
        return float(energy[np.abs(x - place[0]).argmin(), np.abs(y - place[1]).argmin()])

    assert at((0, 0)) < 0.3 and at((8, 3)) == pytest.approx(np.log(2), abs=0.4) and at((4, 1.5)) > 3
    json.dumps(spec, allow_nan=False)
    figure.canvas.draw()


@pytest.mark.parametrize("columns", [1, 2])
def test_values_that_are_not_known_are_said_to_be_grey(columns: int) -> None:
    points = np.random.default_rng(0).normal(size=(50, columns))
    values = np.linspace(0, 1, 50)
    values[3] = np.nan
    spec, figure = latent.valued(points, values, "agreement", name="agreement", marks=points[:2])
    assert spec["values"][3] is None and spec["values"][49] == 1 and len(spec["points"]) == 50
    assert figure.axes[-1].get_ylabel() == "agreement (grey: not known)"
    figure.canvas.draw()
