"""Settings of poses that are searched again and again while a neural field is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from frazil.config import StageConfig, setting


class HierarchicalConfig(StageConfig):
    """Every few epochs the pose of every image is searched, by subdivision of a grid, against the field as it is then.

    The defaults are those of cryoDRGN2, except for the last two, which say how the search is made fast.
    """

    pretrain: int = setting(10_000, "images in random poses that the field is trained on first", ge=0)
    every: int = setting(5, "epochs from one search to the next; poses stay between", ge=1)
    order: int = setting(2, "order of the first grid: 12 x 4^order directions on HEALPix", ge=0, le=4)
    subdivisions: int = setting(4, "times that the grid is made twice as fine around the best poses", ge=0, le=5)
    kept: int = setting(8, "poses of an image that are subdivided, at every level", ge=1)
    first_band: int = setting(12, "highest frequency compared on the first grid, Fourier px", ge=1)
    last_band: int = setting(
        32, "highest frequency compared on the last one, Fourier px (no more than images hold)", ge=1
    )
    ramp: int | Literal["auto"] = setting(
        "auto",
        "epochs over which the highest frequency rises from the first to the last; auto: 25 for one rigid map, else 0",
    )
    shift_extent_px: float = setting(10.0, "shifts on the first grid reach from minus to plus this, px", gt=0)
    shifts: int = setting(14, "shifts on each axis", ge=1)
    cells: int = setting(8, "parts of the latent space, each with one density that its images are compared with", ge=1)
    renew: int = setting(256, "images that are searched before the densities are made anew from the field", ge=1)

    @model_validator(mode="after")
    def _bands_rise(self) -> HierarchicalConfig:
        if self.first_band > self.last_band:
            raise ValueError("first_band must not be larger than last_band")
        if isinstance(self.ramp, int) and self.ramp < 0:
            raise ValueError("ramp must not be negative")
        return self
