"""A montage shows every picture with its words, and which are good."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import same_color

from frazil.figures.montage import montage
from frazil.figures.style import COLOURS


def test_a_montage_holds_every_picture_with_its_caption_and_frame() -> None:
    images = np.random.default_rng(0).normal(size=(13, 8, 8))
    captions = [f"class {number}" for number in range(13)]
    good = [number % 3 > 0 for number in range(13)]
    spec, figure = montage(images, captions, 4.0, good=good, columns=5)
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == 13
    assert [axes.get_xlabel() for axes in drawn] == captions
    for axes, well in zip(drawn, good, strict=True):
        assert same_color(axes.spines["left"].get_edgecolor(), COLOURS[0 if well else 1])
    assert [panel["good"] for panel in spec["panels"]] == good


def test_a_montage_of_one_picture_has_one_panel() -> None:
    spec, figure = montage(np.eye(6)[None], ["one"], 1.0)
    assert len(figure.axes) == 1
    assert spec["panels"][0]["good"] is None
