"""Images that show one particle: two views at known tilts have one conformation, and one posterior of it.

Given the conformation, the images of a particle are independent: what each says of it in log likelihood is added up over the
views before the posterior is taken, and the posterior belongs to all of them. Where every image shows a particle of its
own, nothing is added to anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@final
@dataclass(frozen=True)
class ParticleViews:
    """Which particle each image shows.

    Attributes:
        particle: a number for each image, the same in all views of a particle.
    """

    particle: Int[Tensor, " images"]

    def __len__(self) -> int:
        return len(self.particle)

    def __getitem__(self, rows: Any) -> ParticleViews:
        """Of some of the images, in the order asked for."""
        return ParticleViews(self.particle[rows])

    @property
    def particles(self) -> int:
        """Number of particles shown."""
        return int(self.first.sum())

    @property
    def shared(self) -> bool:
        """Whether any particle is shown more than once."""
        return self.particles < len(self)

    @cached_property
    def first(self) -> Bool[Tensor, " images"]:
        """Whether an image is the first of its particle."""
        return self.earliest == torch.arange(len(self))

    @cached_property
    def ordinal(self) -> Int[Tensor, " images"]:
        """The particles numbered 0, 1, 2, ... in the order of their first images."""
        return self.first.cumsum(0)[self.earliest] - 1

    @cached_property
    def count(self) -> Int[Tensor, " images"]:
        """How many views there are of the particle that each image shows."""
        return torch.bincount(self.ordinal)[self.ordinal]

    def summed(self, values: Float[Tensor, "images *more"]) -> Float[Tensor, "images *more"]:
        """For each image the sum over all images of its particle."""
        if not self.shared:
            return values
        sums = values.new_zeros(self.particles, *values.shape[1:])
        return sums.index_add_(0, self.ordinal, values)[self.ordinal]

    @cached_property
    def earliest(self) -> Int[Tensor, " images"]:
        """For each image the first image of its particle."""
        number = torch.unique(self.particle, return_inverse=True)[1]
        first = torch.full((len(self),), len(self)).scatter_reduce_(0, number, torch.arange(len(self)), "amin")
        return first[number]
