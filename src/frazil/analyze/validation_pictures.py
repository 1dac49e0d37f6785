"""The section of the report that says what the maps of the states are worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from frazil.analyze.agreement import Agreement
from frazil.analyze.clustering import States
from frazil.analyze.components import Components
from frazil.analyze.pictures import Look
from frazil.analyze.validation import ImageMaps, PairSummary
from frazil.data.mrc import read_volume
from frazil.figures import curves, latent, strips
from frazil.figures.raymarch import contour_level
from frazil.figures.section import Section
from frazil.numerics.fourier import resize_volume
from frazil.physics.grid import Grid

# curves in one figure: more cannot be told apart
MOST_CURVES = 8


def half_map_section(volumes: Sequence[np.ndarray], pairs: Sequence[PairSummary], grid: Grid, look: Look) -> Section:
    """FSC curves and local resolution of every state from the ensembles of both half-sets."""
    section = Section(
        "Resolution of the states",
        "Every state is decoded from two ensembles that share no image, at the same point of the latent. What both show is"
        " to be believed; local resolution is where the correlation in a window around each voxel falls below 0.5.",
    )
    shown = np.unique(np.linspace(0, len(pairs) - 1, min(MOST_CURVES, len(pairs))).round().astype(int))
    section.figures["state_fsc"] = curves.fsc(
        {f"state {k}": pairs[k].corrected for k in shown}, grid.pixel_size, grid.box_size, "FSC of the states"
    )
    section.figures["state_local_resolution"] = strips.local_resolution_strip(
        volumes,
        [_shrunk(pair.local, volumes[0].shape[0]) for pair in pairs],
        [str(k) for k in range(len(pairs))],
        "Local resolution of the states",
        level=look.level,
        view=look.view,
    )
    return section


def agreement_section(
    components: Components,
    states: States,
    agreements: Sequence[Agreement],
    images: ImageMaps,
    look: Look,
) -> Section:
    """Maps from images alone, and the agreement of each region of the latent."""
    flagged = [str(k) for k, one in enumerate(agreements) if one.flagged]
    verdict = (
        f"Not seen in the images: the motion of state {', '.join(flagged)}. Do not interpret it."
        if flagged
        else "No state shows a motion that its images deny."
    )
    section = Section(
        "Agreement with the images",
        "Maps made without the model: the images whose latents are nearest to a state's centre, backprojected with weights"
        " that fall with their distance. The agreement is the correlation of what is particular to a state in both maps, over"
        f" the best that the noise of the images allows: 1 is all that can be wished for. {verdict}",
    )
    names = [f"PC {i + 1}" for i in range(2)]
    score = np.array([one.score for one in agreements])
    value = np.where(states.state >= 0, score[np.maximum(states.state, 0)], np.nan)
    section.figures["latent_agreement"] = latent.valued(
        components.coordinates[:, :2],
        value,
        "Agreement with the images, by state",
        name="agreement",
        labels=names,
        marks=components.project(states.centres)[:, :2],
    )
    grid = read_volume(images.files[0])[1]
    box = round(grid.extent / look.pixel_size)
    maps = [_shrunk(read_volume(path)[0].numpy(), box) for path in images.files]
    # the scale of these maps is that of the images, not of the model
    level = float(np.median([contour_level(volume) for volume in maps]))
    section.figures["images_only_surfaces"] = strips.surface_strip(
        maps, [str(k) for k in range(len(maps))], "Maps of the states from images alone", level=level, view=look.view
    )
    rows = [
        (
            k,
            one.image_count,
            f"{pair.resolution:.2f} Å",
            f"{grid.resolution_of(one.shared_shell):.2f} Å",
            f"{one.correlation:.2f}",
            f"{one.expected:.2f}",
            one.verdict,
        )
        for k, (one, pair) in enumerate(zip(agreements, images.pairs, strict=True))
    ]
    header = (
        "state",
        "images",
        "resolution of these",
        "the model is the same to (FSC 0.5)",
        "correlation",
        "expected",
        "the motion of this state is",
    )
    section.tables.append([header, *rows])
    return section


def _shrunk(volume: np.ndarray, box: int) -> np.ndarray:
    if volume.shape[0] == box:
        return volume
    return resize_volume(torch.from_numpy(volume), box).numpy()
