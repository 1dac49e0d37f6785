"""How wrong what was known is, as the images tell: widths of the prior of refinement from all particles together.

One image may say little of its defocus. With a prior that is too wide, what is found of it is noise, and worse than what was
known; all images together say how wide the prior should be (empirical Bayes).
"""

from __future__ import annotations

import math
from dataclasses import astuple

import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from torch import Tensor

from frazil.inference.local_refinement import PriorWidths, Refined
from frazil.numerics.rotations import to_rotation_vector
from frazil.physics.pose import Pose

# widths never fall below this share of the widest: nothing is known perfectly
LEAST = 0.01
# nor do they change by more than this factor at once: what images tell of a defocus depends on the defocus
MOST_CHANGE = 2.0


def learnt_widths(found: Refined, known: Pose, prior: PriorWidths, widest: PriorWidths) -> PriorWidths:
    """The standard deviations of rotation, shift, defocus and scale that make what was found most likely.

    A step of expectation and maximisation for poses, of which every image says much:
    ``sigma^2 = mean(offset^2 + posterior variance)``. For defocus and scale, where the posterior is mostly prior, that would
    take many rounds: there the Gaussian likelihood of each image is freed from the prior it was found with, and the width
    under which all of them are most likely is sought.

    Args:
        found: with one candidate. known: the centre of the prior. prior: the one that was used. widest: not to be exceeded.
    """
    turned = torch.rad2deg(to_rotation_vector(found.pose.rotation @ known.rotation.mT))[:, 0]
    moved = (found.pose.shift - known.shift)[:, 0]
    variance = found.covariance[:, 0].diagonal(dim1=1, dim2=2)
    defocus, scale = found.defocus[:, 0], found.scale[:, 0].log()
    learnt = (
        _mean_square(turned, variance[:, :3]),
        _mean_square(moved, variance[:, 3:]),
        _spread(defocus, found.deviation[:, 0, 0], prior.defocus),
        _spread(scale, found.deviation[:, 0, 1], prior.scale),
    )
    used, most = astuple(prior), astuple(widest)
    return PriorWidths(*(_within(*three) for three in zip(learnt, used, most, strict=True)))


def _within(width: float, used: float, most: float) -> float:
    near = min(max(width, used / MOST_CHANGE), used * MOST_CHANGE)
    return min(max(near, LEAST * most), most)


def _mean_square(offset: Float[Tensor, "particles axes"], variance: Float[Tensor, "particles axes"]) -> float:
    total = (offset.square() + variance).mean(1)
    return math.sqrt(float(total[total.isfinite()].mean().nan_to_num(0.0)))


def _spread(offset: Float[Tensor, " particles"], deviation: Float[Tensor, " particles"], width: float) -> float:
    """The width of a prior of one number, given posterior means and deviations under a prior of another width."""
    told = (deviation > 0) & offset.isfinite() & deviation.isfinite()
    if width == 0 or not bool(told.any()):
        return 0.0
    information = (deviation[told] ** -2 - width**-2).clamp(min=0)
    # the likelihood's own mean times its information: nothing is divided by an information that may be next to none
    weighed = offset[told] * deviation[told] ** -2

    def unlikely(log_width: float) -> float:
        square = math.exp(2 * log_width)
        gain = weighed.square() / (information + 1 / square)
        return float((torch.log1p(information * square) - gain).mean())

    bounds = (math.log(width * LEAST), math.log(width / LEAST))
    return math.exp(minimize_scalar(unlikely, bounds=bounds, method="bounded").x)
