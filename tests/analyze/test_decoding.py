"""Points and rows that are asked for are understood, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from frazil.analyze import decoding
from frazil.errors import InputError
from frazil.physics.grid import Grid


@pytest.mark.parametrize(
    ("table", "latent_dim", "shape"),
    [(np.zeros((3, 2)), 2, (3, 2)), (np.zeros(3), 1, (3, 1)), (np.zeros(3), 3, (1, 3)), (np.zeros((3, 1)), 1, (3, 1))],
)
def test_a_flat_array_is_one_point_or_many_as_the_ensemble_says(
    table: np.ndarray, latent_dim: int, shape: tuple[int, int]
) -> None:
    assert decoding.as_latent_points(table, latent_dim, "z.npy").shape == shape


def test_wrong_number_of_coordinates_says_what_the_ensemble_has() -> None:
    with pytest.raises(InputError, match=r"z.npy: points of 3 coordinates, the ensemble has 2. Give an array of shape"):
        decoding.as_latent_points(np.zeros((4, 3)), 2, "z.npy")


def test_nan_names_the_point() -> None:
    points = np.zeros((4, 2))
    points[2, 1] = np.nan
    with pytest.raises(InputError, match=r"z.npy:2: point 2 is not finite \(1 of 4 are not\)"):
        decoding.as_latent_points(points, 2, "z.npy")


def test_no_point_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="there is no point in it"):
        decoding.as_latent_points(np.zeros((0, 2)), 2, "z.npy")


def test_text_and_npy_hold_the_same_points(tmp_path: Path) -> None:
    points = np.arange(6.0).reshape(3, 2)
    np.save(tmp_path / "z.npy", points)
    np.savetxt(tmp_path / "z.txt", points)
    np.testing.assert_array_equal(decoding.read_latent_points(tmp_path / "z.npy"), points)
    np.testing.assert_array_equal(decoding.read_latent_points(tmp_path / "z.txt"), points)


def test_unreadable_points_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"z.npy: there is no such file"):
        decoding.read_latent_points(tmp_path / "z.npy")
    (tmp_path / "z.npy").write_text("no numbers here")
    (tmp_path / "z.txt").write_text("no numbers here")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    for name in ("z.npy", "z.txt", "pickled.npy"):
        with pytest.raises(InputError, match="not a table of numbers"):
            decoding.read_latent_points(tmp_path / name)


def test_rows_are_lists_and_ranges_or_files(tmp_path: Path) -> None:
    assert decoding.read_particle_rows("0, 4,10-12", 20).tolist() == [0, 4, 10, 11, 12]
    np.save(tmp_path / "rows.npy", np.array([3, 1]))
    (tmp_path / "rows.txt").write_text("3\n1\n")
    for name in ("rows.npy", "rows.txt"):
        assert decoding.read_particle_rows(str(tmp_path / name), 20).tolist() == [3, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b", "--particles: 'a,b' is neither a list of rows nor a file of them. Write for example 0,4,10-12"),
        ("3,25", "--particles: row 25 does not exist. The job has 20 particles, rows 0 to 19"),
        ("5-3", "--particles: there is no row in it"),
        ("-1", "neither a list of rows nor a file"),
    ],
)
def test_rows_that_do_not_exist_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        decoding.read_particle_rows(text, 20)
    assert message in str(error.value)


def test_a_smaller_box_keeps_the_extent() -> None:
    assert decoding.decoding_grid(Grid(64, 2.0), 32) == Grid(32, 4.0)
    assert decoding.decoding_grid(Grid(64, 2.0), None) == Grid(64, 2.0)
    with pytest.raises(InputError, match="--box: a box of 65 voxels cannot be decoded. Give 8 to 64"):
        decoding.decoding_grid(Grid(64, 2.0), 65)
