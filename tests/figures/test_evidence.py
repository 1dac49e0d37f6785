"""What images tell, drawn with the numbers it was drawn from."""

from __future__ import annotations

import json

import numpy as np
import pytest

from frazil.figures import evidence


def test_gains_keep_their_numbers_and_the_choice() -> None:
    spec, figure = evidence.gains([0.0, 1.5, 1.6], [0.0, 0.1, 0.1], 1)
    assert (spec["gain"], spec["error"], spec["kept"]) == ([0.0, 1.5, 1.6], [0.0, 0.1, 0.1], 1)
    assert figure.axes[0].get_legend_handles_labels()[1] == ["kept: 1"]
    figure.canvas.draw()


@pytest.mark.parametrize(("error", "kept"), [([0.0], 1), ([0.0, 0.1], 2)])
def test_gains_that_do_not_fit_together_are_refused(error: list[float], kept: int) -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        evidence.gains([0.0, 1.5], error, kept)


def test_passes_are_one_line_per_stage() -> None:
    records = [{"resolution_masked": 7.0}]
    for step in range(1, 6):
        stage = "motion" if step > 3 else "principal components"
        records.append({"step": step, "stage": stage, "resolution": 20.0, "evidence": 10.0 * step})  # type: ignore[dict-item]
    spec, _ = evidence.passes([*records, {"stage": "motion", "resolution": 20.0, "evidence": None}])
    json.dumps(spec, allow_nan=False)
    assert [series["name"] for series in spec["series"]] == ["principal components to 20.0 Å", "motion to 20.0 Å"]
    assert [series["x"] for series in spec["series"]] == [[1, 2, 3], [4, 5, 6]]
    assert spec["series"][1]["y"] == [40, 50, None]


def test_passes_of_nothing_say_so() -> None:
    with pytest.raises(ValueError, match="no pass was recorded"):
        evidence.passes([{"epoch": 1, "loss": 2.0}])


def test_contrast_counts_every_image() -> None:
    spec, _ = evidence.contrast(np.random.default_rng(0).normal(1, 0.1, 500))
    assert sum(spec["counts"]) == 500
    assert spec["deviation"] == pytest.approx(0.1, rel=0.1)
