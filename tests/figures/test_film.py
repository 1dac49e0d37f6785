"""A film shows each map, to and fro."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from frazil.figures import film


def test_film_plays_to_and_fro_without_end(ball: np.ndarray) -> None:
    maps = [np.roll(ball, step, axis=2) for step in (0, 3, 6)]
    picture = Image.open(io.BytesIO(film.surface_film(maps, level=0.5, view=np.eye(3), size=40)))
    assert picture.size == (40, 40) and picture.info["loop"] == 0
    assert picture.n_frames == 4  # three out, one back

    def middle(frame: int) -> float:
        picture.seek(frame)
        columns = (255 - np.asarray(picture.convert("L"), float)).sum(0)
        return float((columns * np.arange(40)).sum() / columns.sum())

    assert middle(0) < middle(1) < middle(2) and middle(3) == pytest.approx(middle(1), abs=0.1)


def test_film_of_one_map_is_one_frame(ball: np.ndarray) -> None:
    assert film.surface_film([ball], size=20)[:6] == b"GIF89a" or film.surface_film([ball], size=20)[:6] == b"GIF87a"


def test_film_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one volume"):
        film.surface_film([])
