"""The images as classification sees them: masked, in a low band, divided by the noise, all in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.data.stack import Particles
from frazil.inference.matching import CoarseImages, shell_sums, shift_phases
from frazil.numerics.fourier import HalfPlane, images_to_coefficients
from frazil.numerics.masks import soft_circle
from frazil.physics.grid import Grid

CHUNK = 256
# width of the masks' soft edge, Å
EDGE = 15.0


@final
@dataclass(frozen=True)
class ClassImages:
    """Coefficients of all images out to the finest band, divided by the noise in each shell of their optics group.

    Attributes:
        coarse: what is matched. group: optics group of each image. grid: of the images. layout: where the coefficients lie.
    """

    coarse: CoarseImages
    group: Int[Tensor, " images"]
    groups: int
    grid: Grid
    layout: HalfPlane

    @property
    def count(self) -> int:
        """How many images."""
        return len(self.group)

    def chosen(
        self,
        rows: Int[Tensor, " rows"],
        layout: HalfPlane,
        centre: Float[Tensor, "rows 2"] | None = None,
    ) -> CoarseImages:
        """Some images in a lower band, moved so that what lies at ``centre`` (Å) is in the middle."""
        values = self.coarse.values[rows, : layout.count]
        if centre is not None:
            phases = torch.view_as_complex(shift_phases(centre / self.grid.pixel_size, layout))
            values = torch.view_as_real(torch.view_as_complex(values) * phases)
        return CoarseImages(values, self.coarse.transfer[rows, : layout.count])


def image_mask(grid: Grid, diameter: float, reach: float) -> Float[Tensor, "n n"]:
    """What keeps a particle that lies up to ``reach`` Å off the centre, and leaves its neighbours out.

    The corners of the image stay outside in any case: they tell of the noise.
    """
    radius = min(diameter / 2 + reach, grid.extent / 2 - EDGE / 2)
    return soft_circle(grid.box_size, radius / grid.pixel_size, EDGE / grid.pixel_size)


def read_images(
    particles: Particles, layout: HalfPlane, mask: Float[Tensor, "n n"], advance: Callable[[int], object]
) -> ClassImages:
    """Read the stack once; the noise is what is seen outside the mask.

    What classes do not explain within the mask is not called noise: blurred classes would then explain images well enough,
    and stay blurred.

    A mask takes away noise and makes what is left of it depend on its neighbours: coefficients are divided by the power
    that the noise would have in the whole image, so that sums over them count no pixel twice.
    """
    grid, count = particles.grid, particles.count
    group = torch.unique(particles.group, return_inverse=True)[1]
    groups = int(group.max()) + 1
    coarse = CoarseImages(torch.empty(count, layout.count, 2), torch.empty(count, layout.count))
    outside = 1 - mask
    power = torch.zeros(groups, layout.band + 1)
    sizes = torch.bincount(group, minlength=groups)
    for rows, images in particles.chunks(CHUNK):
        centred = images - ((images * outside).sum(dim=(-2, -1)) / outside.sum())[:, None, None]
        coarse.values[rows] = torch.view_as_real(images_to_coefficients(centred * mask, layout))
        optics = particles.optics
        coarse.transfer[rows] = 1.0 if optics is None else optics[rows].ctf(grid, layout).float()
        noise = images_to_coefficients(centred * outside, layout).abs().square()
        here = torch.bincount(group[rows], minlength=groups)
        power += group_power(noise, group[rows], groups, layout) * here[:, None]
        advance(len(rows))
    power /= sizes[:, None] * outside.square().mean()
    # the mean was taken off: the lowest shells lack what it held
    power[:, 0] = power[:, 1]
    gain = power.clamp(min=torch.finfo(torch.float32).tiny).rsqrt()[:, layout.shell]
    for rows in torch.arange(count).split(CHUNK):
        coarse.values[rows] *= gain[group[rows]][..., None]
        coarse.transfer[rows] *= gain[group[rows]]
    return ClassImages(coarse, group, groups, grid, layout)


def group_power(
    power: Float[Tensor, "images coefficients"], group: Int[Tensor, " images"], groups: int, layout: HalfPlane
) -> Float[Tensor, "groups shells"]:
    """Mean power of the images of each group in each shell."""
    counts = torch.bincount(layout.shell)
    of_images = torch.cat([shell_sums(part, layout) for part in power.split(CHUNK)]) / counts
    total = of_images.new_zeros(groups, len(counts)).index_add_(0, group, of_images)
    return total / torch.bincount(group, minlength=groups).clamp(min=1)[:, None]
