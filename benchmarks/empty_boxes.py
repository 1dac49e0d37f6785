"""Boxes of the real apoferritin micrographs that hold no particle in their middle, beside those that do.

The micrographs are dense, so such boxes show ice, and pieces of the neighbours round it: what a careless picker takes along.
They are cut as the particles were (README of the data): the detector's fixed pattern subtracted, 160 pixels of 1.5 Å brought
to 96 of 2.5 Å, particles bright, background of mean 0 and deviation 1. Boxes cut so at the places of the particles
correlate with the particles of the stack at 0.97 to 0.99.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

from frazil.data.mrc import read_array, write_stack
from frazil.data.star import read_star, write_star
from frazil.numerics.fourier import resize_images

# pixels of the micrographs and of the particles, and the pixel size of the latter
CUT, BOX, PIXEL_SIZE = 160, 96, 2.5
# how far, in pixels of the micrographs, an empty place is from every pick (a molecule is 80 across) and from the others
FAR_FROM_PARTICLES = FAR_FROM_EACH_OTHER = 60
STEP = 4
# beyond this width (pixels) a micrograph shows the ice, not the detector's pattern
PATTERN_WIDTH = 10.0
# share of half the box beyond which is background
BACKGROUND = 0.9

Image = Float[np.ndarray, "y x"]


def with_empty_boxes(apoferritin: Path, folder: Path, count: int, seed: int) -> tuple[Path, int]:
    """A stack of the particles and of `count` empty boxes after them. Returns its STAR file and the number of particles."""
    source = apoferritin / "particles"
    table = read_star(source / "particles.star")
    block = table["particles"]
    names = block.text("rlnMicrographName")
    at = np.stack([block.numbers("rlnCoordinateX"), block.numbers("rlnCoordinateY")], axis=1)
    micrographs = without_pattern({name: micrograph(apoferritin / "averages" / name) for name in sorted(set(names))})
    places = []
    for name, image in micrographs.items():
        picks = read_star(apoferritin / "picks" / f"{Path(name).stem}.star").blocks[0]
        known = np.stack([picks.numbers("rlnCoordinateX"), picks.numbers("rlnCoordinateY")], axis=1)
        own = at[np.array(names) == name]
        places += [(name, x, y) for x, y in empty_places(image, np.concatenate([known, own]))]
    drawn = np.sort(np.random.default_rng(seed).permutation(len(places))[:count])
    boxes = [box_at(micrographs[places[one][0]], *places[one][1:]) for one in drawn]
    images, _ = read_array(source / "particles.mrcs")
    folder.mkdir(parents=True, exist_ok=True)
    write_stack(folder / "particles.mrcs", np.concatenate([images, np.stack(boxes)]).astype(np.float32), PIXEL_SIZE)
    # an empty box has the optics of its micrograph
    rows = np.array([*range(block.count), *(names.index(places[one][0]) for one in drawn)])
    named = {"rlnImageName": [f"{row + 1:06d}@particles.mrcs" for row in range(len(rows))]}
    write_star(folder / "particles.star", table.with_block(block.select(rows).with_columns(named), instead_of=block))
    return folder / "particles.star", block.count


def micrograph(path: Path) -> Image:
    """The values of a picture."""
    return matplotlib.image.imread(path).astype(np.float32)


def without_pattern(micrographs: dict[str, Image]) -> dict[str, Image]:
    """The micrographs less what the others predict of their fine detail: the detector has the same pattern in all."""
    detail = {name: image - gaussian_filter(image, PATTERN_WIDTH) for name, image in micrographs.items()}
    clean = {}
    for name, image in micrographs.items():
        pattern = np.mean([one / one.std() for other, one in detail.items() if other != name], axis=0)
        clean[name] = image - pattern * float((pattern * detail[name]).mean() / pattern.var())
    return clean


def empty_places(image: Image, particles: Float[np.ndarray, "particles 2"]) -> list[tuple[int, int]]:
    """Places (x, y) of boxes that are far from all particles and from one another, the emptiest first."""
    height, width = image.shape
    edge = CUT // 2
    x, y = np.meshgrid(np.arange(edge, width - edge, STEP), np.arange(edge, height - edge, STEP))
    grid = np.stack([x.ravel(), y.ravel()], axis=1)
    away = KDTree(particles).query(grid)[0]
    kept: list[int] = []
    for one in np.argsort(-away, kind="stable"):
        if away[one] < FAR_FROM_PARTICLES:
            break
        if all(np.hypot(*(grid[one] - grid[other])) >= FAR_FROM_EACH_OTHER for other in kept):
            kept.append(int(one))
    return [(int(grid[one, 0]), int(grid[one, 1])) for one in kept]


def box_at(image: Image, x: int, y: int) -> Image:
    """The box round a place, Fourier-cropped, particles bright, background of mean 0 and deviation 1."""
    half = CUT // 2
    cut = torch.from_numpy(image[y - half : y + half, x - half : x + half].astype(np.float32))
    box = -resize_images(cut, BOX).numpy()
    rows, columns = np.mgrid[-BOX // 2 : BOX // 2, -BOX // 2 : BOX // 2]
    background = box[np.hypot(rows, columns) > BACKGROUND * BOX / 2]
    return (box - background.mean()) / background.std()
