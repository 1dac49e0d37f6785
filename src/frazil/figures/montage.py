"""Many small pictures side by side, each with a line of words: class averages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from frazil.figures.maps import scale_bar
from frazil.figures.style import (
    COLOURS,
    GREYS,
    INK,
    Array,
    Spec,
    as_array,
    as_picture,
    new_panels,
    picture_panel,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 0.95  # inches


@styled
def montage(
    images: Array,
    captions: Sequence[str],
    pixel_size: float,
    *,
    good: Sequence[bool] | None = None,
    columns: int = 10,
    title: str = "Class averages",
) -> tuple[Spec, Figure]:
    """Images in rows, each on a grey scale of its own.

    Args:
        images: (count, n, n), row 0 at the bottom. captions: a line below each; may be broken in two.
        pixel_size: Å. good: which have a frame of the first colour; others have one of the second, dashed. None: no frames.
    """
    pictures = as_array(images)
    columns = min(columns, max(len(pictures), 1))
    rows = max(1, -(-len(pictures) // columns))
    figure, panels = new_panels(columns, rows, SIDE, SIDE + 0.16, title)
    for number, panel in enumerate(panels):
        picture_panel(panel)
        if number >= len(pictures):
            continue
        picture = pictures[number]
        low, high = (float(value) for value in np.percentile(picture, (0.5, 99.8)))
        panel.imshow(
            picture, cmap=GREYS, origin="lower", vmin=low, vmax=max(high, low + 1e-12), interpolation="lanczos"
        )
        panel.set_xlabel(captions[number], fontsize=6.5, color=INK, labelpad=2)
        if good is not None:
            for spine in panel.spines.values():
                spine.set(visible=True, linewidth=1.6, color=COLOURS[0 if good[number] else 1])
                spine.set_linestyle("solid" if good[number] else (0, (2, 2)))
    if len(pictures):
        scale_bar(panels[0], pictures.shape[-1], pictures.shape[-1] * pixel_size)
    spec = {
        "kind": "montage",
        "title": title,
        "pixel_size": float(pixel_size),
        "panels": [
            {"caption": caption, "good": None if good is None else bool(good[number]), **as_picture(pictures[number])}
            for number, caption in enumerate(captions)
        ],
    }
    return spec, figure
