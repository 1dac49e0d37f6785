"""Where the density changes, as far as both half-sets say so.

A molecule moves in a part of the box, and the noise of its directions of change is everywhere. Directions that are zero
where nothing changes leave that noise out; half-sets then agree the better, so that finer shells of the rest are believed.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# a voxel whose change is so many deviations of the noise is half believed, and so is one that has this share of the largest
# change: what changes most is kept, however weak it is
HALF_BELIEVED, SHARE_OF_LARGEST = 6.0, 0.1


def region_of_change(
    a: Float[Tensor, "directions n n n"], b: Float[Tensor, "directions n n n"]
) -> Float[Tensor, "n n n"]:
    """How far to believe that each voxel changes, from 0 to 1.

    The variance of the density over conformations is ``v = sum_k a_k b_k`` for directions whose weights have unit variance;
    the noise of two half-sets is independent and has no part in its mean. A variance is not negative: values of ``v`` below
    zero are noise, and their root mean square s is its deviation. The weight is ``v^2 / (v^2 + (6 s)^2)``.

    Args:
        a, b: directions of both half-sets in one frame of weights.
    """
    variance = (a * b).sum(0)
    below = variance[variance < 0]
    noise = below.square().mean().sqrt() if len(below) else variance.new_zeros(())
    variance = variance.clamp(min=0)
    half = torch.minimum(HALF_BELIEVED * noise, SHARE_OF_LARGEST * variance.max())
    return variance.square() / (variance.square() + half.square()).clamp(min=torch.finfo(variance.dtype).tiny)
