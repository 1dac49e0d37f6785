"""One look for every picture: light background, colour-blind safe colours, thin frames."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

Spec: TypeAlias = dict[str, Any]
"""Everything a figure shows, as JSON-able values: `kind`, `title`, labels and numbers."""

Array: TypeAlias = "np.ndarray | Tensor"

P = ParamSpec("P")
R = TypeVar("R")

# Okabe and Ito (2008): distinguishable with any common colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#555555")
INK = "#2b2f36"
FAINT = "#c3c8cf"
DENSITY = "YlGnBu"  # sequential maps of counts and densities
GREYS = "gray"  # sections and projections: density is bright

_LOOK: dict[str, Any] = {
    "axes.edgecolor": "#8a9099",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titlecolor": INK,
    "axes.labelsize": 9.5,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.7,
    "text.color": INK,
    "xtick.color": "#5c636d",
    "ytick.color": "#5c636d",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "svg.hashsalt": "frazil",
}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw with the look of this package, whatever the reader's own matplotlib settings are."""

    @functools.wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(cast(Any, _LOOK))
            return draw(*args, **kwargs)

    return inner


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` × `height` inches on the Agg canvas (150 dots per inch)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_panels(columns: int, rows: int, width: float, height: float, title: str = "") -> tuple[Figure, list[Axes]]:
    """A figure of `rows` × `columns` panels, each `width` × `height` inches; panels row by row."""
    figure = new_figure(width * columns, height * rows + (0.35 if title else 0.0))
    panels = np.atleast_1d(np.asarray(figure.subplots(rows, columns))).ravel()
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK, fontweight="bold")
    return figure, list(panels)


def picture_panel(axes: Axes) -> None:
    """Take ticks, grid and frame off an axes that holds a picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def state_colours(count: int) -> list[str]:
    """`count` colours for states or curves: the palette, or for more than it has a rainbow in which none comes twice."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["turbo"](place)) for place in np.linspace(0.06, 0.94, count)]


def as_array(values: Array) -> np.ndarray:
    """A NumPy array of a tensor or array, on the CPU, without its gradient."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()  # type: ignore[union-attr]
    return np.asarray(values)


def as_list(values: Array, digits: int = 6) -> list[Any]:
    """Nested lists of numbers rounded to `digits` significant digits; NaN and infinity become None."""
    array = as_array(values)
    if array.ndim > 1:
        return [as_list(row, digits) for row in array]
    if array.dtype.kind in "iub":
        return array.tolist()
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in array.tolist()]


def as_picture(values: Array) -> Spec:
    """A picture for a spec: 8-bit grey levels between its smallest and largest finite value, in base 64, row by row."""
    array = as_array(values).astype(np.float64)
    finite = array[np.isfinite(array)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    scaled = np.nan_to_num((array - low) / ((high - low) or 1.0))
    levels = np.clip(np.rint(255 * scaled), 0, 255).astype(np.uint8)
    return {"shape": list(array.shape), "low": low, "high": high, "uint8": base64.b64encode(levels.tobytes()).decode()}
