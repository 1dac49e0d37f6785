"""How volumes change after a pass: a preconditioned step on the table, shrunk shell by shell as the half-sets agree.

With known weights every voxel would ask for a (K + 1)² matrix of its own. Conformations are independent of poses and
optics, so that matrix is nearly the coverage w of the voxel times the mean second moment S of the weights; solved with it,
the gradient leads to the right fixed point whatever the matrix leaves out. The prior of volume k in a shell is the one of
RELION (Scheres 2012): the inverse of its variance is ``w S_kk (1 - FSC_k) / FSC_k``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.numerics import compiled_table
from frazil.numerics.fourier import HalfPlane, fourier_resize
from frazil.numerics.spectrum_table import (
    Table,
    TableLayout,
    complete_axis_plane,
    shell_means,
    symmetrise_table,
    table_layout,
    table_of_volumes,
    volumes_of_table,
)
from frazil.numerics.symmetry import point_group
from frazil.reconstruct.expectation import Expectation, coverage, in_both_halves
from frazil.reconstruct.whitened import WhitenedImages

# bounds of the correlation that sets the prior: no shell is believed wholly, none is given up
LEAST_CORRELATION, MOST_CORRELATION = 0.03, 0.995
# the second moment is taken this much larger on its diagonal: voxels that few images reach differ from the mean
CAUTION = 0.2

Volumes = Float[Tensor, "volumes n n n"]


@final
@dataclass(frozen=True)
class Stage:
    """A band limit with all that belongs to it.

    Attributes:
        band: highest shell. box: of the volumes, the smallest that holds the band. plane, layout: of slices and tables.
        coverage: of each half-set. symmetry: rotations of the point group, the identity first.
    """

    band: int
    box: int
    plane: HalfPlane
    layout: TableLayout
    coverage: tuple[Float[Tensor, " voxels"], Float[Tensor, " voxels"]]
    symmetry: Float[Tensor, "operations 3 3"]

    @staticmethod
    def of(images: WhitenedImages, band: int, symmetry: str) -> Stage:
        """Prepare a band: one pass over the transfer functions. A meeting of the processes that share the images."""
        plane = images.grid.half_plane(band)
        layout = table_layout(band)
        group = point_group(symmetry)

        covered = in_both_halves(lambda which: coverage(images, images.own(which), layout, plane))
        images.processes.sum(covered)
        if len(group) > 1:
            covered = in_both_halves(lambda which: _symmetrised(covered[which], layout, group))
        return Stage(band, box_of(images.grid.box_size, band), plane, layout, covered, group)

    def tables(self, volumes: tuple[Volumes, Volumes]) -> tuple[Table, Table]:
        """The tables of both halves."""
        return in_both_halves(lambda which: table_of_volumes(volumes[which], self.layout))


def _symmetrised(covered: Tensor, layout: TableLayout, group: Tensor) -> Tensor:
    both = torch.stack((covered, torch.zeros_like(covered)), dim=1)[..., None]
    return symmetrise_table(both, layout, group)[:, 0, 0].contiguous()


def box_of(full: int, band: int) -> int:
    """The smallest even box whose default half-plane reaches the band; the full one where that is smaller."""
    return min(full, 2 * band + 2 + (band % 2) * 2)


def resize_to(volumes: Volumes, box: int) -> Volumes:
    """Volumes on another box of the same extent, their spectra unchanged where both have them."""
    size = volumes.shape[-1]
    return volumes if size == box else fourier_resize(volumes, box, 3) * (size / box) ** 3


def half_correlations(a: Table, b: Table, layout: TableLayout) -> Float[Tensor, "shells volumes"]:
    """Fourier shell correlation of each volume between the halves."""
    return _correlation(*_products(a, b, layout))


def pooled_correlations(a: Table, b: Table, layout: TableLayout) -> Float[Tensor, "shells volumes"]:
    """The same, each direction's curve averaged with the one of all directions together: a single one is noisy."""
    products = _products(a, b, layout)
    alone = _correlation(*products)
    together = _correlation(*(product[:, 1:].sum(1, keepdim=True) for product in products))
    return torch.cat((alone[:, :1], 0.5 * (alone[:, 1:] + together)), dim=1)


def _products(a: Table, b: Table, layout: TableLayout) -> tuple[Tensor, Tensor, Tensor]:
    """Means of a b, a a and b b over the shells."""
    pairs = ((a, b), (a, a), (b, b))
    cross, of_a, of_b = (shell_means(x[:, 0] * y[:, 0] + x[:, 1] * y[:, 1], layout) for x, y in pairs)
    return cross, of_a, of_b


def _correlation(cross: Tensor, of_a: Tensor, of_b: Tensor) -> Tensor:
    return cross / (of_a * of_b).sqrt().clamp(min=torch.finfo(cross.dtype).tiny)


def smoothed(curves: Float[Tensor, "shells volumes"]) -> Float[Tensor, "shells volumes"]:
    """Averaged over three neighbouring shells."""
    padded = torch.cat((curves[:1], curves, curves[-1:]))
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def stepped(
    volumes: Volumes,
    table: Table,
    found: Expectation,
    stage: Stage,
    which: int,
    correlation: Float[Tensor, "shells volumes"],
    mask: Float[Tensor, "volumes n n n"],
) -> Volumes:
    """The volumes of one half after a step.

    Args:
        table: of the volumes. found: its gradient is used up. which: the half-set.
        correlation: between the halves; it sets the prior. mask: what each volume is multiplied by.
    """
    layout, covered = stage.layout, stage.coverage[which]
    gradient = found.gradient
    complete_axis_plane(gradient, layout)
    if len(stage.symmetry) > 1:
        gradient = symmetrise_table(gradient, layout, stage.symmetry)
    believed = correlation.clamp(LEAST_CORRELATION, MOST_CORRELATION)
    ratio = (1 - believed) / believed
    second = found.second + CAUTION * torch.diag(found.second.diagonal())
    inverse_variance = shell_means(covered, layout)[:, None] * found.second.diagonal() * ratio
    newton_step(gradient, table, layout, second, covered, inverse_variance)
    return (volumes + volumes_of_table(gradient, layout, volumes.shape[-1])) * mask


def newton_step(
    slope: Table,
    table: Table,
    layout: TableLayout,
    second: Float[Tensor, "volumes volumes"],
    covered: Float[Tensor, " voxels"],
    prior: Float[Tensor, "shells volumes"],
) -> None:
    """Make of the slope ``(w S + diag(prior))^-1 (slope - prior table)`` in place, w the coverage of a voxel.

    One generalised eigenproblem in each shell, ``S u = t diag(prior) u``, makes those of all its voxels diagonal.
    """
    least = 1e-20 * prior.amax(dim=1, keepdim=True) + 1e-30
    root = prior.clamp(min=least).sqrt().to(torch.float64)
    values, vectors = torch.linalg.eigh(second.to(torch.float64) / (root[:, :, None] * root[:, None, :]))
    turn = (vectors / root[:, :, None]).to(slope.dtype)
    numbers = (covered, prior, values.clamp(min=0), turn)
    compiled_table.newton_step(
        slope.numpy(), *(part.contiguous().numpy() for part in (table, layout.nearest_shell, *numbers))
    )
