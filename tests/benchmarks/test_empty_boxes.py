"""Boxes without particles, cut from the real micrographs."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from empty_boxes import CUT, box_at, empty_places, micrograph, with_empty_boxes, without_pattern
from frazil.data.mrc import read_array
from frazil.data.stack import read_particles
from frazil.data.star import read_star


def test_empty_places_are_far_from_particles_and_from_one_another() -> None:
    particles = np.array([[300.0, 300.0], [340.0, 120.0], [150.0, 260.0]])
    places = np.array(empty_places(np.zeros((400, 600), np.float32), particles), dtype=float)
    among = np.linalg.norm(places[:, None] - places, axis=-1)[~np.eye(len(places), dtype=bool)]
    assert len(places) > 5
    assert np.linalg.norm(places[:, None] - particles, axis=-1).min() >= 60
    assert among.min() >= 60
    assert places.min() >= CUT // 2 and (places.max(axis=0) <= np.array([600, 400]) - CUT // 2).all()


def test_boxes_at_the_places_of_particles_are_the_particles(data_folder: Path) -> None:
    folder = data_folder / "apoferritin"
    block = read_star(folder / "particles" / "particles.star")["particles"]
    names, x, y = (
        block.text("rlnMicrographName"),
        block.numbers("rlnCoordinateX"),
        block.numbers("rlnCoordinateY"),
    )
    images, _ = read_array(folder / "particles" / "particles.mrcs")
    clean = without_pattern({name: micrograph(folder / "averages" / name) for name in sorted(set(names))})
    found = [
        np.corrcoef(box_at(clean[names[row]], round(x[row]), round(y[row])).ravel(), images[row].ravel())[0, 1]
        for row in range(0, len(names), 100)
    ]
    assert min(found) > 0.95


def test_empty_boxes_stand_after_the_particles(data_folder: Path, tmp_path: Path) -> None:
    star, real = with_empty_boxes(data_folder / "apoferritin", tmp_path, 5, seed=1)
    both = read_particles(star)
    before, _ = read_array(data_folder / "apoferritin" / "particles" / "particles.mrcs")
    assert (real, both.count) == (1000, 1005)
    assert np.array_equal(read_array(star.with_suffix(".mrcs"))[0][:real], before)
