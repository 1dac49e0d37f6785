"""Settings of the search for poses that nobody knows."""

from __future__ import annotations

from typing import Literal

from frazil.config import StageConfig, setting

# starts, and the coarsest spacing used, Å, where there is one molecule
STARTS, LOWEST = 8, 70.0


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
    rounds: int = setting(30, "rounds of a start", ge=1)
    images: int = setting(400, "images that a round of a start looks at, for each class", ge=10)
    resolution: float = setting(12.0, "finest spacing used in the search, Å (no finer than images hold)", gt=0)
    lowest_resolution: float | None = setting(
        None,
        "coarser spacings are left out, Å: they show ice and neighbours more than the molecule (70; of several molecules "
        "none, as sizes tell them apart)",
        gt=0,
    )
    shift_range: float = setting(15.0, "how far off centre particles may be, Å", ge=0)
    diameter: float | None = setting(None, "diameter of a sphere around the molecule, Å (seen in the images)", gt=0)

    def starts_of(self) -> int:
        """How many starts there are."""
        return self.starts or (STARTS if self.classes == 1 else 1)

    def lowest_of(self, extent: float) -> float:
        """The coarsest spacing that is used in a box of an extent, Å."""
        return self.lowest_resolution or (LOWEST if self.classes == 1 else extent)
