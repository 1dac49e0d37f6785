"""Volumes at low resolution in a small box: their views on a grid of rotations, and the volume that sums of views make.

The box is as small as the band allows and as wide as that of the images, so that shells mean the same in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.inference.matching import ViewSums
from frazil.numerics.fourier import HalfPlane, fourier_resize, half_plane
from frazil.numerics.masks import soft_sphere
from frazil.numerics.spectrum_table import (
    Table,
    TableLayout,
    complete_axis_plane,
    gather_table,
    scatter_table,
    shell_means,
    symmetrise_table,
    table_layout,
    table_of_volumes,
    volumes_of_table,
    zero_table,
)

# voxels of the box beyond twice the band, and the width of the sphere's edge, voxels
MARGIN, EDGE = 6, 2.0
# views are cut from the spectrum sampled twice as finely on each axis: eight points of a table for one of the box
OVERSAMPLING = 8
# interpolation spreads a coefficient over eight points: the variance of a point is this share of one over its weight
VARIANCE_OF_SPREAD = (2 / 3) ** 3
# the signal in a shell is believed to be at least this share of what the sums show, and every point's weight is raised by
# this share of its shell's mean
LEAST_SIGNAL, EVEN_WEIGHT = 0.1, 0.02
# a view with less than this weight of images is left out
LEAST_SHARE = 1e-3


@final
@dataclass(frozen=True)
class LowBand:
    """How volumes out to some shell are kept.

    Attributes:
        plane: of their views. layout: of their spectra. symmetry: rotations that leave them as they are.
        radius: of the sphere outside which they are empty, as a share of the box.
    """

    plane: HalfPlane
    layout: TableLayout
    symmetry: Float[Tensor, "operations 3 3"]
    radius: float

    @staticmethod
    def of(band: int, symmetry: Float[Tensor, "operations 3 3"], radius: float) -> LowBand:
        """Volumes out to shell ``band``."""
        return LowBand(half_plane(2 * band + MARGIN, band), table_layout(band), symmetry, radius)

    @property
    def band(self) -> int:
        """The highest shell."""
        return self.plane.band

    @property
    def box_size(self) -> int:
        """Side of the volumes, voxels."""
        return self.plane.box_size

    def mask(self) -> Float[Tensor, "n n n"]:
        """The sphere that volumes are multiplied with."""
        return soft_sphere(self.box_size, self.radius * self.box_size, EDGE)

    def table(self, volumes: Float[Tensor, "volumes n n n"]) -> Table:
        """The spectra of volumes."""
        return table_of_volumes(volumes, self.layout)

    def fitted(self, volumes: Float[Tensor, "volumes m m m"]) -> Float[Tensor, "volumes n n n"]:
        """Volumes of another box, of the same extent, in this one; their Fourier coefficients stay."""
        return resized(volumes, self.box_size) * self.mask()

    def views(self, volumes: Float[Tensor, "volumes n n n"], rotations: Float[Tensor, "rotations 3 3"]) -> Tensor:
        """Slices of all volumes: (volumes x rotations, coefficients, 2), all rotations of the first volume first."""
        ones = torch.ones(len(rotations), self.plane.count)
        slices = gather_table(self.table(volumes), self.layout, rotations, self.plane, ones)
        return slices.permute(3, 0, 1, 2).flatten(0, 1).contiguous()

    def sums(
        self, sums: ViewSums, rotations: Float[Tensor, "rotations 3 3"], volumes: int
    ) -> tuple[Float[Tensor, "volumes voxels 2"], Float[Tensor, "volumes voxels"]]:
        """Numerators and weights on the spectra of so many volumes, from the sums of their views."""
        count = len(rotations)
        numerators, weights = [], []
        for k in range(volumes):
            own = slice(k * count, (k + 1) * count)
            seen = torch.nonzero(sums.share[own] > LEAST_SHARE)[:, 0]
            values = torch.zeros(len(seen), self.plane.count, 2, 2)
            values[..., 0] = sums.numerator[own][seen]
            values[:, :, 0, 1] = sums.weight[own][seen][:, self.plane.shell]
            total = zero_table(self.layout, 2)
            scatter_table(values, self.layout, rotations[seen], self.plane, torch.ones(values.shape[:2]), total)
            numerator, weight = total[..., :1].contiguous(), total[..., 1:].contiguous()
            complete_axis_plane(numerator, self.layout)
            complete_axis_plane(weight, self.layout, hermitian=False)
            if len(self.symmetry) > 1:
                numerator = symmetrise_table(numerator, self.layout, self.symmetry)
                weight = symmetrise_table(weight, self.layout, self.symmetry)
            numerators.append(numerator[..., 0])
            weights.append(weight[:, 0, 0])
        return torch.stack(numerators), torch.stack(weights)

    def volumes(
        self,
        numerator: Float[Tensor, "volumes voxels 2"],
        weight: Float[Tensor, "volumes voxels"],
        least_signal: float = LEAST_SIGNAL,
    ) -> Float[Tensor, "volumes n n n"]:
        """The likeliest volumes where the signal's power in each shell is what the sums themselves show.

        Args:
            least_signal: the share of what they show that is taken for signal at least.
        """
        tables = [self._quotient(*pair, least_signal) for pair in zip(numerator, weight, strict=True)]
        return volumes_of_table(torch.stack(tables, dim=-1), self.layout, self.box_size) * self.mask()

    def _quotient(self, numerator: Tensor, weight: Tensor, least_signal: float) -> Float[Tensor, "voxels 2"]:
        shell = self.layout.nearest_shell
        known = weight > 1e-6 * weight.max()
        share = torch.where(known, 1 / weight.clamp(min=1e-20), 0)
        power = shell_means((numerator * share[:, None]).square().sum(1), self.layout)
        noise = VARIANCE_OF_SPREAD * shell_means(share, self.layout)
        signal = torch.maximum(power - noise, least_signal * power)
        prior = 1 / (OVERSAMPLING * signal.clamp(min=1e-20))
        damped = weight + prior[shell] + EVEN_WEIGHT * shell_means(weight, self.layout)[shell]
        inside = known & (self.layout.shell < self.band + 0.5)
        return torch.where(inside, 1 / damped.clamp(min=1e-20), 0)[:, None] * numerator


def resized(volumes: Float[Tensor, "volumes m m m"], box_size: int) -> Float[Tensor, "volumes n n n"]:
    """Volumes in a box of other voxels and the same extent, with the same Fourier coefficients."""
    return fourier_resize(volumes, box_size, 3) * (volumes.shape[-1] / box_size) ** 3
