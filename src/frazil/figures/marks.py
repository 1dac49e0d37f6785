"""What is written over a cloud of particles: points with names, the error of one particle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from frazil.figures.style import COLOURS, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def mark(axes: Axes, points: np.ndarray, names: Sequence[str]) -> None:
    """Points (M, 2) with their names; those that are not finite are left out."""
    from matplotlib import patheffects

    known = np.flatnonzero(np.isfinite(points).all(axis=1))
    points, names = points[known], [names[int(i)] for i in known]
    if not len(points):
        return
    halo = [patheffects.withStroke(linewidth=2.4, foreground="white")]
    axes.scatter(points[:, 0], points[:, 1], s=26, color=INK, edgecolors="white", linewidths=0.9, zorder=5)
    for point, name in zip(points, names, strict=True):
        axes.annotate(
            name,
            (float(point[0]), float(point[1])),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=8.5,
            fontweight="bold",
            color=INK,
            path_effects=halo,
            zorder=6,
        )


def error_ellipse(axes: Axes, covariance: np.ndarray) -> None:
    """The ellipse (or the bar) of one standard deviation, in a band of its own below the cloud."""
    from matplotlib.patches import Ellipse

    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    deviation = np.sqrt(covariance.diagonal())
    x = left + deviation[0] + 0.03 * (right - left)
    if len(deviation) == 1:
        y = top
        axes.set_ylim(bottom, 1.12 * top)
        axes.errorbar(x, y, xerr=deviation[0], color=COLOURS[1], capsize=3, linewidth=1.4)
        reach = 0.0
    else:
        reach = float(deviation[1])
        y = bottom - reach - 0.03 * (top - bottom)
        axes.set_ylim(y - reach - 0.03 * (top - bottom), top)
        lengths, turn = np.linalg.eigh(covariance)
        angle = float(np.degrees(np.arctan2(turn[1, 1], turn[0, 1])))
        width, height = 2 * np.sqrt(lengths[::-1])
        drawn = Ellipse((x, y), width, height, angle=angle, facecolor="none", edgecolor=COLOURS[1], linewidth=1.4)
        axes.add_patch(drawn)
    axes.set_xlim(left, max(right, x + deviation[0]))
    axes.annotate(
        "typical error of one particle (1 sd)",
        (x + deviation[0], y),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=INK,
    )
