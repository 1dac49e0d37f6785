"""What refinement changed: one histogram for each quantity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from frazil.figures.style import COLOURS, INK, Array, Spec, as_array, as_list, new_panels, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 40
# the axis ends where all but this share of the particles lie; those beyond are counted in the last bar
BEYOND = 0.005


@styled
def histograms(values: Mapping[str, Array], title: str = "Changes") -> tuple[Spec, Figure]:
    """How many particles have each value of some quantities, with the median of each marked.

    Args:
        values: name with unit → (particles,) values. title: heading of the figure.
    """
    figure, panels = new_panels(len(values), 1, 2.9, 2.6, title)
    series = []
    for panel, (name, given), colour in zip(panels, values.items(), COLOURS, strict=False):
        numbers = as_array(given).astype(np.float64)
        numbers = numbers[np.isfinite(numbers)]
        low, high = np.quantile(numbers, (BEYOND, 1 - BEYOND)) if len(numbers) else (0.0, 1.0)
        # sizes begin at nothing, unless they are all far from it
        low = 0.0 if len(numbers) and numbers.min() >= 0 and low < high / 4 else low
        high = high if high > low else low + 1.0
        counts, edges = np.histogram(numbers.clip(low, high), BINS, (low, high))
        middle = float(np.median(numbers)) if len(numbers) else 0.0
        panel.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colour)
        panel.axvline(middle, color=INK, linewidth=0.9, linestyle="--")
        panel.set_title(f"median {middle:.3g}", fontsize=9)
        panel.set_xlabel(name)
        panel.set_xlim(low, high)
        series.append({"name": name, "edges": as_list(edges), "counts": counts.tolist(), "median": middle})
    panels[0].set_ylabel("particles")
    return {"kind": "histograms", "title": title, "series": series}, figure
