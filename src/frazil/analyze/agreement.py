"""Does a model's map show what the images show?

A decoded map is compared with the map of the same state made from images alone. Most of either map is the molecule that all
states share, so what counts is the difference of each from what its own kind has in common over the states: the motion.
Images are noisy, so the correlation of the two differences is measured against the best one that the images allow,

    expected = sqrt(2 r / (1 + r)),    agreement = correlation / expected,

where r is the correlation between the differences of the two half-maps (Rosenthal and Henderson 2003). 1 means that the
model shows the motion that the images show. A low agreement where the images could tell is imagined density: the state is
flagged. Nothing is said where they could not tell (expected below `TELLING`), and of a state in the middle, whose model
hardly differs from what all have in common (`MOVING`): there is no motion to be imagined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from frazil.numerics.shells import first_shell_below, low_pass, shell_correlation

# images tell nothing below this expected correlation; an agreement below the second is a flag
TELLING, FLAGGED = 0.4, 0.5
# a state whose motion is smaller than this share of the states' root mean square has none of its own
MOVING = 0.5


@final
@dataclass(frozen=True)
class Agreement:
    """How one state's map agrees with its images.

    Attributes:
        correlation: of the model's motion and the images'. expected: the best one that the images allow.
        motion: size of the model's motion, relative to the root mean square over the states.
        image_count: images that the map was made of.
        shared_shell: where the Fourier shell correlation of both maps, as they are, falls below 0.5 inside the mask.
    """

    correlation: float
    expected: float
    motion: float
    image_count: int
    shared_shell: float

    @property
    def score(self) -> float:
        """Correlation over what was expected, at most 1; NaN where the images cannot tell or nothing moves."""
        if self.expected < TELLING or self.motion < MOVING:
            return float("nan")
        return min(self.correlation / self.expected, 1.0)

    @property
    def verdict(self) -> str:
        """In words."""
        if self.expected < TELLING:
            return "too noisy to tell"
        if self.motion < MOVING:
            return "hardly any"
        return "not seen in the images" if self.score < FLAGGED else "seen in the images"

    @property
    def flagged(self) -> bool:
        """Whether the model shows a motion that the images do not."""
        return self.score < FLAGGED


def compare_with_images(
    model: list[Float[Tensor, "n n n"]],
    halves: list[tuple[Float[Tensor, "n n n"], Float[Tensor, "n n n"]]],
    mask: Float[Tensor, "n n n"],
    shell: float,
    image_counts: list[int],
) -> list[Agreement]:
    """The agreement of every state.

    Args:
        model: decoded maps. halves: half-maps of the same states from images alone.
        mask: where to look. shell: all maps are filtered to it: the resolution at which the half-maps of images agree.
    """
    shown = [low_pass(volume, shell) for volume in model]
    a, b = ([low_pass(pair[i], shell) for pair in halves] for i in (0, 1))
    # the median, so that one state's imagined density does not become the others' lack of it
    common_model, common_a, common_b = (torch.stack(volumes).quantile(0.5, dim=0) for volumes in (shown, a, b))
    sizes = torch.stack([((volume - common_model) ** 2 * mask).sum() for volume in shown]).sqrt()
    relative = (sizes / sizes.square().mean().sqrt().clamp(min=1e-12)).tolist()
    found = []
    together = [pair[0] + pair[1] for pair in halves]
    for whole, both, size, volume, half_a, half_b, count in zip(
        model, together, relative, shown, a, b, image_counts, strict=True
    ):
        motion, motion_a, motion_b = volume - common_model, half_a - common_a, half_b - common_b
        between = max(masked_correlation(motion_a, motion_b, mask), 0.0)
        expected = float(np.sqrt(2 * between / (1 + between)))
        correlation = masked_correlation(motion, motion_a + motion_b, mask)
        shared = first_shell_below(shell_correlation(whole * mask, both * mask), 0.5)
        found.append(Agreement(correlation, expected, size, count, shared))
    return found


def masked_correlation(a: Float[Tensor, "n n n"], b: Float[Tensor, "n n n"], mask: Float[Tensor, "n n n"]) -> float:
    """Correlation of two maps whose voxels count as the mask says; 0 where one of them is constant."""
    weight = mask / mask.sum().clamp(min=1e-12)
    a, b = a - (weight * a).sum(), b - (weight * b).sum()
    scale = ((weight * a * a).sum() * (weight * b * b).sum()).sqrt()
    return float((weight * a * b).sum() / scale) if float(scale) > 0 else 0.0
