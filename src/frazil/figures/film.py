"""A film of a motion: shaded surfaces one after another, to and fro, as an animated GIF."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from frazil.figures.maps import SURFACE
from frazil.figures.raymarch import contour_level, fitting_frame, principal_view, render_surface
from frazil.figures.style import Array


def surface_film(
    volumes: Sequence[Array],
    *,
    level: float | None = None,
    view: Array | None = None,
    size: int = 240,
    colour: str = SURFACE,
    frames_per_second: float = 8.0,
) -> bytes:
    """An animated GIF of the maps' surfaces on white, played forwards and backwards without end.

    Args:
        volumes: maps of one box size, in the order of the motion.
        level: contour level; None takes the median of the levels chosen for each map.
        view: (3, 3) rotation object to view; None lays the motion flat on the paper (`raymarch.principal_view`).
        size: pixels along each side.
        colour: surface colour.
        frames_per_second: maps shown in a second.

    Raises:
        ValueError: there is no volume.
    """
    from PIL import Image

    if not len(volumes):
        raise ValueError("a film needs at least one volume")
    chosen = float(np.median([contour_level(volume) for volume in volumes])) if level is None else level
    turn = principal_view(volumes, chosen) if view is None else view
    frame = fitting_frame(volumes, chosen, turn)
    pictures = []
    for volume in volumes:
        fine = render_surface(volume, chosen, turn, size=2 * size, colour=colour, frame=frame)
        opaque = fine[..., :3] * fine[..., 3:] + (1 - fine[..., 3:])
        picture = Image.fromarray(np.rint(255 * opaque).astype(np.uint8))
        pictures.append(picture.resize((size, size), Image.Resampling.LANCZOS))
    # one palette for all frames, taken from the middle of the motion, so that colours do not flicker
    palette = pictures[len(pictures) // 2].quantize(64)
    drawn = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    file = io.BytesIO()
    drawn[0].save(
        file,
        format="GIF",
        save_all=True,
        append_images=drawn[1:] + drawn[-2:0:-1],
        duration=round(1000 / frames_per_second),
        loop=0,
    )
    return file.getvalue()
