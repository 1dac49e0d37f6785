"""Curves: Fourier shell correlation, Guinier plot, learning curve, bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from frazil.figures.style import COLOURS, FAINT, INK, Array, Spec, as_array, as_list, new_figure, styled
from frazil.numerics.shells import first_shell_below, shell_power

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor


# what says where a record of metrics belongs, and is no metric itself
PLACES = ("epoch", "step", "rows", "images", "resolution")


@styled
def fsc(
    correlations: Mapping[str, Array],
    pixel_size: float,
    box_size: int,
    title: str = "Fourier shell correlation",
    *,
    thresholds: Sequence[float] = (0.143, 0.5),
) -> tuple[Spec, Figure]:
    """Fourier shell correlation curves with the resolution at each threshold.

    Args:
        correlations: name of a curve → (shells,) its values on shells 0, 1, ... of a box of `box_size`.
        pixel_size: Å per voxel.
        box_size: voxels along each side.
        title: heading of the figure.
        thresholds: correlations at which lines are drawn and crossings read. 0.143 is the usual criterion between two
            half-maps (Rosenthal and Henderson 2003), 0.5 the usual one between a map and a reference.
    """
    figure = new_figure(6.4, 3.6 + 0.22 * len(correlations))
    axes = figure.add_subplot()
    extent = box_size * pixel_size
    series = []
    for i, (name, values) in enumerate(correlations.items()):
        curve = as_array(values).astype(np.float64)
        found = {f"{t:g}": _resolution(curve, t, extent) for t in thresholds}
        read = ", ".join(_read(curve, t, found[f"{t:g}"]) for t in thresholds)
        colour = COLOURS[i % len(COLOURS)]
        frequency = np.arange(len(curve)) / extent
        # shell 0 is the mean of the map: it says nothing and may have either sign
        axes.plot(frequency[1:], curve[1:], color=colour, label=f"{name}: {read}")
        for t in thresholds:
            crossing = found[f"{t:g}"]
            if crossing is not None:
                axes.plot(1 / crossing, t, "o", color=colour, markersize=4)
        series.append({"name": name, "correlation": as_list(curve), "resolution": found})
    for t in thresholds:
        axes.axhline(t, color=FAINT if t == 0.5 else "#8a9099", linewidth=0.9, linestyle="--", zorder=0)
        axes.annotate(
            f"{t:g}",
            (1.0, t),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="#5c636d",
        )
    axes.set_ylim(-0.08, 1.05)
    axes.set_ylabel("correlation")
    _resolution_axis(axes, pixel_size)
    axes.set_title(title)
    if correlations:
        figure.legend(loc="outside lower left")
    return {
        "kind": "fsc",
        "title": title,
        "pixel_size": float(pixel_size),
        "box_size": int(box_size),
        "x": "shell / (box_size × pixel_size), 1/Å",
        "thresholds": list(thresholds),
        "series": series,
    }, figure


def _resolution(curve: np.ndarray, threshold: float, extent: float) -> float | None:
    """Å where the curve first falls below the threshold; None when it never does, or at once."""
    shell = first_shell_below(torch.from_numpy(curve), threshold)
    if not (curve[1:] < threshold).any() or shell < 1:
        return None
    return round(extent / shell, 4)


def _read(curve: np.ndarray, threshold: float, resolution: float | None) -> str:
    """The resolution at a threshold, in words."""
    if resolution is not None:
        return f"{resolution:.2f} Å at {threshold:g}"
    return f"{'above' if (curve[1:] >= threshold).all() else 'below'} {threshold:g} throughout"


def _resolution_axis(axes: Axes, pixel_size: float) -> None:
    """Frequency axis from 0 to Nyquist, its ticks written as resolutions in Å."""
    nyquist = 0.5 / pixel_size
    wanted = [
        200,
        100,
        50,
        30,
        20,
        15,
        12,
        10,
        8,
        7,
        6,
        5,
        4.5,
        4,
        3.5,
        3,
        2.5,
        2.2,
        2,
        1.8,
        1.6,
        1.4,
        1.2,
        1,
        0.8,
        0.6,
    ]
    ticks: list[float] = [2 * pixel_size]
    for spacing in reversed(wanted):
        if ticks[-1] < spacing and 1 / ticks[-1] - 1 / spacing > 0.085 * nyquist and 1 / spacing > 0.05 * nyquist:
            ticks.append(spacing)
    axes.set_xlim(0, nyquist)
    axes.set_xticks([1 / spacing for spacing in ticks], [f"{spacing:.3g}" for spacing in ticks])
    axes.set_xlabel("resolution (Å)")


@styled
def guinier(
    volumes: Mapping[str, Array], pixel_size: float, title: str = "Guinier plot", *, fit_from: float = 10.0
) -> tuple[Spec, Figure]:
    """Natural logarithm of the mean amplitude of each shell against 1/d², and the B factor of its fall-off.

    A straight line of slope -B/4 means amplitudes exp(-B/(4 d²)) (Rosenthal and Henderson 2003).

    Args:
        volumes: name → (n, n, n) map.
        pixel_size: Å per voxel.
        title: heading of the figure.
        fit_from: Å; the line is fitted from here to Nyquist, where the shape of the molecule no longer rules.
    """
    figure = new_figure(6.4, 3.6)
    axes = figure.add_subplot()
    series = []
    for i, (name, volume) in enumerate(volumes.items()):
        values = torch.as_tensor(as_array(volume))
        power = shell_power(values)
        shell = torch.arange(1, len(power), dtype=torch.float64)
        squared = (shell / (values.shape[-1] * pixel_size)) ** 2
        amplitude = 0.5 * torch.log(power[1:].clamp(min=float(power.max()) * 1e-24))
        shown = slice(0, _before_cliff(amplitude))
        squared, amplitude = squared[shown], amplitude[shown]
        keep = squared > 1 / fit_from**2
        b_factor = None
        colour = COLOURS[i % len(COLOURS)]
        if int(keep.sum()) >= 3:
            slope, offset = np.polyfit(squared[keep].numpy(), amplitude[keep].numpy(), 1)
            b_factor = round(-4 * float(slope), 2)
            axes.plot(squared[keep], slope * squared[keep] + offset, color=colour, linestyle="--", linewidth=1)
        axes.plot(
            squared, amplitude, color=colour, label=name if b_factor is None else f"{name}: B = {b_factor:.0f} Å²"
        )
        series.append({"name": name, "x": as_list(squared), "y": as_list(amplitude), "b_factor": b_factor})
    axes.set_xlabel("1/d² (1/Å²)")
    axes.set_ylabel("ln mean amplitude")
    axes.set_title(title)
    axes.legend()
    return {"kind": "guinier", "title": title, "pixel_size": float(pixel_size), "series": series}, figure


def _before_cliff(amplitude: Tensor) -> int:
    """How many shells come before a filter has removed everything: where ln amplitude falls by 4 at once."""
    falls = torch.nonzero(amplitude[1:] - amplitude[:-1] < -4).ravel()
    return int(falls[0]) + 1 if len(falls) else len(amplitude)


@styled
def learning_curve(
    records: Sequence[Mapping[str, object]],
    title: str = "Learning curve",
    *,
    names: Sequence[str] | None = None,
    axis: str | None = None,
) -> tuple[Spec, Figure]:
    """Metrics against epoch (or step): one small panel per quantity.

    Args:
        records: rows of metrics.jsonl; values that are not numbers are left out.
        title: heading of the figure.
        names: the quantities to draw; None draws all that were recorded more than once, at most six,
            "loss" first.
        axis: the quantity on the horizontal axis; None takes "epoch", else "step", else the row number.

    Raises:
        ValueError: no number was recorded twice.
    """
    columns: dict[str, list[tuple[float, float]]] = {}
    across = axis or next((name for name in ("epoch", "step") if any(name in record for record in records)), "row")
    for row, record in enumerate(records):
        place = record.get(across, row)
        if not isinstance(place, int | float):
            continue
        for name, value in record.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or name in (across, *PLACES):
                continue
            if np.isfinite(value):
                columns.setdefault(name, []).append((float(place), float(value)))
    wanted = sorted(columns, key=lambda name: (name != "loss", "loss" not in name)) if names is None else names
    drawn = [name for name in wanted if len(columns.get(name, [])) > 1][:6]
    if not drawn:
        raise ValueError("no number was recorded twice: there is no curve to draw")
    across_count = min(len(drawn), 3)
    rows = -(-len(drawn) // across_count)
    figure = new_figure(max(6.4, 3.1 * across_count), 2.5 * rows + 0.4)
    panels = np.atleast_1d(np.asarray(figure.subplots(rows, across_count))).ravel()
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK, fontweight="bold")
    for panel in panels[len(drawn) :]:
        panel.set_visible(False)
    for i, name in enumerate(drawn):
        x, y = np.array(columns[name]).T
        dense = len(x) > 30
        panels[i].plot(x, y, "-" if dense else "o-", markersize=3, color=COLOURS[i % len(COLOURS)])
        panels[i].set_title(name.replace("_", " "), fontsize=9)
        panels[i].set_xlabel(across)
    series = [
        {"name": name, "x": as_list(np.array(columns[name])[:, 0]), "y": as_list(np.array(columns[name])[:, 1])}
        for name in drawn
    ]
    return {"kind": "learning_curve", "title": title, "axis": across, "series": series}, figure


@styled
def bars(
    values: Mapping[str, float], title: str, *, label: str = "particles", colours: Sequence[str] | None = None
) -> tuple[Spec, Figure]:
    """One bar per name, its value written above it; the occupancy of states, for instance."""
    figure = new_figure(max(4.5, 0.55 * len(values) + 1.4), 3.0)
    axes = figure.add_subplot()
    heights = [float(value) for value in values.values()]
    drawn = axes.bar(range(len(heights)), heights, color=colours or COLOURS[0], width=0.72)
    axes.bar_label(drawn, labels=[f"{height:g}" for height in heights], fontsize=8, padding=2)
    axes.set_xticks(range(len(heights)), list(values))
    axes.grid(axis="x", visible=False)
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.margins(y=0.12)
    return {"kind": "bars", "title": title, "label": label, "names": list(values), "values": heights}, figure
