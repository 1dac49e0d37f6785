"""The rooms of `frazil.figures` are opened on first use, and draw without a screen."""

from __future__ import annotations

import subprocess
import sys

import pytest

from frazil import figures


def test_importing_figures_loads_nothing_slow() -> None:
    code = "import frazil.figures, sys; sys.exit(any(m in sys.modules for m in ('numpy', 'torch', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_rooms_are_reached_by_their_names() -> None:
    for name in dir(figures):
        assert getattr(figures, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'charts'"):
        _ = figures.charts


def test_drawing_never_loads_pyplot() -> None:
    code = (
        "import sys; from frazil.figures import curves; f = curves.bars({'a': 1}, 't')[1]; f.canvas.draw();"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
