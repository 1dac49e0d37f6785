"""Several maps or images side by side: sections and surfaces along a motion, particle montages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from frazil.figures.maps import SURFACE, central_section, grey_range, scale_bar, view_rotations
from frazil.figures.raymarch import contour_level, fitting_frame, render_surface, values_at
from frazil.figures.style import INK, Array, Spec, as_array, as_list, as_picture, new_figure, picture_panel, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# pixels along each side of a tile: smaller pictures are enlarged by splines, so that pixels do not show
TILE = 192
RESOLUTIONS = "viridis_r"  # fine is yellow, coarse is blue
GAP = 0.05  # between tiles, as a fraction of a tile
HEADROOM = 0.16  # above a tile with a label


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

    Args:
        volumes: maps of one box size.
        labels: one label per volume.
        pixel_size: Å per voxel.
        title: heading of the figure.
        axes: the normals of the sections, one row each.
        differences: lay over each section what the map has more (orange) or less (blue) of than the mean of them all:
            small motions that the eye would miss between neighbours become visible.

    Raises:
        ValueError: no volumes, or as many labels as volumes are not given.
    """
    _check(volumes, labels)
    cut = np.stack([[central_section(volume, axis) for volume in volumes] for axis in axes])  # (axes, volumes, n, n)
    low, high = grey_range(cut)
    change = cut - cut.mean(axis=1, keepdims=True)
    strongest = float(np.abs(change).max()) if differences else 0.0
    tiles = []
    for grey, more in zip(cut.reshape(-1, *cut.shape[2:]), change.reshape(-1, *cut.shape[2:]), strict=True):
        tile = np.repeat(np.clip((_enlarged(grey) - low) / (high - low), 0, 1)[..., None], 3, axis=-1)
        tiles.append(_tinted(tile, _enlarged(more) / strongest)[::-1] if strongest > 0 else tile[::-1])
    figure, panel = contact_sheet(tiles, len(volumes), [*labels] + [""] * (len(tiles) - len(labels)), 1.35, title)
    for row, axis in enumerate(axes):
        panel.text(-0.05, -_top(row, headroom_rows=1) - 0.5, f"along {axis}", rotation=90, va="center", ha="right")
    scale_bar(panel, 1.0, cut.shape[-1] * pixel_size, bottom=-_top(0, headroom_rows=1) - 1)
    spec = {
        "kind": "section_strip",
        "title": title,
        "pixel_size": float(pixel_size),
        "labels": list(labels),
        "rows": [{"axis": axis, "panels": [as_picture(p) for p in row]} for axis, row in zip(axes, cut, strict=True)],
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
    _check(volumes, labels)
    (turn,) = view_rotations([view] if isinstance(view, str) else {"view": view}).values()
    chosen = float(np.median([contour_level(volume) for volume in volumes])) if level is None else float(level)
    frame = fitting_frame(volumes, chosen, turn)
    drawn = [SURFACE] * len(volumes) if colours is None else [colours[i % len(colours)] for i in range(len(volumes))]
    tiles = [
        render_surface(volume, chosen, turn, size=size, colour=colour, frame=frame)
        for volume, colour in zip(volumes, drawn, strict=True)
    ]
    figure, _ = contact_sheet(tiles, min(columns, len(tiles)), labels, 1.75, title)
    spec = {
        "kind": "surface_strip",
        "title": title,
        "level": chosen,
        "labels": list(labels),
        "view": as_list(turn),
    }
    return spec, figure


@styled
def local_resolution_strip(
    volumes: Sequence[Array],
    resolutions: Sequence[Array],
    labels: Sequence[str],
    title: str,
    *,
    level: float,
    view: str | Array = "z",
    size: int = 260,
    columns: int = 5,
) -> tuple[Spec, Figure]:
    """Surfaces of several maps, coloured by the resolution (Å) around each point of them.

    Args:
        volumes: maps of one box size. resolutions: Å at every voxel of each; 0 where it is not known.
        labels: one label per volume. title: heading of the figure. level: contour level of all maps.
        view: axis to look down, or a (3, 3) rotation object to view.
        size: pixels along each side of a picture. columns: pictures in a row before the next row begins.

    Raises:
        ValueError: no volumes, or not as many labels and resolutions as volumes.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    _check(volumes, labels)
    _check(volumes, [str(i) for i in range(len(resolutions))])
    (turn,) = view_rotations([view] if isinstance(view, str) else {"view": view}).values()
    known = np.concatenate([as_array(one)[as_array(one) > 0] for one in resolutions])
    low, high = np.percentile(known, (2, 98)) if len(known) else (0.0, 1.0)
    # a narrower scale would paint chance
    scale, palette = Normalize(low, max(high, 1.2 * low), clip=True), colormaps[RESOLUTIONS]
    frame = fitting_frame(volumes, level, turn)
    tiles = []
    for volume, resolution in zip(volumes, resolutions, strict=True):
        # outside the mask there is no value: the nearest one is taken, not a mean with 0
        values = as_array(resolution)
        near: Any = ndimage.distance_transform_edt(values <= 0, return_distances=False, return_indices=True)
        filled = values[tuple(near)] if (values > 0).any() else values
        tiles.append(
            render_surface(
                volume,
                level,
                turn,
                size=size,
                frame=frame,
                paint=lambda points, filled=filled: palette(scale(values_at(filled, points)))[:, :3],
            )
        )
    figure, panel = contact_sheet(tiles, min(columns, len(tiles)), labels, 1.75, title)
    bar = figure.colorbar(ScalarMappable(scale, palette), ax=panel, shrink=0.8, pad=0.01, aspect=25)
    bar.set_label("local resolution (Å)", fontsize=8.5)
    bar.ax.tick_params(labelsize=7.5)
    bar.outline.set_visible(False)  # type: ignore[operator]
    medians = [float(np.median(v[v > 0])) if (v > 0).any() else None for v in map(as_array, resolutions)]
    spec = {
        "kind": "local_resolution_strip",
        "title": title,
        "level": float(level),
        "labels": list(labels),
        "view": as_list(turn),
        "range": [float(scale.vmin or 0), float(scale.vmax or 0)],
        "medians": medians,
    }
    return spec, figure


@styled
def montage(images: Array, title: str = "Particles", *, columns: int = 8) -> tuple[Spec, Figure]:
    """Particle images (k, n, n) side by side, each on its own grey scale (2 to 98 percent of its values).

    Raises:
        ValueError: there is no image.
    """
    pictures = as_array(images).astype(np.float64)
    if not len(pictures):
        raise ValueError("a montage needs at least one image")
    tiles = []
    for picture in pictures:
        low, high = np.percentile(picture, (2, 98))
        grey = np.clip((_enlarged(picture) - low) / ((high - low) or 1.0), 0, 1)
        tiles.append(np.repeat(grey[..., None], 3, axis=-1)[::-1])
    figure, _ = contact_sheet(tiles, min(columns, len(tiles)), [""] * len(tiles), 1.1, title)
    return {"kind": "montage", "title": title, "panels": [as_picture(p) for p in pictures]}, figure


def _check(volumes: Sequence[Array], labels: Sequence[str]) -> None:
    if not len(volumes) or len(labels) != len(volumes):
        raise ValueError(f"{len(volumes)} volumes and {len(labels)} labels: one label per volume, at least one volume")


def _enlarged(picture: np.ndarray) -> np.ndarray:
    factor = max(1, round(TILE / picture.shape[0]))
    if factor == 1:
        return picture
    return np.asarray(ndimage.zoom(picture, factor, order=3, mode="nearest", grid_mode=True))


def _tinted(tile: np.ndarray, change: np.ndarray) -> np.ndarray:
    colour = np.where(change[..., None] > 0, (0.84, 0.37, 0.0), (0.0, 0.45, 0.70))
    weight = np.clip(np.abs(change) * 1.2 - 0.1, 0, 0.75)[..., None]
    return tile * (1 - weight) + weight * colour


def _top(row: int, headroom_rows: int) -> float:
    """Distance of a row of tiles from the top of the sheet, in tiles; the first rows have room for labels."""
    return row * (1 + GAP) + min(row + 1, headroom_rows) * HEADROOM


def contact_sheet(
    tiles: Sequence[np.ndarray], columns: int, labels: Sequence[str], inches: float, title: str
) -> tuple[Figure, Axes]:
    """All tiles in one axes (one per tile would take seconds to lay out); tile 0 spans x 0 to 1 and y below 0."""
    rows = -(-len(tiles) // columns)
    labelled = max((i // columns + 1 for i, label in enumerate(labels) if label), default=0)
    width, height = columns * (1 + GAP) - GAP, _top(rows - 1, labelled) + 1
    figure = new_figure(width * inches + 0.4, height * inches + (0.45 if title else 0.1))
    panel = figure.add_subplot()
    picture_panel(panel)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        left, top = column * (1 + GAP), -_top(row, labelled)
        panel.imshow(tile, extent=(left, left + 1, top - 1, top), aspect="equal")
        if labels[i]:
            panel.text(left + 0.5, top + 0.02, labels[i], ha="center", va="bottom", fontsize=8.5)
    panel.set_xlim(-0.12, width)
    panel.set_ylim(-height, 0)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK, fontweight="bold")
    return figure, panel
