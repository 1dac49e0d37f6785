"""Where the particles were seen from, and how far they were shifted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from frazil.figures.style import DENSITY, Array, Spec, as_array, as_list, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from frazil.physics.pose import Pose


def viewing_directions(rotation: Array) -> np.ndarray:
    """Unit vectors (N, 3) along which the particles are seen, in the frame of the object.

    The view axis z in object coordinates is the third row of R (x_view = R x_object). In RELION's angles its longitude
    is rlnAngleRot and its angle from z is rlnAngleTilt.
    """
    return as_array(rotation).reshape(-1, 3, 3)[:, 2, :].astype(np.float64)


@styled
def angular_distribution(
    pose: Pose | Array, title: str = "Viewing directions", *, symmetry: Array | None = None, cells: int = 36
) -> tuple[Spec, Figure]:
    """Density of viewing directions on the sphere, relative to a uniform distribution (1 = uniform).

    Drawn as a Mollweide map, whose cells have equal areas (equal steps in longitude and in the sine of latitude).

    Args:
        pose: poses of N particles, or their rotations (N, 3, 3), object to view.
        title: heading of the figure.
        symmetry: (G, 3, 3) operations of the point group; every direction is repeated in all its copies.
        cells: columns of the map; half as many rows. Fewer are used for few particles.
    """
    from matplotlib import patheffects

    rotation: Any = getattr(pose, "rotation", pose)
    direction = viewing_directions(rotation)
    count = len(direction)
    if symmetry is not None:
        direction = np.einsum("nj,gji->gni", direction, as_array(symmetry).astype(np.float64)).reshape(-1, 3)
    columns = int(np.clip(2 * round((len(direction) / 30) ** 0.5), 12, cells))
    longitude = np.arctan2(direction[:, 1], direction[:, 0])
    height = np.clip(direction[:, 2] / np.linalg.norm(direction, axis=1), -1, 1)
    edges = np.linspace(-np.pi, np.pi, columns + 1), np.linspace(-1, 1, columns // 2 + 1)
    counts, *_ = np.histogram2d(longitude, height, bins=edges)
    relative = counts.T * counts.size / max(len(direction), 1)
    figure = new_figure(6.4, 3.6)
    axes = figure.add_subplot(projection="mollweide")
    axes.grid(False)
    drawn = axes.pcolormesh(edges[0], np.arcsin(edges[1]), relative, cmap=DENSITY, vmin=0, rasterized=True)
    axes.set_axisbelow(False)
    across = [-120, -60, 0, 60, 120]
    axes.set_xticks(np.radians(across), [f"{angle}°" for angle in across], fontsize=7.5)
    for label in axes.get_xticklabels():  # they stand on the map, whose cells may be dark or pale
        label.set_path_effects([patheffects.withStroke(linewidth=2.2, foreground="white")])
    axes.set_yticks(np.radians([-60, -30, 0, 30, 60]), ["150°", "120°", "90°", "60°", "30°"], fontsize=7.5)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.75, pad=0.03)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_label("times uniform", fontsize=8.5)
    axes.set_title(f"{title}: {count:,} particles (across: rot, up: tilt)")
    spec = {
        "kind": "angular_distribution",
        "title": title,
        "count": count,
        "longitude_edges": as_list(np.degrees(edges[0])),
        "sine_latitude_edges": as_list(edges[1]),
        "times_uniform": as_list(relative, 4),
    }
    return spec, figure


@styled
def shifts(pose: Pose | Array, title: str = "Shifts") -> tuple[Spec, Figure]:
    """Histogram of in-plane shifts (N, 2), Å: most should lie well within the box."""
    found: Any = getattr(pose, "shift", pose)
    shift = as_array(found).reshape(-1, 2).astype(np.float64)
    length = np.linalg.norm(shift, axis=1)
    figure = new_figure(4.6, 2.8)
    axes = figure.add_subplot()
    counts, edges, _ = axes.hist(length, bins=40, color="#56B4E9")
    axes.set_xlabel("length of the shift (Å)")
    axes.set_ylabel("particles")
    axes.set_title(f"{title}: median {np.median(length):.2g} Å")
    return {"kind": "shifts", "title": title, "edges": as_list(edges), "counts": as_list(np.asarray(counts))}, figure
