"""Pictures of maps show the right plane, the right side up, at the right size."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import torch

from frazil.figures import maps, raymarch, strips


def _arrow(axis: str) -> np.ndarray:
    """A map of one voxel four steps along +axis from the centre."""
    volume = np.zeros((16, 16, 16), np.float32)
    place = [8, 8, 8]
    place["zyx".index(axis)] += 4
    volume[tuple(place)] = 1
    return volume


@pytest.mark.parametrize(("axis", "right", "up"), [("z", "x", "y"), ("x", "y", "z"), ("y", "z", "x")])
def test_sections_and_projections_keep_the_cyclic_axes_right_handed(axis: str, right: str, up: str) -> None:
    for picture in (maps.central_section, maps.axis_projection):
        assert picture(_arrow(right), axis)[8, 12] == 1
        assert picture(_arrow(up), axis)[12, 8] == 1
    # the same directions on paper as the shaded view down that axis
    turn = raymarch.VIEWS[axis]
    unit = np.eye(3)["xyz".index(right)], np.eye(3)["xyz".index(up)], np.eye(3)["xyz".index(axis)]
    np.testing.assert_array_equal(turn @ np.stack(unit).T, np.eye(3))


def test_sections_hold_every_pixel_in_their_spec(ball: np.ndarray) -> None:
    spec, figure = maps.sections(torch.from_numpy(ball), 2.0)
    panel = spec["panels"][0]
    levels = np.frombuffer(base64.b64decode(panel["uint8"]), np.uint8).reshape(panel["shape"])
    restored = panel["low"] + levels / 255 * (panel["high"] - panel["low"])
    np.testing.assert_allclose(restored, ball[16], atol=0.003)
    assert len(figure.axes) == 3
    json.dumps(spec, allow_nan=False)


def test_projection_is_the_line_integral_in_angstrom(ball: np.ndarray) -> None:
    spec, _ = maps.projections(ball, 2.0)
    assert spec["panels"][0]["high"] == pytest.approx(2.0 * ball[:, 16, 16].sum(), rel=1e-5)


def test_rendered_ball_covers_its_disc(ball: np.ndarray) -> None:
    picture = raymarch.render_surface(ball, 0.5, size=120, frame=raymarch.Frame())
    area = picture[..., 3].sum() / 120**2
    assert area == pytest.approx(np.pi * 8**2 / 32**2, rel=0.02)


def test_light_comes_from_the_upper_left(ball: np.ndarray) -> None:
    picture = raymarch.render_surface(ball, 0.5, size=120, frame=raymarch.Frame(width=0.6))
    assert picture[40, 40, :3].sum() > picture[80, 80, :3].sum() + 0.2


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_surface_view_puts_what_is_right_on_the_right(axis: str, ball: np.ndarray) -> None:
    right = {"z": 2, "x": 1, "y": 0}[axis]  # array axis of x, y, z
    moved = np.roll(ball, 6, axis=right)
    picture = raymarch.render_surface(moved, 0.5, raymarch.VIEWS[axis], size=60, frame=raymarch.Frame())
    columns = picture[..., 3].sum(0)
    centre = (columns * np.arange(60)).sum() / columns.sum()
    assert centre == pytest.approx(30 + 6 / 32 * 60, abs=1.0)


def test_nearer_surface_hides_the_farther() -> None:
    volume = np.zeros((32, 32, 32), np.float32)
    volume[22:28, 12:21, 12:21] = 1  # near the viewer, who looks down z
    volume[4:10, 6:27, 6:27] = 1
    picture = raymarch.render_surface(volume, 0.5, size=64, frame=raymarch.Frame())
    assert picture[32, 32, :3].sum() > picture[32, 16, :3].sum()


def test_nothing_above_the_level_is_an_empty_picture(ball: np.ndarray) -> None:
    assert not raymarch.render_surface(ball, 2.0, size=20).any()


def test_contour_level_separates_two_densities(ball: np.ndarray) -> None:
    noisy = ball + 0.02 * np.random.default_rng(0).normal(size=ball.shape)
    assert 0.2 < raymarch.contour_level(noisy) < 0.8


def test_contour_level_of_a_flat_map_is_a_number() -> None:
    assert np.isfinite(raymarch.contour_level(np.zeros((8, 8, 8))))


def test_surface_names_an_unknown_view(ball: np.ndarray) -> None:
    with pytest.raises(ValueError, match="view 'top' is not one of x, y, z"):
        maps.surface(ball, 0.5, ("top",))
    with pytest.raises(ValueError, match=r"view 'side' has shape \(2, 2\), not \(3, 3\)"):
        maps.surface(ball, 0.5, {"side": np.eye(2)})


def test_strips_compare_maps_at_one_level(ball: np.ndarray) -> None:
    spec, figure = strips.surface_strip([ball, 0.9 * ball], ["a", "b"], "two", size=40)
    assert spec["labels"] == ["a", "b"] and 0 < spec["level"] < 1
    sections, _ = strips.section_strip([ball, np.roll(ball, 2, 2)], ["a", "b"], 1.0, "two")
    assert [len(row["panels"]) for row in sections["rows"]] == [2, 2, 2]
    json.dumps([spec, sections], allow_nan=False)
    figure.canvas.draw()
    with pytest.raises(ValueError, match="2 volumes and 1 labels"):
        strips.section_strip([ball, ball], ["a"], 1.0, "two")


def test_montage_shows_every_image() -> None:
    spec, figure = strips.montage(np.random.default_rng(0).normal(size=(5, 12, 12)), columns=3)
    assert len(spec["panels"]) == 5 and len(figure.axes[0].images) == 5


def test_principal_view_lays_a_bar_across_and_faces_its_broad_side() -> None:
    volume = np.zeros((24, 24, 24), np.float32)
    volume[10:14, 4:20, 8:16] = 1  # longest along y, then x, shortest along z
    turn = raymarch.principal_view([volume], 0.5)
    np.testing.assert_allclose(np.abs(turn), [[0, 1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-6)
    assert np.linalg.det(turn) == pytest.approx(1)


def test_principal_view_of_a_ball_is_left_as_it_is(ball: np.ndarray) -> None:
    np.testing.assert_array_equal(raymarch.principal_view([ball], 0.5), np.eye(3))


def test_frame_fits_what_the_maps_fill(ball: np.ndarray) -> None:
    moved = np.roll(ball, 5, axis=2)  # along x
    frame = raymarch.fitting_frame([moved], 0.5, raymarch.VIEWS["z"])
    assert (frame.x, frame.y) == pytest.approx((5 / 32, 0), abs=0.02)
    assert 16 / 32 < frame.width < 22 / 32
    both = raymarch.fitting_frame([ball, moved], 0.5, raymarch.VIEWS["z"])
    assert both.width > frame.width + 3 / 32


@pytest.mark.parametrize("size", [24, 33, 80])
def test_leaping_over_empty_space_misses_nothing(size: int) -> None:
    noise = np.random.default_rng(1).normal(size=(size, size, size))
    from scipy import ndimage

    volume = torch.from_numpy(ndimage.gaussian_filter(noise, 2.0).astype(np.float32))
    level = float(volume.std()) * 2.5  # a few blobs with much room between them
    turn = torch.linalg.qr(torch.from_numpy(np.random.default_rng(2).normal(size=(3, 3)))).Q.float()
    space = raymarch._empty_space(volume.numpy(), level)
    assert float(space.max()) > 0
    leaps = raymarch._first_hit(volume, space, level, turn, raymarch.Frame(), 60)
    steps = raymarch._first_hit(volume, torch.zeros_like(space), level, turn, raymarch.Frame(), 60)
    np.testing.assert_array_less(np.abs(leaps[0] - steps[0])[leaps[1] & steps[1]], 2.0 / size)
    assert (leaps[1] != steps[1]).mean() < 0.01  # rays that graze a blob between two samples


def test_a_painted_surface_has_the_colour_of_the_values_where_it_is_met(ball: np.ndarray) -> None:
    def paint(points: torch.Tensor) -> np.ndarray:
        right = (points[:, 0] > 0).numpy()
        return np.where(right[:, None], [1.0, 0, 0], [0, 0, 1.0])

    picture = raymarch.render_surface(ball, 0.5, size=64, paint=paint)
    left, right = picture[24:40, 20:30], picture[24:40, 34:44]
    assert (right[..., 0] > right[..., 2] + 0.1).all() and (left[..., 2] > left[..., 0] + 0.1).all()


def test_values_on_a_surface_are_those_of_the_map_at_that_place() -> None:
    x = np.arange(16) - 8
    slope = np.broadcast_to(x / 16, (16, 16, 16)).astype(np.float32)  # along x
    points = torch.tensor([[0.25, 0.1, 0.0], [-0.2, 0.0, 0.3]])
    np.testing.assert_allclose(raymarch.values_at(slope, points), [0.25, -0.2], atol=1e-6)


def test_local_resolution_is_drawn_with_its_range(ball: np.ndarray) -> None:
    resolution = np.where(ball > 0.3, np.linspace(4, 8, ball.shape[2]), 0)
    spec, figure = strips.local_resolution_strip([ball], [resolution], ["0"], "local", level=0.5, size=64)
    low, high = spec["range"]
    assert 4 <= low < high <= 8 and spec["medians"][0] == pytest.approx(6, abs=0.5)
    assert any(axes.get_ylabel() == "local resolution (Å)" for axes in figure.axes)
    empty, _ = strips.local_resolution_strip([ball], [0 * resolution], ["0"], "local", level=0.5, size=64)
    assert empty["medians"] == [None]
    with pytest.raises(ValueError, match="2 volumes and 1 labels"):
        strips.local_resolution_strip([ball, ball], [resolution], ["0", "1"], "local", level=0.5)
