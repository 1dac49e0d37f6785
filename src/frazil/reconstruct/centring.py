"""Images moved so that their particles are centred.

Where particles may be far off centre, a search would try many shifts of every image in every round. Volumes at a coarse
resolution are enough to find the centres of images to some Å, once and for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.inference.matching import CoarseImages, shift_phases
from frazil.numerics.fourier import HalfPlane
from frazil.reconstruct.ab_initio import Guess, Level


@final
@dataclass(frozen=True)
class Centring:
    """What images are centred on: volumes at a level that has all shifts."""

    level: Level
    guess: Guess

    def centres(self, images: CoarseImages) -> Float[Tensor, "images 2"]:
        """Where the particles are, Å off the centre."""
        match, _, _ = self.level.match(self.guess, self.level.cut(images), self.level.rotations())
        return self.level.shifts[match.shift]


def moved(images: CoarseImages, shifts: Float[Tensor, "images 2"], plane: HalfPlane, pixel_size: float) -> CoarseImages:
    """Images of pixels of so many Å whose particles were off centre by shifts in Å, with the particles in the centre."""
    phases = torch.view_as_complex(shift_phases(shifts / pixel_size, plane))
    values = torch.view_as_complex(images.values) * phases
    return CoarseImages(torch.view_as_real(values).contiguous(), images.transfer)
