"""One pass over the images: what each says about its conformation, and how the volumes should change.

For an image y with slices A of the volumes, posterior moments E[c], E[c c^T] of the weights and E[s], E[s^2] of its scale,
the gradient of the expected log likelihood in the volumes is the backprojection of ``y E[s] E[c]^T - A E[s^2] E[c c^T]``.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.inference.coefficient_posteriors import CoefficientPrior, Gram, Moments, Projection
from frazil.inference.streamed import one_thread_per_operation
from frazil.numerics.fourier import HalfPlane
from frazil.numerics.spectrum_table import (
    Table,
    TableLayout,
    complete_axis_plane,
    gather_table,
    scatter_table,
    zero_table,
)
from frazil.reconstruct.unsure_poses import UnsurePoses
from frazil.reconstruct.whitened import WhitenedImages

Result = TypeVar("Result")
# what images say of the weights, see `CoefficientPrior`
Said = tuple[Gram, Projection]


@final
@dataclass(frozen=True)
class Expectation:
    """What one pass over some images found.

    Attributes:
        gradient: of the expected log likelihood, on the table. second: mean of ``E[s^2] E[c c^T]`` over the images.
        information: mean over the images of ``E[s^2] A^T A``, how well an image tells the weights apart.
        first, share: of the particle that every image shows, see `Moments`. covariance: of (c_1, ..., c_K); None when the
            gradient was wanted instead. evidence: an image's part of that of its particle. scale: E[s] and E[s^2] of every
            image.
        residual: mean of ``|y - E[s] A E[c]|^2`` of every coefficient, for each optics group; None when not asked for.
    """

    gradient: Table
    second: Float[Tensor, "volumes volumes"]
    information: Float[Tensor, "volumes volumes"]
    first: Float[Tensor, "images volumes"]
    evidence: Float[Tensor, " images"]
    share: Float[Tensor, "images parts"] | None
    scale: Float[Tensor, "images 2"]
    residual: Float[Tensor, "groups coefficients"] | None
    covariance: Float[Tensor, "images basis basis"] | None = None


@final
@dataclass(frozen=True)
class ScalePrior:
    """The contrast of an image: normal around 1. A spread of 0 holds every image at 1."""

    spread: float = 0.0

    def update(self, moments: Moments, gram: Tensor, projection: Tensor) -> Float[Tensor, "batch 2"]:
        """E[s] and E[s^2] given the moments of the weights (one step of variational Bayes)."""
        if self.spread == 0:
            return torch.ones(len(gram), 2, dtype=gram.dtype, device=gram.device)
        inverse = 1 / self.spread**2
        precision = (moments.second * gram).sum((1, 2)) + inverse
        mean = ((moments.first * projection).sum(1) + inverse) / precision
        return torch.stack((mean, mean.square() + 1 / precision), dim=1)


@final
@dataclass(frozen=True)
class Pass:
    """How to go over the images.

    Attributes:
        layout: of the tables. plane: the coefficients looked at. prior: of the weights. scale: prior of the contrast.
        update: whether the gradient is wanted. residual: whether the residual power is wanted.
        informed: how many coefficients, lowest frequencies first, weights and contrast are inferred from; None for all.
            Fine details hold little about the conformation, and volumes learnt from few images have fitted their noise.
        unsure: what is known of poses that were refined; None where they are taken to be right.
    """

    layout: TableLayout
    plane: HalfPlane
    prior: CoefficientPrior
    scale: ScalePrior = ScalePrior()
    update: bool = True
    residual: bool = False
    informed: int | None = None
    unsure: UnsurePoses | None = None

    def said(self, images: WhitenedImages, rows: range, table: Table) -> Said:
        """What each of some of this process's images says of the weights, at a contrast of 1."""
        found: list[Said] = []
        plane = self.plane
        if self.informed is not None and self.unsure is None:  # what nothing is inferred from need not be looked at
            plane = images.grid.half_plane(int(plane.shell[self.informed - 1]))

        def look(some: slice, values: Tensor, factor: Tensor) -> None:
            found.append(replace(self, plane=plane)._compared(images, some, values, factor, table)[1])

        images.each(rows, plane.count, self._slices(table), look)
        gram, projection = (torch.cat(parts) for parts in zip(*found, strict=True))
        return gram, projection

    def over(
        self,
        images: WhitenedImages,
        rows: range,
        table: Table,
        scale: Float[Tensor, "images 2"],
        together: Said | None = None,
    ) -> Expectation:
        """One pass over some of this process's images by one worker; what should be means are sums, see `of_all_processes`.

        Args:
            scale: present moments of the contrast of all images. together: what the views of its particle say together, for
                every image; None where each shows a particle of its own.
        """
        volumes = table.shape[2]
        gradient = zero_table(self.layout, volumes) if self.update else table[:0]
        second, information = torch.zeros(volumes, volumes), torch.zeros(volumes, volumes)
        residual = torch.zeros(images.groups, self.plane.count) if self.residual else None
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        shares: list[Tensor] = []
        covariances: list[Tensor] = []

        def look(some: slice, values: Tensor, factor: Tensor) -> None:
            rotation = images.rotation[some]
            seen, (gram, projection) = self._compared(images, some, values, factor, table)
            if together is None:
                moments = self.prior.moments(*at_contrast(gram, projection, scale[some]))
            else:
                moments = self.prior.moments(together[0][some], together[1][some])
            size = self.scale.update(moments, gram, projection)
            mean, weighted = moments.first * size[:, :1], moments.second * size[:, 1, None, None]
            told = (gram * size[:, 1, None, None]).sum(0)
            left = None
            if residual is not None:
                left = seen[:, -1] - (mean[:, None] @ seen[:, :-1])[:, 0]
                left = left.unflatten(1, (-1, 2)).square().sum(-1)
            if self.update:
                change = torch.cat((-weighted, mean[..., None]), dim=2) @ seen
                scatter_table(change.mT.unflatten(1, (-1, 2)), self.layout, rotation, self.plane, factor, gradient)
            # from here on nothing large is asked for: memory is not found to be out when a part is already added
            if residual is not None and left is not None:
                residual.index_add_(0, images.group[some], left)
            second.add_(weighted.sum(0))
            information.add_(told)
            if not self.update:
                covariances.append(_covariance(moments))
            if moments.share is not None:
                shares.append(moments.share)
            # not the second moments: of many images these are many numbers, and nobody asks for them again
            found.append((moments.first, moments.evidence, size))

        images.each(rows, self.plane.count, self._slices(table), look)
        return Expectation(
            gradient,
            second,
            information,
            torch.cat([first for first, _, _ in found]),
            torch.cat([evidence for _, evidence, _ in found]) / images.views.count[rows.start : rows.stop],
            torch.cat(shares) if shares else None,
            torch.cat([size for _, _, size in found]),
            residual,
            None if self.update else torch.cat(covariances),
        )

    def _slices(self, table: Table) -> int:
        """Slices of an image in hand at once."""
        return table.shape[2] * (1 if self.unsure is None else 2)

    def _compared(
        self, images: WhitenedImages, some: slice, values: Tensor, factor: Tensor, table: Table
    ) -> tuple[Float[Tensor, "batch rows numbers"], Said]:
        """Slices of the volumes and, last, the image as rows; and their overlaps in what is to be inferred from."""
        slices = gather_table(table, self.layout, images.rotation[some], self.plane, factor).flatten(1, 2)
        # volumes and image as rows: sums over coefficients run along memory
        seen = torch.cat((slices.mT, values.flatten(1)[:, None]), dim=1)
        informed = None if self.informed is None else 2 * self.informed
        if self.unsure is None:
            overlap = seen[..., :informed] @ seen[..., :informed].mT
        else:
            rotation = images.rotation[some]
            changes = self.unsure.changes(some, slices, rotation, table, self.layout, self.plane, factor, images.grid)
            coarse = torch.cat((seen, changes), dim=1)[..., :informed]
            overlap = self.unsure.integrated(coarse @ coarse.mT, changes @ changes.mT)
        return seen, (overlap[:, :-1, :-1], overlap[:, :-1, -1])


def at_contrast(gram: Gram, projection: Projection, scale: Float[Tensor, "batch 2"]) -> Said:
    """What images say whose contrast has the moments E[s], E[s^2]."""
    return gram * scale[:, 1, None, None], projection * scale[:, :1]


def said_by_all(images: WhitenedImages, plan: Pass, tables: tuple[Table, Table]) -> Said:
    """What every image says, each half-set compared with a table. A meeting of the processes."""
    found = in_both_halves(lambda which: plan.said(images, images.own(which), tables[which]))
    gram, projection = (
        torch.cat([images.processes.gather(part) for part in parts]) for parts in zip(*found, strict=True)
    )
    return gram, projection


def said_together(
    images: WhitenedImages, plan: Pass, tables: tuple[Table, Table], scale: Float[Tensor, "images 2"]
) -> Said | None:
    """For each image what all views of its particle say, see `ParticleViews`; None where there is one of each.

    A meeting of the processes.
    """
    if not images.views.shared:
        return None
    gram, projection = at_contrast(*said_by_all(images, plan, tables), scale)
    return images.views.summed(gram), images.views.summed(projection)


def of_all_processes(found: Expectation, images: WhitenedImages, which: int) -> Expectation:
    """What a pass over a half-set found, from what it found in this process's share. A meeting of the processes."""
    rows, processes = images.half(which), images.processes
    summed = [found.gradient, found.second, found.information]
    processes.sum(summed if found.residual is None else [*summed, found.residual])
    of_images = ("first", "evidence", "share", "scale", "covariance")
    gathered = {name: processes.gather(part) for name in of_images if (part := getattr(found, name)) is not None}
    residual = found.residual
    if residual is not None:
        members = torch.bincount(images.group[rows.start : rows.stop], minlength=len(residual))
        residual = residual / members.clamp(min=1)[:, None]
    count = max(len(rows), 1)
    return replace(
        found, second=found.second / count, information=found.information / count, residual=residual, **gathered
    )


def _covariance(moments: Moments) -> Float[Tensor, "batch basis basis"]:
    mean = moments.first[:, 1:]
    return moments.second[:, 1:, 1:] - mean[:, :, None] * mean[:, None, :]


def in_both_halves(work: Callable[[int], Result]) -> tuple[Result, Result]:
    """The work of half-set A and of half-set B, side by side where there are threads for it."""
    with one_thread_per_operation() as threads:
        if threads == 1:
            return work(0), work(1)
        with ThreadPoolExecutor(2) as pool:
            a, b = pool.map(work, (0, 1))
            return a, b


def coverage(images: WhitenedImages, rows: range, layout: TableLayout, plane: HalfPlane) -> Float[Tensor, " voxels"]:
    """How much the images tell of every voxel of a table: the sum of squared transfer functions."""
    total = zero_table(layout, 1)
    for first in range(rows.start, rows.stop, 64):
        some = slice(first, min(first + 64, rows.stop))
        factor = images.transfer(some, plane.count)
        squared = torch.zeros(*factor.shape, 2, 1)
        squared[:, :, 0, 0] = factor.square()
        scatter_table(squared, layout, images.rotation[some], plane, torch.ones_like(factor), total)
    complete_axis_plane(total, layout, hermitian=False)
    return total[:, 0, 0].contiguous()


def noise_left(
    noise: Float[Tensor, "groups shells"],
    found: tuple[Expectation, Expectation],
    images: WhitenedImages,
    *,
    alike: bool,
) -> Float[Tensor, "groups shells"]:
    """The noise that images were whitened by, times the power of what the volumes leave of them, shell by shell.

    Args:
        found: with residuals. alike: whether all optics groups change by the same ratio.
    """
    counts = torch.tensor([float(count) for count in images.counts])
    residual = [one.residual for one in found if one.residual is not None]
    left = torch.stack([count * one for count, one in zip(counts, residual, strict=True)]).sum(0) / counts.sum()
    if alike:
        members = torch.bincount(images.group, minlength=len(left)).to(left)
        left = (members @ left / members.sum()).expand_as(left)
    shell = images.plane.shell
    sums = torch.zeros(len(left), noise.shape[1]).index_add_(1, shell, left)
    number = torch.bincount(shell, minlength=noise.shape[1])
    # whitened noise has a power of 2 in a complex coefficient
    ratio = sums / (2 * number.clamp(min=1))
    known = (number > 0) & (torch.arange(noise.shape[1]) > 0)
    return torch.where(known & (ratio > 0), noise * ratio, noise)
