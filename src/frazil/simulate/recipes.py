"""How much of a set: number of particles, box, pixel size, states, noise and shifts of each size.

The lecture's sets follow the synthetic sets of cryoDRGN (Zhong et al. 2020): 64 pixels, SNR 0.1. The others follow
CryoBench (Jeon et al. 2024): a box of 384 Å whatever its pixels, noise of the spectral density that gives SNR 0.01 at
1.5 Å (so that smaller images, cropped in Fourier space, have a larger ratio), shifts within 30 Å.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from frazil.physics.grid import Grid


@final
@dataclass(frozen=True)
class Recipe:
    """What a data set of a size is; lengths in Å.

    Attributes:
        count: particles. grid: of the images. states: listed conformations, or molecules of a mixture.
        snr: see `simulate.noise`. snr_pixel_size: where it holds; None for the pixel size of the images.
        shift_range: shifts are uniform within plus or minus this.
        bead: width of a bead, Å, of a molecule with a size of its own; None for one that fills three quarters of the box
            with beads of three pixels, whose signal reaches Nyquist.
    """

    count: int
    grid: Grid
    states: int = 10
    snr: float = 0.1
    snr_pixel_size: float | None = None
    shift_range: float = 10.0
    bead: float | None = None

    def resolution(self) -> float:
        """Width of a bead, Å."""
        return 3 * self.grid.pixel_size if self.bead is None else self.bead

    def diameter(self) -> float | None:
        """Of the molecule, Å; None for its own."""
        return 0.75 * self.grid.extent if self.bead is None else None


_LECTURE = {
    "s": Recipe(1000, Grid(32, 8.0)),
    "m": Recipe(5000, Grid(64, 4.0)),
    "L": Recipe(50_000, Grid(64, 4.0)),
}
_BENCH_GRID = {"s": Grid(32, 12.0), "m": Grid(64, 6.0), "L": Grid(128, 3.0)}
# (particles, states)
_COUNTS = {
    "igg1d": {"s": (1000, 20), "m": (10_000, 100), "L": (100_000, 100)},
    "ribo16": {"s": (1000, 16), "m": (10_000, 16), "L": (335_240, 16)},
    "mix": {"s": (500, 10), "m": (4000, 20), "L": (100_000, 100)},
}

# A ribosomal subunit is solid: nearly all variance of its images lies below 1/12 Å, and their effective SNR at 64 pixels is
# 0.16. The phantom's beads stand 12 Å apart and are so wide that no gaps are left; narrower ones would put half of it
# there.
_BEADS = {"igg1d": 3.0, "ribo16": 14.0, "mix": 3.0}


def recipe_of(name: str, size: str) -> Recipe:
    """The recipe of a generated set in a size."""
    if name not in _COUNTS:
        return _LECTURE[size]
    count, states = _COUNTS[name][size]
    grid = Grid(48, 8.0) if (name, size) == ("mix", "m") else _BENCH_GRID[size]
    return Recipe(count, grid, states, snr=0.01, snr_pixel_size=1.5, shift_range=30.0, bead=_BEADS[name])
