"""Pictures of maps: sections, projections, shaded surfaces, and strips that compare several maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from frazil.figures.raymarch import VIEWS, contour_level, fitting_frame, render_surface
from frazil.figures.style import (
    COLOURS,
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
    low, high = _grey_range(np.stack(pictures))
    for panel, picture, name in zip(panels, pictures, names, strict=True):
        panel.imshow(picture, cmap=GREYS, origin="lower", vmin=low, vmax=high, interpolation="lanczos")
        panel.set_title(name, fontsize=9)
        picture_panel(panel)
    _scale_bar(panels[0], pictures[0].shape[1], pixel_size)
    spec = {
        "kind": kind,
        "title": title,
        "pixel_size": float(pixel_size),
        "panels": [{"axis": axis, **as_picture(picture)} for axis, picture in zip("zxy", pictures, strict=True)],
    }
    return spec, figure


@styled
def section_strip(
    volumes: Sequence[Array],
    labels: Sequence[str],
    pixel_size: float,
    title: str,
    *,
    axes: Sequence[str] = ("z", "x", "y"),
    differences: bool = True,
) -> tuple[Spec, Figure]:
    """Central sections of several maps side by side, one row per axis, all on one grey scale.

    With `differences`, what each map has more (red) or less (blue) than the mean of them all is laid over its section:
    small motions that the eye would miss between neighbours become visible.

    Raises:
        ValueError: no volumes, or as many labels as volumes are not given.
    """
    if not len(volumes) or len(labels) != len(volumes):
        raise ValueError(f"{len(volumes)} volumes and {len(labels)} labels: one label per volume, at least one volume")
    cut = np.stack([[central_section(volume, axis) for volume in volumes] for axis in axes])  # (axes, volumes, n, n)
    low, high = _grey_range(cut)
    change = cut - cut.mean(axis=1, keepdims=True)
    strongest = float(np.abs(change).max()) or 1.0
    figure, panels = new_panels(len(volumes), len(axes), 1.45, 1.5, title)
    for i, panel in enumerate(panels):
        row, column = divmod(i, len(volumes))
        panel.imshow(cut[row, column], cmap=GREYS, origin="lower", vmin=low, vmax=high, interpolation="lanczos")
        if differences and len(volumes) > 1:
            panel.imshow(_difference_overlay(change[row, column] / strongest), origin="lower", interpolation="bilinear")
        if row == 0:
            panel.set_title(labels[column], fontsize=8.5, loc="center")
        picture_panel(panel)
        if column == 0:
            panel.set_ylabel(f"along {axes[row]}", fontsize=8.5)
    _scale_bar(panels[0], cut.shape[-1], pixel_size)
    spec = {
        "kind": "section_strip",
        "title": title,
        "pixel_size": float(pixel_size),
        "labels": list(labels),
        "rows": [{"axis": axis, "panels": [as_picture(p) for p in row]} for axis, row in zip(axes, cut, strict=True)],
    }
    return spec, figure


def _difference_overlay(change: np.ndarray) -> np.ndarray:
    overlay = np.zeros((*change.shape, 4))
    overlay[change > 0, :3] = (0.84, 0.37, 0.0)
    overlay[change < 0, :3] = (0.0, 0.45, 0.70)
    overlay[..., 3] = np.clip(np.abs(change) * 1.2 - 0.1, 0, 0.75)
    return overlay


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
    turns = _view_rotations(views)
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


@styled
def surface_strip(
    volumes: Sequence[Array],
    labels: Sequence[str],
    title: str,
    *,
    level: float | None = None,
    view: str | Array = "z",
    size: int = 260,
    columns: int = 5,
    colours: Sequence[str] | None = None,
) -> tuple[Spec, Figure]:
    """Shaded surfaces of several maps at one contour level, from one direction, at one scale.

    Args:
        volumes: maps of one box size.
        labels: one label per volume.
        title: heading of the figure.
        level: contour level; None takes the median of the levels chosen for each map.
        view: axis to look down, or a (3, 3) rotation object to view.
        size: pixels along each side of a picture.
        columns: pictures in a row before the next row begins.
        colours: one colour per volume; None draws all in one colour.

    Raises:
        ValueError: no volumes, as many labels as volumes are not given, or an unknown view.
    """
    if not len(volumes) or len(labels) != len(volumes):
        raise ValueError(f"{len(volumes)} volumes and {len(labels)} labels: one label per volume, at least one volume")
    (turn,) = _view_rotations([view] if isinstance(view, str) else {"view": view}).values()
    chosen = float(np.median([contour_level(volume) for volume in volumes])) if level is None else float(level)
    frame = fitting_frame(volumes, chosen, turn)
    columns = min(columns, len(volumes))
    rows = -(-len(volumes) // columns)
    figure, panels = new_panels(columns, rows, 1.8, 1.9, title)
    for i, panel in enumerate(panels):
        picture_panel(panel)
        if i < len(volumes):
            colour = SURFACE if colours is None else colours[i % len(colours)]
            panel.imshow(render_surface(volumes[i], chosen, turn, size=size, colour=colour, frame=frame))
            panel.set_title(labels[i], fontsize=8.5, loc="center")
    spec = {
        "kind": "surface_strip",
        "title": title,
        "level": chosen,
        "labels": list(labels),
        "view": as_list(turn),
    }
    return spec, figure


@styled
def montage(images: Array, title: str = "Particles", *, columns: int = 8) -> tuple[Spec, Figure]:
    """Particle images (k, n, n) side by side, each on its own grey scale (2 to 98 percent of its values)."""
    pictures = as_array(images)
    columns = min(columns, len(pictures))
    figure, panels = new_panels(columns, -(-len(pictures) // columns), 1.1, 1.1, title)
    for i, panel in enumerate(panels):
        picture_panel(panel)
        if i < len(pictures):
            low, high = np.percentile(pictures[i], (2, 98))
            panel.imshow(pictures[i], cmap=GREYS, origin="lower", vmin=low, vmax=high)
    return {"kind": "montage", "title": title, "panels": [as_picture(p) for p in pictures]}, figure


def state_colours(count: int) -> list[str]:
    """`count` colours for states; they repeat after the eight of the palette."""
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _view_rotations(views: Sequence[str] | Mapping[str, Array]) -> dict[str, np.ndarray]:
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


def _grey_range(pictures: np.ndarray) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(pictures, (0.5, 99.8)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _scale_bar(panel: Axes, width: int, pixel_size: float) -> None:
    """A bar of a round number of Å, about a quarter of the picture."""
    rough = 0.25 * width * pixel_size
    magnitude = 10 ** np.floor(np.log10(rough))
    length = float(magnitude * max(step for step in (1, 2, 5) if step * magnitude <= rough))
    left, bottom = 0.05 * width, 0.05 * width
    panel.plot([left, left + length / pixel_size], [bottom, bottom], color=INK, linewidth=3.6, solid_capstyle="butt")
    panel.plot(
        [left, left + length / pixel_size], [bottom, bottom], color="white", linewidth=2.0, solid_capstyle="butt"
    )
    panel.text(
        left + 0.5 * length / pixel_size,
        bottom + 0.02 * width,
        f"{length:g} Å",
        color="white",
        ha="center",
        va="bottom",
        fontsize=7.5,
        path_effects=_halo(),
    )


def _halo() -> list[object]:
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=1.6, foreground=INK)]
