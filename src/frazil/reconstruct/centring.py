"""Images moved so that their particles are centred, before anything is known of the particles.

Where particles may be far off centre, a search would try many shifts of every image in every round. The mean of all molecules
in all directions is something like a ball, and that is enough to find the centres of images to some Å: one molecule is
searched at a coarse resolution, with all shifts, and with the coarsest shells too: they show best where a molecule ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.inference.matching import CoarseImages, shift_phases
from frazil.numerics.fourier import HalfPlane
from frazil.reconstruct.ab_initio import Guess, Level, Search, random_guess, run_rounds

# the resolution, Å; rounds, and images in a round
RESOLUTION, ROUNDS, IMAGES = 38.0, 20, 500


@final
@dataclass(frozen=True)
class Centring:
    """What images are centred on."""

    level: Level
    guess: Guess

    @staticmethod
    def learnt(search: Search, images: CoarseImages, generator: torch.Generator) -> Centring:
        """The mean of the images' molecules; the search says how far off centre they may be."""
        level = replace(search, lowest=search.grid.extent).level(RESOLUTION)
        coarse = level.cut(images)
        guess = random_guess(level, coarse, 1, IMAGES // 2, generator)
        return Centring(level, run_rounds(level, coarse, guess, ROUNDS, IMAGES, generator, cold=True))

    def centres(self, images: CoarseImages) -> Float[Tensor, "images 2"]:
        """Where the particles are, Å off the centre."""
        match, _, _ = self.level.match(self.guess, self.level.cut(images), self.level.rotations())
        return self.level.shifts[match.shift]


def moved(images: CoarseImages, shifts: Float[Tensor, "images 2"], plane: HalfPlane, pixel_size: float) -> CoarseImages:
    """Images of pixels of so many Å whose particles were off centre by shifts in Å, with the particles in the centre."""
    phases = torch.view_as_complex(shift_phases(shifts / pixel_size, plane))
    values = torch.view_as_complex(images.values) * phases
    return CoarseImages(torch.view_as_real(values).contiguous(), images.transfer)
