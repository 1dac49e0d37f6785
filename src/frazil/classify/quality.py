"""How good classes and particles are, and which of them are suggested to be thrown away.

An image of the molecule is explained as well as its optics allow: the log evidence of its classes, over the energy that a
particle of mean power has under its transfer function, is about the same for all. Noise is explained by nothing, a piece or
another object badly. Images that are alike in being wrong make classes of their own, but blurred ones: the median of a class
says something about each of its members.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from frazil.classify.averages import half_averages, ring_correlation, tables_of
from frazil.classify.images import CHUNK, ClassImages
from frazil.classify.learning import Classes
from frazil.classify.rounds import Plan
from frazil.inference.matching import shell_sums
from frazil.numerics.shells import first_shell_below

# weight of the median of its class in the score of a particle
OF_CLASS = 0.5
# the middle of the good particles among all scores: that of four in five
MIDDLE = 0.6
# root mean square deviations above that middle, taken off it, that are still good: of good particles one in twenty is lower
SPREADS = 2.0
# two crowds stand apart where between them there is less than this share of the smaller one
APART = 0.3
BINS = 60
# ring correlation at which a class is said to be resolved
RESOLVED = 0.5


@final
@dataclass(frozen=True)
class Quality:
    """Figures of every class and of every particle; classes in the order of the averages.

    Attributes:
        count: particles in each class. resolution: where the averages of half-sets correlate by 0.5, Å; infinite where they
            never do. sharpness: root mean square spatial frequency of the average, 1/Å. score: median of the particles'
            explained share. good_class: suggestion.
        particle_score: of each particle. good: suggestion.
    """

    count: Int[Tensor, " classes"]
    resolution: Float[Tensor, " classes"]
    sharpness: Float[Tensor, " classes"]
    score: Float[Tensor, " classes"]
    good_class: Bool[Tensor, " classes"]
    particle_score: Float[Tensor, " images"]
    good: Bool[Tensor, " images"]


def judge(found: Classes, images: ClassImages, plan: Plan, reject: float | None) -> Quality:
    """Figures and suggestions.

    Args:
        reject: share of the particles to call bad; None for those that stand apart.
    """
    layout, chosen = found.search.layout, found.alignment.chosen
    views = found.search.turning.turned(tables_of(found.progress.averages, images.layout.band))[:, 0]
    power = shell_sums(views.square().sum(dim=-1), layout)
    count = torch.bincount(chosen, minlength=plan.classes)
    share = explained_share(found.match.evidence, images, power, count, found)
    median = torch.stack(
        [share[chosen == c].median() if count[c] else share.new_zeros(()) for c in range(plan.classes)]
    )
    score = (share + OF_CLASS * median[chosen]) / (1 + OF_CLASS)
    good = score >= threshold(score, reject)
    good_class = torch.zeros(plan.classes).index_add_(0, chosen, good.float()) >= 0.5 * count.clamp(min=1)
    if reject is None:
        good = good & good_class[chosen]
    curves = ring_correlation(half_averages(found.progress.sums, images.layout.band, plan.mask), images.layout)
    within = curves[:, : layout.band + 1]
    shells = torch.tensor([first_shell_below(curve, RESOLVED) for curve in within])
    resolution = torch.where(count > 1, images.grid.extent / shells.clamp(min=1e-3), torch.inf)
    frequency = torch.arange(power.shape[1]) * images.grid.frequency_step
    sharpness = ((power * frequency.square()).sum(dim=1) / power.sum(dim=1).clamp(min=1e-20)).sqrt()
    return Quality(count, resolution, sharpness, median, good_class, score, good)


def explained_share(
    evidence: Float[Tensor, " images"],
    images: ClassImages,
    power: Float[Tensor, "classes shells"],
    count: Int[Tensor, " classes"],
    found: Classes,
) -> Float[Tensor, " images"]:
    """Log evidence over the energy of a particle of mean power, seen through the transfer function of each image."""
    layout = found.search.layout
    mean = (power * count[:, None]).sum(dim=0) / count.sum()
    transfer = images.coarse.transfer[:, : layout.count]
    energy = torch.cat(
        [shell_sums(part.square(), layout) @ (mean / torch.bincount(layout.shell)) for part in transfer.split(CHUNK)]
    )
    return evidence / energy.clamp(min=1e-6)


def threshold(score: Float[Tensor, " images"], reject: float | None) -> float:
    """The least score of a good particle.

    What is above the middle of the good particles is theirs alone: it tells how far they scatter. (The commonest score would
    be another middle, but it jumps from one class to another where classes differ in score.) Where a crowd further down
    stands apart, what is between the two divides them.
    """
    if reject is not None:
        return float(score.sort().values[min(round(reject * len(score)), len(score) - 1)])
    low, middle, high = score.double().quantile(torch.tensor([0.02, MIDDLE, 0.98], dtype=torch.float64)).tolist()
    if not high > low:
        return low
    above = score[score > middle] - middle
    least = middle - SPREADS * float(above.square().mean().sqrt())
    width = (high - low) / BINS
    counts = torch.histc(score, BINS, low, high)
    kernel = torch.tensor([1.0, 2, 3, 4, 5, 4, 3, 2, 1]) / 25
    smooth = torch.nn.functional.conv1d(counts[None, None], kernel[None, None], padding=4)[0, 0]
    below = smooth[: int((middle - low) / width) + 1]
    valley = float(torch.nonzero(below == below.min())[:, 0].float().mean())
    crowd = float(below[: int(valley) + 1].max())
    apart = float(below[int(valley)]) < APART * min(crowd, float(below[int(valley) :].max()))
    return low + (valley + 0.5) * width if apart else least
