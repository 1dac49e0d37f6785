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
        """Prepare a band: one pass over the transfer functions."""
        plane = images.grid.half_plane(band)
        layout = table_layout(band)
        group = point_group(symmetry)

        def covered(which: int) -> Tensor:
            found = coverage(images, images.half(which), layout, plane)
            if len(group) == 1:
                return found
            both = torch.stack((found, torch.zeros_like(found)), dim=1)[..., None]
            return symmetrise_table(both, layout, group)[:, 0, 0].contiguous()

        return Stage(band, box_of(images.grid.box_size, band), plane, layout, in_both_halves(covered), group)

    def tables(self, volumes: tuple[Volumes, Volumes]) -> tuple[Table, Table]:
        """The tables of both halves."""
        return table_of_volumes(volumes[0], self.layout), table_of_volumes(volumes[1], self.layout)


def box_of(full: int, band: int) -> int:
    """The smallest even box whose default half-plane reaches the band; the full one where that is smaller."""
    return min(full, 2 * band + 2 + (band % 2) * 2)


def resize_to(volumes: Volumes, box: int) -> Volumes:
    """Volumes on another box of the same extent, their spectra unchanged where both have them."""
    size = volumes.shape[-1]
    return volumes if size == box else fourier_resize(volumes, box, 3) * (size / box) ** 3


def half_correlations(a: Table, b: Table, layout: TableLayout) -> Float[Tensor, "shells volumes"]:
    """Fourier shell correlation of each volume between the halves."""
    cross = shell_means((a * b).sum(1), layout)
    power = shell_means(a.square().sum(1), layout) * shell_means(b.square().sum(1), layout)
    return cross / power.sqrt().clamp(min=torch.finfo(cross.dtype).tiny)


def smoothed(curves: Float[Tensor, "shells volumes"]) -> Float[Tensor, "shells volumes"]:
    """Averaged over three neighbouring shells."""
    padded = torch.cat((curves[:1], curves, curves[-1:]))
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def pooled(curves: Float[Tensor, "shells volumes"], tables: tuple[Table, Table], layout: TableLayout) -> Tensor:
    """Each direction's curve averaged with the one of all directions together: a single one is noisy."""
    a, b = (table[..., 1:] for table in tables)
    cross = shell_means((a * b).sum((1, 2)), layout)
    power = shell_means(a.square().sum((1, 2)), layout) * shell_means(b.square().sum((1, 2)), layout)
    together = cross / power.sqrt().clamp(min=torch.finfo(cross.dtype).tiny)
    return torch.cat((curves[:, :1], 0.5 * (curves[:, 1:] + together[:, None])), dim=1)


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
        table: of the volumes. which: the half-set. correlation: between the halves; it sets the prior.
        mask: what each volume is multiplied by.
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
    change = torch.empty_like(table)
    shell = layout.shell.round().to(torch.int64)
    by_shell = torch.argsort(shell, stable=True)
    for index, voxels in enumerate(by_shell.split(torch.bincount(shell).tolist())):
        prior = inverse_variance[index]
        slope = gradient[voxels] - prior * table[voxels]
        change[voxels] = _solved(second, prior, covered[voxels], slope)
    return (volumes + volumes_of_table(change, layout, volumes.shape[-1])) * mask


def _solved(second: Tensor, prior: Tensor, covered: Tensor, slope: Tensor) -> Tensor:
    """``(w S + diag(prior))^-1 slope`` for every voxel of a shell, w its coverage.

    One generalised eigenproblem, ``S u = t diag(prior) u``, makes all of them diagonal.
    """
    root = prior.clamp(min=1e-20 * float(prior.max()) + 1e-30).sqrt().to(torch.float64)
    values, vectors = torch.linalg.eigh(second.to(torch.float64) / (root[:, None] * root))
    turn = (vectors / root[:, None]).to(slope.dtype)
    weight = 1 / (covered[:, None].to(torch.float64) * values.clamp(min=0) + 1)
    return (slope @ turn) * weight[:, None].to(slope.dtype) @ turn.T
