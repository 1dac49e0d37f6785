"""How much images tell: what each latent coordinate explains, the evidence as it is learnt, the contrast of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from frazil.figures.style import COLOURS, FAINT, INK, Array, Spec, as_array, as_list, new_figure, state_colours, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def gains(
    gain: Sequence[float],
    error: Sequence[float],
    kept: int,
    title: str = "What latent coordinates explain of images not learnt from",
) -> tuple[Spec, Figure]:
    """Gain in log evidence per image for 0, 1, 2, ... latent coordinates, with the number that was kept.

    Args:
        gain: nats per image over a rigid structure, of images that the volumes were not learnt from.
        error: its standard error. kept: the number of coordinates kept. title: heading of the figure.

    Raises:
        ValueError: not as many errors as gains, or the number kept is not among them.
    """
    if len(gain) != len(error) or not 0 <= kept < len(gain):
        raise ValueError(f"{len(gain)} gains, {len(error)} errors, {kept} coordinates kept: these do not fit together")
    count = np.arange(len(gain))
    figure = new_figure(max(5.2, 0.32 * len(gain) + 2.2), 3.4)
    axes = figure.add_subplot()
    axes.axhline(0, color=FAINT, linewidth=0.9, zorder=0)
    axes.errorbar(count, gain, yerr=error, fmt="o-", color=COLOURS[0], markersize=4.5, capsize=2.5, linewidth=1.2)
    axes.plot(kept, gain[kept], "o", color=COLOURS[1], markersize=8, zorder=5, label=f"kept: {kept}")
    axes.set_xticks(count if len(count) <= 21 else count[:: -(-len(count) // 20)])
    axes.set_xlabel("latent coordinates")
    axes.set_ylabel("gain (nats per image)")
    axes.margins(y=0.15)
    axes.set_title(title)
    axes.legend(loc="lower right")
    return {"kind": "gains", "title": title, "gain": list(gain), "error": list(error), "kept": int(kept)}, figure


@styled
def passes(records: Sequence[Mapping[str, object]], title: str = "Evidence by pass") -> tuple[Spec, Figure]:
    """Log evidence of an image after each pass, one line per stage: stages use other coefficients, so steps between them
    say nothing.

    Args:
        records: rows of metrics.jsonl; those with "evidence", "stage" and "resolution" (Å) are drawn, in their order.
        title: heading of the figure.

    Raises:
        ValueError: there is no such record.
    """
    shown = [
        (f"{one['stage']} to {one['resolution']:.1f} Å", one["evidence"])
        for one in records
        if "evidence" in one and "stage" in one
    ]
    if not shown:
        raise ValueError("no pass was recorded: there is nothing to draw")
    values = np.array([np.nan if value is None else value for _, value in shown], dtype=np.float64)
    stages = list(dict.fromkeys(stage for stage, _ in shown))
    figure = new_figure(6.4, 3.2 + 0.2 * len(stages))
    axes = figure.add_subplot()
    series = []
    for stage, colour in zip(stages, state_colours(len(stages)), strict=True):
        place = np.array([i for i, (name, _) in enumerate(shown) if name == stage])
        axes.plot(place + 1, values[place], "o-", color=colour, markersize=3.5, linewidth=1.2, label=stage)
        series.append({"name": stage, "x": as_list(place + 1), "y": as_list(values[place])})
    axes.set_xlabel("pass over the images")
    axes.set_ylabel("log evidence (nats per image)")
    axes.set_title(title)
    figure.legend(loc="outside lower left")
    return {"kind": "passes", "title": title, "series": series}, figure


@styled
def contrast(values: Array, title: str = "Contrast of the images") -> tuple[Spec, Figure]:
    """Histogram of the contrast (N,) of images, relative to their mean."""
    found = as_array(values).astype(np.float64).ravel()
    figure = new_figure(4.8, 3.0)
    axes = figure.add_subplot()
    bins = int(np.clip(2 * len(found) ** (1 / 3), 10, 60))
    counts, edges, _ = axes.hist(found, bins=bins, color=COLOURS[5])
    axes.axvline(1, color=INK, linewidth=0.9, linestyle="--")
    axes.set_xlabel("contrast (1 is the mean)")
    axes.set_ylabel("particles")
    axes.set_title(title)
    spec = {
        "kind": "contrast",
        "title": title,
        "edges": as_list(edges),
        "counts": as_list(np.asarray(counts)),
        "mean": float(found.mean()),
        "deviation": float(found.std()),
    }
    return spec, figure
