"""The best pose of every image by subdivision: a coarse grid of all poses first, then finer ones around the best few.

At the first level an image is compared with views of a volume on a whole grid of rotations and shifts, at low frequencies.
The rotations that fit best, each with its best shift, are divided into eight; shifts are tried again, half as far, and
frequencies go further. After some levels the best pose of all is kept (Zhong et al., ICCV 2021).

An image y with transfer function T is compared with a view m of the volume by its squared error,

    |y e^{2 pi i k.t} - T m|^2 = |y|^2 + |T m|^2 - 2 Re <y e^{2 pi i k.t}, T m>

At the first level the last term is a matrix product of images with views (`matching`). At the others an image has views of
its own: the products of their coefficients with those of the image are multiplied with the phases of the shifts, which are
the same for all images and poses, as one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.inference.matching import CoarseImages, Views, likeliest_views, shift_phases
from frazil.inference.streamed import one_thread_per_operation
from frazil.numerics.fourier import HalfPlane
from frazil.numerics.rotation_grid import (
    divided,
    grid_pixels,
    grid_spacing,
    half_turned,
    in_plane_angles,
    rotation_grid,
)
from frazil.numerics.spectrum_table import Table, TableLayout, gather_table
from frazil.physics.value import TensorValue

# coefficients of views that a worker has in hand
COEFFICIENTS_AT_ONCE = 500_000


@final
@dataclass(frozen=True)
class Hierarchy:
    """What is tried on the way to a pose.

    Attributes:
        order: of the HEALPix grid of the first level. bands: the highest shell that is compared at each level.
        kept: poses of an image that are divided at the next level. shifts: tried at the first level, px; at every further
            one half as far around those kept. symmetry: rotations that leave the volume as it is.
    """

    order: int
    bands: tuple[int, ...]
    kept: int
    shifts: Float[Tensor, "shifts 2"]
    symmetry: Float[Tensor, "operations 3 3"] | None = None

    @property
    def spacing(self) -> float:
        """Degrees between neighbouring directions of the last level."""
        return grid_spacing(self.order + len(self.bands) - 1)

    def in_plane_step(self, level: int) -> float:
        """Radians between in-plane angles of a level."""
        return 2 * math.pi / in_plane_angles(self.order) / 2**level


@final
@dataclass(frozen=True)
class Candidates(TensorValue):
    """The poses kept of every image, the best first.

    Attributes:
        rotation: object to view. shift: where the particle is, px. pixel: the HEALPix pixel that the rotation looks along.
        score: ``2 Re <y, T m> - |T m|^2``: by how much the pose lowers the squared error of the image.
    """

    rotation: Float[Tensor, "images kept 3 3"]
    shift: Float[Tensor, "images kept 2"]
    pixel: Int[Tensor, "images kept"]
    score: Float[Tensor, "images kept"]


def square_of_shifts(extent: float, per_axis: int) -> Float[Tensor, "shifts 2"]:
    """Shifts (x, y) at the centres of equal squares that tile plus and minus ``extent`` on both axes; same unit."""
    along = (2 * torch.arange(per_axis) + 1 - per_axis) * (extent / per_axis)
    return torch.cartesian_prod(along, along).to(torch.float32)


def linear_bands(first: int, last: int, levels: int) -> tuple[int, ...]:
    """Band limits of so many levels, from the first to the last in equal steps."""
    return tuple(first + round((last - first) * k / max(levels - 1, 1)) for k in range(levels))


def search_poses(
    images: CoarseImages,
    table: Table,
    layout: TableLayout,
    plane: HalfPlane,
    hierarchy: Hierarchy,
    advance: Callable[[int], None] = lambda count: None,
) -> Candidates:
    """The best poses of every image against a volume.

    Args:
        images: coefficients on ``plane``, whose noise is the same in all of them, to the last band at least.
        table: spectrum of one volume, in the unit of the images. layout: of the table. plane: of the images.
    """
    found = whole_grid(images, table, layout, plane, hierarchy)
    bands = hierarchy.bands[1:]
    if not bands:
        return found
    size = max(1, COEFFICIENTS_AT_ONCE // (8 * hierarchy.kept * plane.within(bands[-1]).count))
    levels = [
        (plane.within(band), _phases(hierarchy.shifts / 2**k, plane.within(band))) for k, band in enumerate(bands, 1)
    ]

    def work(rows: Tensor) -> Candidates:
        some, own = found[rows], images[rows]
        for level, (band, phases) in enumerate(levels, 1):
            some = divided_further(own.within(0, band.count), some, table, layout, band, phases, hierarchy, level)
        return some

    with one_thread_per_operation() as threads, ThreadPoolExecutor(threads) as pool:
        parts: list[Candidates] = []
        for part in pool.map(work, torch.arange(len(images)).split(size)):
            parts.append(part)
            advance(len(part.score))
    return joined(parts)


def whole_grid(
    images: CoarseImages, table: Table, layout: TableLayout, plane: HalfPlane, hierarchy: Hierarchy
) -> Candidates:
    """The best of all poses of the first level: each rotation with its best shift."""
    low = plane.within(hierarchy.bands[0])
    rotations = rotation_grid(hierarchy.order, hierarchy.symmetry)
    pixels = grid_pixels(hierarchy.order, hierarchy.symmetry)
    views = gather_table(table, layout, rotations, low, torch.ones(len(rotations), low.count))[..., 0]
    number, shift, score = likeliest_views(
        images.within(0, low.count), Views(views), hierarchy.shifts, low, hierarchy.kept
    )
    # poses are equally likely before: their logarithm is taken off again
    score = score + math.log(2 * len(rotations) * len(hierarchy.shifts))
    place = number % len(rotations)
    turned = torch.where((number >= len(rotations))[..., None, None], half_turned(rotations[place]), rotations[place])
    return Candidates(turned, hierarchy.shifts[shift], pixels[place], score)


def divided_further(
    images: CoarseImages,
    found: Candidates,
    table: Table,
    layout: TableLayout,
    plane: HalfPlane,
    phases: Float[Tensor, "shifts numbers"],
    hierarchy: Hierarchy,
    level: int,
) -> Candidates:
    """The best of the poses that share the cells of those found at the level before.

    Args:
        plane: the coefficients of this level, which the images have. phases: of the shifts of this level: see `_phases`.
    """
    step = hierarchy.in_plane_step(level - 1)
    rotation, pixel = divided(found.rotation, found.pixel, hierarchy.order + level - 1, step)
    count, kept, eight = pixel.shape
    factor = images.transfer[:, None].expand(count, kept * eight, -1).flatten(0, 1)
    views = gather_table(table, layout, rotation.flatten(0, 2), plane, factor)[..., 0]
    power = views.square().sum((-2, -1)).view(count, kept * eight)
    centred = torch.view_as_complex(images.values.contiguous())[:, None] * _complex_phases(found.shift, plane)
    product = torch.view_as_complex(views).conj().view(count, kept, eight, -1) * centred[:, :, None]
    cross = torch.view_as_real(product).flatten(-2).flatten(0, 2) @ phases.T
    best = cross.max(dim=1)
    score = 2 * best.values.view(count, -1) - power
    top = score.topk(min(hierarchy.kept, score.shape[1]), dim=1)
    row = torch.arange(count)[:, None]
    shift = found.shift.repeat_interleave(eight, dim=1) + (hierarchy.shifts / 2**level)[best.indices.view(count, -1)]
    return Candidates(
        rotation.flatten(1, 2)[row, top.indices],
        shift[row, top.indices],
        pixel.flatten(1)[row, top.indices],
        top.values,
    )


def joined(parts: list[Candidates]) -> Candidates:
    """Candidates of several batches in one."""
    columns = zip(*((part.rotation, part.shift, part.pixel, part.score) for part in parts), strict=True)
    return Candidates(*(torch.cat(column) for column in columns))


def _complex_phases(shift: Float[Tensor, "images kept 2"], plane: HalfPlane) -> Tensor:
    """exp(2 pi i k.t) of every candidate: (images, kept, coefficients)."""
    return torch.view_as_complex(shift_phases(shift.flatten(0, 1), plane)).unflatten(0, shift.shape[:2])


def _phases(shifts: Float[Tensor, "shifts 2"], plane: HalfPlane) -> Float[Tensor, "shifts numbers"]:
    """What real and imaginary parts, in turns, are multiplied with: Re z e^{i a} = Re z cos a - Im z sin a."""
    signs = torch.tensor([1.0, -1.0])
    return (shift_phases(shifts, plane) * signs).flatten(1)
