"""Histograms count every particle once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from frazil.figures import changes


def test_histograms_count_every_particle_and_mark_the_median() -> None:
    generator = np.random.default_rng(0)
    turned = np.abs(generator.normal(0, 2, 1000))
    spec, figure = changes.histograms({"rotation (°)": turned, "defocus (Å)": generator.normal(50, 100, 1000)})
    assert [sum(series["counts"]) for series in spec["series"]] == [1000, 1000]
    assert spec["series"][0]["median"] == pytest.approx(np.median(turned))
    assert spec["series"][0]["edges"][0] == 0
    json.dumps(spec, allow_nan=False)
    figure.canvas.draw()


def test_histograms_of_what_did_not_change_are_one_bar() -> None:
    spec, figure = changes.histograms({"shift (Å)": np.zeros(20)})
    assert max(spec["series"][0]["counts"]) == 20
    figure.canvas.draw()
