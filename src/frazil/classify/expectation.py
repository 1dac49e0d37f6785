"""One round of expectation-maximisation: some images against every class at every angle and shift, and what they give."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.classify.averages import ClassSums, sums_of_views, tables_of
from frazil.classify.images import ClassImages
from frazil.inference.matching import Match, Views, disc_of_shifts, match_views
from frazil.numerics.fourier import HalfPlane
from frazil.numerics.turning import Turning
from frazil.physics.grid import Grid

DEGREE = torch.pi / 180


@final
@dataclass(frozen=True)
class Search:
    """What poses are compared.

    Attributes:
        layout: the coefficients used. turning: every class at every angle. angles: degrees, 0 to 180; half-turned views come
            for free. shifts: Å, about the centre of each image.
    """

    layout: HalfPlane
    turning: Turning
    angles: Float[Tensor, " angles"]
    shifts: Float[Tensor, "shifts 2"]

    @staticmethod
    def of(grid: Grid, band: int, table_band: int, diameter: float, reach: float, coarseness: float) -> Search:
        """Angles and shifts that move the rim of a particle by ``coarseness`` times the resolution of the band at most."""
        layout = grid.half_plane(band)
        resolution = grid.resolution_of(band + 0.5)
        count = max(6, round(torch.pi * diameter / 2 / (coarseness * resolution)))
        angles = torch.arange(count) * (180 / count)
        step = min(0.7 * coarseness * resolution, max(reach, 1e-3))
        shifts = disc_of_shifts(reach, step)
        return Search(layout, Turning.of(angles * DEGREE, layout, table_band), angles, shifts)


@final
@dataclass(frozen=True)
class Expected:
    """What a round found.

    Attributes:
        sums: what the images give each class. match: of each image, in the order of the rows.
    """

    sums: ClassSums
    match: Match


def expect(
    images: ClassImages,
    rows: Int[Tensor, " rows"],
    averages: Float[Tensor, "classes n n"],
    search: Search,
    *,
    table_band: int,
    temperature: float = 1.0,
    centre: Float[Tensor, "images 2"] | None = None,
) -> Expected:
    """Compare some images with all classes. Even rows are one half-set, odd ones the other.

    Args:
        centre: where each image's particle was found before, Å; shifts are about it.
    """
    layout, classes = search.layout, len(averages)
    views = search.turning.turned(tables_of(averages, table_band)).flatten(0, 1).contiguous()
    pixels = search.shifts / images.grid.pixel_size
    sums, places, matches = [], [], []
    for half in range(2):
        place = torch.nonzero(rows % 2 == half)[:, 0]
        own = rows[place]
        chosen = images.chosen(own, layout, None if centre is None else centre[own])
        match, found = match_views(chosen, Views(views), pixels, layout, temperature=temperature)
        sums.append(sums_of_views(found, search.turning, classes, layout))
        places.append(place)
        matches.append(match)
    total = ClassSums(*(torch.stack(parts) for parts in zip(*sums, strict=True)))
    back = torch.cat(places).argsort()
    joined = Match(*(torch.cat([getattr(match, field.name) for match in matches])[back] for field in fields(Match)))
    return Expected(total, joined)
