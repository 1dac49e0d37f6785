"""Probabilistic principal components of a particle stack, in two halves, by expectation and maximisation.

The volumes of both halves start from the same random numbers, march together from coarse to fine, and are brought into one
latent frame after every pass. How many directions are real is for images to say that the volumes have never seen: those of
the other half.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.inference.coefficient_posteriors import CoefficientPrior, GaussianPrior
from frazil.numerics.spectrum_table import Table, shell_means, table_of_volumes, volumes_of_table
from frazil.reconstruct.expectation import (
    Expectation,
    Pass,
    ScalePrior,
    in_both_halves,
    of_all_processes,
    said_by_all,
    said_together,
)
from frazil.reconstruct.maximisation import (
    Stage,
    Volumes,
    half_correlations,
    pooled_correlations,
    resize_to,
    smoothed,
    stepped,
)
from frazil.reconstruct.unsure_poses import UnsurePoses
from frazil.reconstruct.whitened import WhitenedImages

# power of each random direction at the start, relative to that of the mean
FIRST_POWER = 0.05
# standard errors by which an additional direction must explain the images of the other half better
CLEARLY_BETTER = 3.0
# log likelihood of an image below which nothing is worth telling apart: half-sets share a start, and with it a little noise
WORTHWHILE = 0.02
# the contrast of images is not believed to vary by more than this
WIDEST_SCALE = 0.3


@final
@dataclass(frozen=True)
class Halves:
    """What is learnt: the volumes of both half-sets, and the contrast of every image.

    Attributes:
        a, b: the mean, then the directions of change. scale: E[s] and E[s^2] of every image, in working order.
        spread: standard deviation of the contrast among images; 0 holds it at 1.
    """

    a: Volumes
    b: Volumes
    scale: Float[Tensor, "images 2"]
    spread: float

    @property
    def pair(self) -> tuple[Volumes, Volumes]:
        """Both sets of volumes."""
        return self.a, self.b

    def resized(self, box: int) -> Halves:
        """On another box of the same extent."""
        return replace(self, a=resize_to(self.a, box), b=resize_to(self.b, box))


def with_random_directions(mean: Halves, count: int, stage: Stage, mask: Tensor, seed: int) -> Halves:
    """The means of both halves with random directions, the same in both, whose spectrum is that of the mean."""
    generator = torch.Generator().manual_seed(seed)
    box = mean.a.shape[-1]
    noise = torch.randn(count, box, box, box, generator=generator) * mask
    table = table_of_volumes(noise, stage.layout)
    power = shell_means(table.square().sum(1), stage.layout)
    a, b = stage.tables((mean.a, mean.b))
    wanted = FIRST_POWER * shell_means((a.square().sum((1, 2)) + b.square().sum((1, 2))) / 2, stage.layout)
    shell = stage.layout.nearest_shell
    gain = (wanted[:, None] / power.clamp(min=1e-30)).sqrt()[shell]
    directions = volumes_of_table(table * gain[:, None], stage.layout, box)
    return replace(mean, a=torch.cat((mean.a, directions)), b=torch.cat((mean.b, directions)))


def expect(
    images: WhitenedImages,
    halves: Halves,
    tables: tuple[Table, Table],
    stage: Stage,
    prior: CoefficientPrior,
    *,
    update: bool = True,
    residual: bool = False,
    informed: int | None = None,
    unsure: UnsurePoses | None = None,
) -> tuple[Expectation, Expectation]:
    """One pass over both half-sets, each with the table of its own volumes; the options are those of `Pass`.

    A meeting of the processes that share the images.
    """
    plan = Pass(stage.layout, stage.plane, prior, ScalePrior(halves.spread), update, residual, informed, unsure)
    together = said_together(images, plan, tables, halves.scale)
    a, b = in_both_halves(lambda which: plan.over(images, images.own(which), tables[which], halves.scale, together))
    return of_all_processes(a, images, 0), of_all_processes(b, images, 1)


def maximise(
    halves: Halves,
    tables: tuple[Table, Table],
    found: tuple[Expectation, Expectation],
    stage: Stage,
    mask: Tensor,
    *,
    least: float = 0.0,
    together: bool = True,
) -> Halves:
    """The volumes and contrasts after a step.

    Args:
        mask: (n, n, n), or one for each volume. least: correlation that directions are granted at least: what has only just
            begun shall not be given up. together: whether the directions lend each other their correlation.
    """
    correlated = pooled_correlations if together and halves.a.shape[0] > 1 else half_correlations
    curves = smoothed(correlated(*tables, stage.layout))
    curves[:, 1:] = curves[:, 1:].clamp(min=least)
    a, b = in_both_halves(
        lambda which: stepped(halves.pair[which], tables[which], found[which], stage, which, curves, mask)
    )
    scale = torch.cat((found[0].scale, found[1].scale))
    spread = halves.spread
    if spread > 0 and together:  # the linear model has settled how contrast varies
        variance = (scale[:, 1] - 2 * scale[:, 0] + 1).mean()
        spread = min(float(variance.clamp(min=1e-8).sqrt()), WIDEST_SCALE)
    if spread > 0:
        scale = at_one(scale)
    return Halves(a, b, scale, spread)


def at_one(scale: Tensor) -> Tensor:
    """Contrasts divided by their mean: the volumes carry the common one."""
    mean = scale[:, 0].mean()
    return torch.stack((scale[:, 0] / mean, scale[:, 1] / mean**2), dim=1)


def linear_pass(images: WhitenedImages, halves: Halves, stage: Stage, mask: Tensor) -> tuple[Halves, float]:
    """One round of expectation and maximisation. Returns the mean log evidence of an image too."""
    tables = stage.tables(halves.pair)
    return linear_step(halves, tables, expect(images, halves, tables, stage, GaussianPrior()), stage, mask)


def linear_step(
    halves: Halves, tables: tuple[Table, Table], found: tuple[Expectation, Expectation], stage: Stage, mask: Tensor
) -> tuple[Halves, float]:
    """Maximisation, and both halves brought into one frame of latents. Returns the mean log evidence too."""
    moved = maximise(halves, tables, found, stage, mask)
    (a, told_a), (b, told_b) = (_standardised(v, one) for v, one in zip(moved.pair, found, strict=True))
    a, b = _in_one_frame(a, b, told_a, told_b)
    evidence = torch.cat((found[0].evidence, found[1].evidence)).mean()
    return replace(moved, a=a, b=b), float(evidence)


def _standardised(volumes: Volumes, found: Expectation) -> tuple[Volumes, Tensor]:
    """The same conformations with latents of mean 0 and covariance 1, which the prior says they have.

    Returns the information on the new latents too.
    """
    second = found.second / found.second[0, 0]
    mean = second[0, 1:]
    root = torch.linalg.cholesky(second[1:, 1:] - mean[:, None] * mean)
    directions = torch.tensordot(root.T, volumes[1:], 1)
    moved = torch.cat((volumes[:1] + torch.tensordot(mean, volumes[1:], 1)[None], directions))
    return moved, root.T @ found.information[1:, 1:] @ root


def _in_one_frame(a: Volumes, b: Volumes, told_a: Tensor, told_b: Tensor) -> tuple[Volumes, Volumes]:
    """Turn the directions of B onto those of A (orthogonal Procrustes), then both so that what images tell falls.

    In this order the first latent is the one that images know best, and errors of different latents are hardly correlated.
    """
    left, _, right = torch.linalg.svd(a[1:].flatten(1) @ b[1:].flatten(1).T)
    onto = left @ right
    b = torch.cat((b[:1], torch.tensordot(onto, b[1:], 1)))
    turn = torch.linalg.eigh(told_a + onto @ told_b @ onto.T)[1].flip(1).T
    a, b = (torch.cat((v[:1], torch.tensordot(turn, v[1:], 1))) for v in (a, b))
    return a, b


def evidence_of_the_other_half(
    images: WhitenedImages, halves: Halves, stage: Stage
) -> Float[Tensor, "particles dimensions"]:
    """Log evidence per image of every particle under the first 0, 1, ..., K directions that the other half has learnt."""
    tables = stage.tables((halves.b, halves.a))
    plan = Pass(stage.layout, stage.plane, GaussianPrior(), update=False)

    once = images.views.first
    gram, projection = (images.views.summed(part)[once] for part in said_by_all(images, plan, tables))
    nested = [GaussianPrior().moments(gram[:, :k, :k], projection[:, :k]).evidence for k in range(1, gram.shape[1] + 1)]
    return torch.stack(nested, dim=1) / images.views.count[once, None]


def dimensions_told(evidence: Float[Tensor, "particles dimensions"]) -> int:
    """The number of directions that the images of the other half clearly ask for.

    A larger number replaces a smaller one where the mean gain per image exceeds `CLEARLY_BETTER` of its standard errors
    and is `WORTHWHILE`.
    """
    best = 0
    for k in range(1, evidence.shape[1]):
        gain = evidence[:, k] - evidence[:, best]
        error = gain.std() / len(gain) ** 0.5
        if float(gain.mean()) > max(CLEARLY_BETTER * float(error), WORTHWHILE):
            best = k
    return best
