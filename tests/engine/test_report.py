"""The report is one file that tells everything and asks for nothing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frazil.config import JobConfig
from frazil.engine.job import open_job
from frazil.engine.report import cell_text, paragraphs, write_report


@dataclass
class Part:
    heading: str
    text: str = ""
    tables: list[Any] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    films: dict[str, bytes] = field(default_factory=dict)


def drawing() -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1), dpi=150)
    FigureCanvasAgg(figure)
    figure.subplots().plot([1, 2])
    return figure


def test_the_report_holds_its_pictures_and_points_to_nothing_outside(tmp_path: Path) -> None:
    with open_job("simulate", JobConfig(out=tmp_path / "job", device="cpu"), [], "frazil simulate <x>") as job:
        sections = [
            Part(
                "Maps",
                "Two words.\n\n    frazil analyze J1",
                figures={"fsc": ({"title": "FSC", "y": [1, 0.5]}, drawing())},
            ),
            Part(
                "Scores", tables=[[("name", "value"), ("A & B", 0.123456), ("C", None)]], films={"A motion": b"GIF89a"}
            ),
        ]
        path = write_report(job, "A <hinge>", sections, {"resolution": "7.0 Å", "particles": 12345})
    page = path.read_text()
    assert "A &lt;hinge&gt;" in page and "12,345" in page and "A &amp; B" in page and "0.1235" in page
    assert "<pre>frazil analyze J1</pre>" in page
    assert page.count("data:image/png;base64,") == 1 and page.count("data:image/gif;base64,") == 1
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert json.loads((job.figures / "fsc.json").read_text())["y"] == [1, 0.5]
    assert (job.figures / "fsc.png").read_bytes().startswith(b"\x89PNG")
    assert (job.figures / "A_motion.gif").is_file()


def test_indented_paragraphs_are_commands() -> None:
    assert paragraphs("One\ntwo.\n\n  frazil demo\n  frazil x\n\n\nThree") == [
        ("p", "One\ntwo."),
        ("pre", "frazil demo\nfrazil x"),
        ("p", "Three"),
    ]


def test_numbers_are_shown_with_the_digits_that_matter() -> None:
    assert [cell_text(v) for v in (1234567, 0.000123456, 7.0, None, True, "x")] == [
        "1,234,567",
        "0.0001235",
        "7",
        "-",
        "True",
        "x",
    ]
