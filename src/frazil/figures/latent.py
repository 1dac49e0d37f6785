"""Pictures of latent spaces: density maps, scatter plots, the truth against what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from frazil.figures.marks import error_ellipse, mark
from frazil.figures.style import (
    COLOURS,
    DENSITY,
    FAINT,
    INK,
    Array,
    Spec,
    as_array,
    as_list,
    new_figure,
    state_colours,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# a spec keeps at most this many points of a cloud (evenly through the rows); the densities drawn use them all
POINTS_IN_SPEC = 20_000
# more points than this hide one another and are drawn as a density
MOST_DOTS = 5_000
# -ln p is drawn up to here: rarer places hold too few particles to tell
ENERGY_TOP = 6.0


@styled
def density(
    coordinates: Array,
    title: str,
    *,
    labels: Sequence[str] = ("PC 1", "PC 2"),
    marks: Array | None = None,
    mark_names: Sequence[str] | None = None,
    paths: Sequence[Array] = (),
    error: Array | None = None,
) -> tuple[Spec, Figure]:
    """How densely particles fill a plane (hexagonal bins, logarithmic), with marked points and paths over it.

    Args:
        coordinates: (N, 2), or (N, 1) or (N,): a single coordinate is drawn as a histogram.
        title: heading of the figure.
        labels: names of the axes.
        marks: (M, 2) or (M, 1) points to mark, cluster centres for instance.
        mark_names: their names; None numbers them from 0.
        paths: (S, 2) or (S, 1) paths, drawn as lines with a dot per step (two coordinates only).
        error: (2, 2) or (1, 1) covariance of one particle's coordinates: its ellipse of one standard deviation is drawn in a
            corner.

    Raises:
        ValueError: coordinates with more than two columns.
    """
    points = _plane(coordinates)
    marked = np.zeros((0, points.shape[1])) if marks is None else _plane(marks)
    names = [str(i) for i in range(len(marked))] if mark_names is None else list(mark_names)
    figure = new_figure(6.0, 4.8 if points.shape[1] == 2 else 3.4)
    axes = figure.add_subplot()
    finite = points[np.isfinite(points).all(1)]
    if points.shape[1] == 2:
        _hexagons(axes, figure, finite)
        for i, path in enumerate(paths):
            steps = _plane(path)
            axes.plot(
                *steps.T,
                "o-",
                color=COLOURS[(i + 1) % len(COLOURS)],
                markersize=3.5,
                linewidth=1.3,
                markeredgecolor="white",
                markeredgewidth=0.5,
            )
        mark(axes, marked, names)
        axes.set_ylabel(labels[1])
    else:
        axes.hist(finite[:, 0], bins=_bins(finite[:, 0]), color=COLOURS[5])
        axes.set_ylabel("particles")
        mark(axes, np.column_stack([marked, np.full(len(marked), 0.04 * axes.get_ylim()[1])]), names)
    if error is not None:
        error_ellipse(axes, as_array(error).astype(np.float64))
    axes.set_xlabel(labels[0])
    axes.set_title(title)
    spec = {
        "kind": "density",
        "title": title,
        "labels": list(labels[: points.shape[1]]),
        "count": len(points),
        "points": as_list(_thinned(points), 5),
        "marks": as_list(marked, 5),
        "mark_names": names,
        "paths": [as_list(_plane(path), 5) for path in paths],
        "error": None if error is None else as_list(error, 5),
    }
    return spec, figure


@styled
def scatter(
    coordinates: Array,
    groups: Array,
    title: str,
    *,
    labels: Sequence[str] = ("PC 1", "PC 2"),
    marks: Array | None = None,
) -> tuple[Spec, Figure]:
    """Particles (N, 2) in a plane, coloured by their group (N,); marked points are numbered like the groups."""
    points, group = _plane(coordinates), as_array(groups).astype(np.int64)
    figure = new_figure(6.0, 4.8)
    axes = figure.add_subplot()
    colours = np.array(state_colours(int(group.max(initial=0)) + 1))
    vertical = points[:, 1] if points.shape[1] == 2 else np.random.default_rng(0).uniform(size=len(points))
    size = float(np.clip(6000 / max(len(points), 1), 0.6, 14))
    axes.scatter(points[:, 0], vertical, s=size, c=colours[group], alpha=0.65, linewidths=0, rasterized=True)
    if points.shape[1] == 1:
        axes.set_yticks([])
    else:
        axes.set_ylabel(labels[1])
    marked = np.zeros((0, 2)) if marks is None else _plane(marks)
    if marked.shape[1] == 1:
        marked = np.column_stack([marked, np.full(len(marked), 0.5)])
    mark(axes, marked, [str(i) for i in range(len(marked))])
    axes.set_xlabel(labels[0])
    axes.set_title(title)
    spec = {
        "kind": "scatter",
        "title": title,
        "labels": list(labels[: points.shape[1]]),
        "count": len(points),
        "points": as_list(_thinned(points), 5),
        "groups": as_list(_thinned(group)),
        "marks": as_list(marked, 5),
    }
    return spec, figure


@styled
def valued(
    coordinates: Array,
    values: Array,
    title: str,
    *,
    name: str,
    labels: Sequence[str] = ("PC 1", "PC 2"),
    marks: Array | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
) -> tuple[Spec, Figure]:
    """Particles (N, 1 or 2) coloured by a value (N,) between two limits; grey where it is NaN. Marks are numbered."""
    points, value = _plane(coordinates), as_array(values).astype(np.float64)
    figure = new_figure(6.4, 4.8)
    axes = figure.add_subplot()
    vertical = points[:, 1] if points.shape[1] == 2 else np.random.default_rng(0).uniform(size=len(points))
    size = float(np.clip(6000 / max(len(points), 1), 0.6, 14))
    known = np.isfinite(value)
    axes.scatter(points[~known, 0], vertical[~known], s=size, color=FAINT, alpha=0.65, linewidths=0, rasterized=True)
    drawn = axes.scatter(
        points[known, 0],
        vertical[known],
        s=size,
        c=value[known],
        cmap="RdYlBu",
        vmin=limits[0],
        vmax=limits[1],
        linewidths=0,
        rasterized=True,
    )
    if points.shape[1] == 1:
        axes.set_yticks([])
    else:
        axes.set_ylabel(labels[1])
    marked = np.zeros((0, 2)) if marks is None else _plane(marks)
    if marked.shape[1] == 1:
        marked = np.column_stack([marked, np.full(len(marked), 0.5)])
    mark(axes, marked, [str(i) for i in range(len(marked))])
    bar = figure.colorbar(drawn, ax=axes, shrink=0.85, pad=0.02)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_label(f"{name} (grey: not known)" if not known.all() else name, fontsize=8.5)
    bar.ax.tick_params(labelsize=7.5)
    axes.set_xlabel(labels[0])
    axes.set_title(title)
    spec = {
        "kind": "valued",
        "title": title,
        "name": name,
        "labels": list(labels[: points.shape[1]]),
        "count": len(points),
        "points": as_list(_thinned(points), 5),
        "values": as_list(_thinned(value), 4),
        "marks": as_list(marked, 5),
    }
    return spec, figure


@styled
def free_energy(
    coordinates: Array,
    title: str,
    *,
    labels: Sequence[str] = ("volume PC 1", "volume PC 2"),
    marks: Array | None = None,
    mark_names: Sequence[str] | None = None,
) -> tuple[Spec, Figure]:
    """-ln p of particles in a plane (N, 2) or on a line (N, 1), its lowest point 0: valleys are where particles gather.

    p is the density of particles, smoothed by Scott's rule (1992). It is an energy in units of kT only if particles were
    frozen in equilibrium and none was lost on the way.
    """
    points = _plane(coordinates)
    points = points[np.isfinite(points).all(1)]
    marked = np.zeros((0, points.shape[1])) if marks is None else _plane(marks)
    names = [str(i) for i in range(len(marked))] if mark_names is None else list(mark_names)
    figure = new_figure(6.4, 4.8) if points.shape[1] == 2 else new_figure(6.4, 3.6)
    axes = figure.add_subplot()
    edges, energy = _energy(points)
    if points.shape[1] == 2:
        levels = np.linspace(0, ENERGY_TOP, 13)
        middles = [0.5 * (one[1:] + one[:-1]) for one in edges]
        drawn = axes.contourf(*middles, np.minimum(energy, ENERGY_TOP).T, levels=levels, cmap="YlGnBu_r")
        axes.contour(*middles, energy.T, levels=levels[1:-1:2], colors="white", linewidths=0.5)
        axes.grid(False)
        bar = figure.colorbar(drawn, ax=axes, shrink=0.85, pad=0.02)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.set_label("-ln p", fontsize=8.5)
        bar.ax.tick_params(labelsize=7.5)
        axes.set_ylabel(labels[1])
        mark(axes, marked, names)
    else:
        middle = 0.5 * (edges[0][1:] + edges[0][:-1])
        axes.plot(middle, np.minimum(energy, ENERGY_TOP), color=COLOURS[0])
        axes.set_ylabel("-ln p")
        mark(axes, np.column_stack([marked, np.interp(marked[:, 0], middle, energy)]), names)
    axes.set_xlabel(labels[0])
    axes.set_title(title)
    spec = {
        "kind": "free_energy",
        "title": title,
        "labels": list(labels[: points.shape[1]]),
        "count": len(points),
        "edges": [as_list(one, 5) for one in edges],
        "energy": as_list(energy, 4),
        "marks": as_list(marked, 5),
        "mark_names": names,
    }
    return spec, figure


def _energy(points: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Bin edges along each axis, and -ln of the smoothed density in each bin; infinite where there is none."""
    from scipy.ndimage import gaussian_filter

    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.1 * np.where(high > low, high - low, 1)
    bins = 64 if points.shape[1] == 2 else 128
    edges = [np.linspace(a - m, b + m, bins + 1) for a, b, m in zip(low, high, margin, strict=True)]
    counts, _ = np.histogramdd(points, bins=edges)
    width = len(points) ** (-1 / (points.shape[1] + 4)) * points.std(axis=0)
    steps = [max(w / (edge[1] - edge[0]), 0.5) for w, edge in zip(width, edges, strict=True)]
    density = gaussian_filter(counts, steps)
    with np.errstate(divide="ignore"):
        energy = -np.log(density / density.max())
    energy[density < 1e-6 * density.max()] = np.inf
    return edges, energy


@styled
def against_truth(
    found: Array,
    truth: Array,
    title: str,
    *,
    labels: Sequence[str] = ("true coordinate", "latent coordinate"),
    note: str = "",
) -> tuple[Spec, Figure]:
    """A latent coordinate (N,) against the true one (N,): a tight monotonic band is success."""
    x, y = as_array(truth).astype(np.float64).ravel(), as_array(found).astype(np.float64).ravel()
    figure = new_figure(5.4, 4.2)
    axes = figure.add_subplot()
    if len(x) > MOST_DOTS:
        _hexagons(axes, figure, np.column_stack([x, y]))
    else:
        axes.scatter(x, y, s=7, color=COLOURS[0], alpha=0.45, linewidths=0)
    if note:
        axes.text(0.02, 0.97, note, transform=axes.transAxes, va="top", fontsize=9.5, color=INK)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(title)
    spec = {
        "kind": "against_truth",
        "title": title,
        "labels": list(labels),
        "note": note,
        "points": as_list(_thinned(np.column_stack([x, y])), 5),
    }
    return spec, figure


@styled
def explained_variance(fractions: Array, title: str = "Variance explained by each component") -> tuple[Spec, Figure]:
    """Fraction of the latent variance along each principal component, and their running sum."""
    values = as_array(fractions).astype(np.float64)
    figure = new_figure(max(3.6, 0.45 * len(values) + 2), 3.0)
    axes = figure.add_subplot()
    place = np.arange(1, len(values) + 1)
    axes.bar(place, values, color=COLOURS[0], width=0.7)
    axes.plot(place, values.cumsum(), "o-", color=COLOURS[1], markersize=3.5, label="together")
    axes.set_xticks(place)
    axes.set_ylim(0, 1.05)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("principal component")
    axes.set_ylabel("fraction of variance")
    axes.set_title(title)
    axes.legend(loc="center right")
    return {"kind": "explained_variance", "title": title, "values": as_list(values)}, figure


def _plane(coordinates: Array) -> np.ndarray:
    points = as_array(coordinates).astype(np.float64)
    points = points[:, None] if points.ndim == 1 else points
    if points.ndim != 2 or points.shape[1] not in (1, 2):
        raise ValueError(f"coordinates of shape {points.shape}: one or two columns can be drawn")
    return points


def _thinned(values: np.ndarray) -> np.ndarray:
    return values[:: max(1, -(-len(values) // POINTS_IN_SPEC))]


def _bins(values: np.ndarray) -> int:
    return int(np.clip(2 * len(values) ** (1 / 3), 10, 80))


def _hexagons(axes: Axes, figure: Figure, points: np.ndarray) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogFormatter

    bins = int(np.clip(1.3 * len(points) ** 0.5, 14, 70))
    drawn = axes.hexbin(points[:, 0], points[:, 1], gridsize=bins, mincnt=1, cmap=DENSITY, linewidths=0.1)
    counts = drawn.get_array()
    most = 1.0 if counts is None or not len(counts) else float(counts.max())
    logarithmic = most > 20
    # the palest colour of the map would vanish on white
    drawn.set_norm(LogNorm(0.6, most)) if logarithmic else drawn.set_clim(-0.15 * most, most)
    axes.grid(False)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.85, pad=0.02, format=LogFormatter() if logarithmic else None)
    bar.ax.set_ylim(1 if logarithmic else 0, most)
    bar.minorticks_off()
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_label("particles per cell", fontsize=8.5)
    bar.ax.tick_params(labelsize=7.5)
