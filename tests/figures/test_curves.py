"""Curves carry the numbers that are read from them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from frazil.figures import curves


def test_fsc_reads_the_resolution_where_the_curve_crosses() -> None:
    shells = np.arange(33)
    spec, figure = curves.fsc({"half-maps": np.clip(1.2 - shells / 20, 0, 1)}, 2.0, 64)
    found = spec["series"][0]["resolution"]
    assert found["0.5"] == pytest.approx(128 / 14, rel=1e-3)
    assert found["0.143"] == pytest.approx(128 / (20 * (1.2 - 0.143)), rel=1e-3)
    json.dumps(spec, allow_nan=False)
    figure.canvas.draw()


def test_fsc_that_never_falls_has_no_resolution() -> None:
    spec, _ = curves.fsc({"same map": np.ones(17)}, 1.0, 32)
    assert spec["series"][0]["resolution"] == {"0.143": None, "0.5": None}


def test_fsc_that_is_low_from_the_first_shell_on_has_no_resolution() -> None:
    spec, figure = curves.fsc({"noise": np.array([1.0, 0.1, 0.0, 0.05, 0.0])}, 1.0, 8)
    assert spec["series"][0]["resolution"] == {"0.143": None, "0.5": None}
    assert "below 0.143 throughout" in figure.legends[0].get_texts()[0].get_text()


def test_fsc_axis_ends_at_nyquist() -> None:
    _, figure = curves.fsc({"a": np.ones(17)}, 1.5, 32)
    axes = figure.axes[0]
    assert axes.get_xlim()[1] == pytest.approx(1 / 3.0)
    assert "3" in [label.get_text() for label in axes.get_xticklabels()]


def test_guinier_recovers_the_b_factor_of_a_damped_white_spectrum() -> None:
    size, pixel = 48, 1.5
    frequency = torch.fft.fftfreq(size, pixel)
    half = torch.fft.rfftfreq(size, pixel)
    squared = frequency[:, None, None] ** 2 + frequency[None, :, None] ** 2 + half**2
    spectrum = torch.exp(-80.0 * squared / 4).to(torch.complex64)
    volume = torch.fft.fftshift(torch.fft.irfftn(spectrum, s=(size,) * 3))
    spec, _ = curves.guinier({"map": volume}, pixel, fit_from=15.0)
    assert spec["series"][0]["b_factor"] == pytest.approx(80, rel=0.05)


def test_learning_curve_draws_the_loss_first_and_skips_what_is_no_number() -> None:
    records = [{"epoch": i, "kl": 0.1, "loss": 1.0 / (i + 1), "phase": "warm"} for i in range(4)]
    spec, _ = curves.learning_curve([*records, {"epoch": 4, "loss": float("nan")}])
    assert [series["name"] for series in spec["series"]] == ["loss", "kl"]
    assert spec["series"][0]["x"] == [0, 1, 2, 3] and spec["axis"] == "epoch"


def test_learning_curve_of_nothing_says_so() -> None:
    with pytest.raises(ValueError, match="no number was recorded twice"):
        curves.learning_curve([{"epoch": 1, "note": "x"}])


def test_bars_keep_names_and_heights() -> None:
    spec, _ = curves.bars({"0": 3, "1": 5}, "states")
    assert spec["values"] == [3, 5] and spec["names"] == ["0", "1"]


def test_guinier_stops_where_a_filter_has_removed_everything() -> None:
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.fft.rfftn(torch.randn(32, 32, 32, generator=generator))
    frequency = torch.fft.fftfreq(32)
    radius = (frequency[:, None, None] ** 2 + frequency[None, :, None] ** 2 + torch.fft.rfftfreq(32) ** 2).sqrt()
    volume = torch.fft.irfftn(spectrum * (radius < 9.5 / 32), s=(32,) * 3)
    spec, _ = curves.guinier({"filtered": volume}, 1.0)
    assert 8 <= len(spec["series"][0]["x"]) <= 10
    assert abs(spec["series"][0]["b_factor"]) < 20
