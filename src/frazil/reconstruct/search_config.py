"""Settings of the search for poses that nobody knows."""

from __future__ import annotations

from typing import Literal

from frazil.config import StageConfig, setting

# starts, and the coarsest spacing used, Å, where there is one molecule
STARTS, LOWEST = 8, 70.0
# rounds of a start, and images of each class in a round: of one molecule, and of several
ROUNDS, IMAGES = (30, 200), (400, 40)
# how far off centre particles may be, Å: of one molecule, and of several, which are centred anyway
SHIFT_RANGE = (15.0, 40.0)


class SearchConfig(StageConfig):
    """Poses found from nothing: random starts of expectation-maximisation over a grid of poses, the one that explains unseen
    images best, then every particle against it."""

    method: Literal["starts", "hierarchical"] = setting(
        "starts",
        "starts: random starts of voxels; hierarchical: against a neural field while it is trained (--hierarchical)",
    )
    starts: int | None = setting(
        None, "random starts; the one that explains unseen images best goes on (8; 1 of several molecules)", ge=1
    )
    classes: int = setting(1, "different molecules to tell apart, each with a map of its own", ge=1, le=64)
    rounds: int | None = setting(
        None,
        "rounds of a start, after which the better starts go on by as many until they get no better (30; 200 of several "
        "molecules, all there are)",
        ge=1,
    )
    images: int | None = setting(
        None, "images that a round of a start looks at, for each class (400; 40 of several molecules)", ge=10
    )
    resolution: float = setting(12.0, "finest spacing used in the search, Å (no finer than images hold)", gt=0)
    lowest_resolution: float | None = setting(
        None,
        "coarser spacings are left out, Å: they show ice and neighbours more than the molecule (70; of several molecules "
        "none, as sizes tell them apart)",
        gt=0,
    )
    shift_range: float | None = setting(
        None, "how far off centre particles may be, Å (15; 40 of several molecules)", ge=0
    )
    diameter: float | None = setting(None, "diameter of a sphere around the molecule, Å (seen in the images)", gt=0)

    def starts_of(self) -> int:
        """How many starts there are."""
        return self.starts or (STARTS if self.classes == 1 else 1)

    def rounds_of(self) -> int:
        """Rounds of a start."""
        return self.rounds or ROUNDS[self.classes > 1]

    def images_of(self) -> int:
        """Images in a round of a start."""
        return self.classes * (self.images or IMAGES[self.classes > 1])

    def shift_range_of(self) -> float:
        """How far off centre particles may be, Å."""
        return SHIFT_RANGE[self.classes > 1] if self.shift_range is None else self.shift_range

    def lowest_of(self, extent: float) -> float:
        """The coarsest spacing that is used in a box of an extent, Å."""
        return self.lowest_resolution or (LOWEST if self.classes == 1 else extent)
