"""Pictures of one map: sections, projections, shaded surfaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from frazil.figures.raymarch import VIEWS, contour_level, render_surface
from frazil.figures.style import (
    GREYS,
    INK,
    Array,
    Spec,
    as_array,
    as_list,
    as_picture,
    new_panels,
    picture_panel,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SURFACE = "#7fb2e5"


def central_section(volume: Array, axis: str) -> np.ndarray:
    """Section (n, n) through the centre n//2, normal to `axis` ("x", "y" or "z"), row 0 at the bottom.

    The paper's (right, up) axes are (x, y) for "z", (y, z) for "x" and (z, x) for "y".
    """
    values = as_array(volume)
    centre = values.shape[0] // 2
    return {"z": values[centre], "x": values[:, :, centre], "y": values[:, centre, :].T}[axis]


def axis_projection(volume: Array, axis: str) -> np.ndarray:
    """Sum (n, n) of the voxels along `axis`, on the same paper axes as `central_section`."""
    values = as_array(volume)
    return {"z": values.sum(0), "x": values.sum(2), "y": values.sum(1).T}[axis]


@styled
def sections(volume: Array, pixel_size: float, title: str = "Sections through the centre") -> tuple[Spec, Figure]:
    """The three orthogonal sections through the centre of a map.

    Args:
        volume: (n, n, n) density, (z, y, x).
        pixel_size: Å per voxel.
        title: heading of the figure.
    """
    pictures = [central_section(volume, axis) for axis in "zxy"]
    return _three_axes("sections", pictures, pixel_size, title)


@styled
def projections(volume: Array, pixel_size: float, title: str = "Projections along the axes") -> tuple[Spec, Figure]:
    """The three projections of a map along its axes; values are line integrals (density × Å)."""
    pictures = [axis_projection(volume, axis) * pixel_size for axis in "zxy"]
    return _three_axes("projections", pictures, pixel_size, title)


def _three_axes(kind: str, pictures: Sequence[np.ndarray], pixel_size: float, title: str) -> tuple[Spec, Figure]:
    names = ("along z (x right, y up)", "along x (y right, z up)", "along y (z right, x up)")
    figure, panels = new_panels(3, 1, 2.9, 3.1, title)
    low, high = grey_range(np.stack(pictures))
    for panel, picture, name in zip(panels, pictures, names, strict=True):
        panel.imshow(picture, cmap=GREYS, origin="lower", vmin=low, vmax=high, interpolation="lanczos")
        panel.set_title(name, fontsize=9)
        picture_panel(panel)
    scale_bar(panels[0], pictures[0].shape[1], pictures[0].shape[1] * pixel_size)
    spec = {
        "kind": kind,
        "title": title,
        "pixel_size": float(pixel_size),
        "panels": [{"axis": axis, **as_picture(picture)} for axis, picture in zip("zxy", pictures, strict=True)],
    }
    return spec, figure


@styled
def surface(
    volume: Array,
    level: float | None = None,
    views: Sequence[str] | Mapping[str, Array] = ("z", "x", "y"),
    title: str = "Surface",
    *,
    size: int = 420,
    colour: str = SURFACE,
) -> tuple[Spec, Figure]:
    """Shaded iso-surface of a map from one or more directions.

    Args:
        volume: (n, n, n) density.
        level: contour level in the map's units; None chooses one (`raymarch.contour_level`).
        views: names of axes to look down ("x", "y", "z"), or a mapping of name to (3, 3) rotation object to view.
        title: heading of the figure.
        size: pixels along each side of a picture.
        colour: surface colour.

    Raises:
        ValueError: a view that is neither an axis name nor a rotation.
    """
    turns = view_rotations(views)
    chosen = contour_level(volume) if level is None else float(level)
    figure, panels = new_panels(len(turns), 1, 2.9, 3.1, title)
    for panel, (name, turn) in zip(panels, turns.items(), strict=True):
        panel.imshow(render_surface(volume, chosen, turn, size=size, colour=colour), interpolation="lanczos")
        panel.set_title(f"down {name}" if name in VIEWS else name, fontsize=9)
        picture_panel(panel)
    values = as_array(volume)
    sigmas = (chosen - float(values.mean())) / (float(values.std()) or 1.0)
    figure.text(
        0.99, 0.005, f"level {chosen:.3g} ({sigmas:.1f} sd)", ha="right", va="bottom", fontsize=7.5, color="#7b828c"
    )
    spec = {
        "kind": "surface",
        "title": title,
        "level": chosen,
        "level_sd": sigmas,
        "views": {name: as_list(turn) for name, turn in turns.items()},
    }
    return spec, figure


def view_rotations(views: Sequence[str] | Mapping[str, Array]) -> dict[str, np.ndarray]:
    if isinstance(views, Mapping):
        turns = {name: as_array(turn).astype(np.float64) for name, turn in views.items()}
    else:
        unknown = [name for name in views if name not in VIEWS]
        if unknown:
            raise ValueError(f"view {unknown[0]!r} is not one of {', '.join(sorted(VIEWS))}: give a rotation instead")
        turns = {name: VIEWS[name] for name in views}
    bad = [name for name, turn in turns.items() if turn.shape != (3, 3)]
    if bad:
        raise ValueError(f"view {bad[0]!r} has shape {turns[bad[0]].shape}, not (3, 3)")
    return turns


def grey_range(pictures: np.ndarray) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(pictures, (0.5, 99.8)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def scale_bar(panel: Axes, width: float, angstrom_wide: float, left: float = 0.0, bottom: float = 0.0) -> None:
    """A bar of a round number of Å in the lower left of a picture, about a quarter of its width.

    Args:
        panel: axes whose y axis points up.
        width: side of the picture in the units of the axes. angstrom_wide: the same, Å.
        left, bottom: corner of the picture.
    """
    magnitude = 10 ** np.floor(np.log10(0.25 * angstrom_wide))
    length = float(magnitude * max(step for step in (1, 2, 5) if step * magnitude <= 0.25 * angstrom_wide))
    span = length / angstrom_wide * width
    start, height = left + 0.05 * width, bottom + 0.05 * width
    for colour, thickness in ((INK, 3.6), ("white", 2.0)):
        panel.plot([start, start + span], [height] * 2, color=colour, linewidth=thickness, solid_capstyle="butt")
    text = {"color": "white", "ha": "center", "va": "bottom", "fontsize": 7.5, "path_effects": _halo()}
    panel.text(start + span / 2, height + 0.025 * width, f"{length:g} Å", **text)


def _halo() -> list[object]:
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=1.6, foreground=INK)]
