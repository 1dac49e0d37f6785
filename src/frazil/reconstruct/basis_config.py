"""Settings of an ensemble of weighted volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from frazil.config import StageConfig, setting


class BasisConfig(StageConfig):
    """A basis of volumes: first linear in the latent (probabilistic principal components), then with coefficients that are
    smooth functions of it."""

    model: Literal["linear", "nonlinear"] = setting(
        "nonlinear", "linear stops at principal components; nonlinear goes on to coefficients that follow the motion"
    )
    components: int = setting(
        1,
        "most discrete states, such as molecules of different composition; there are as many as the images tell apart",
        ge=1,
    )
    within: int | Literal["auto"] = setting(
        0,
        "latent coordinates of the motion within each discrete state: 0 leaves states rigid, auto takes as many as images of"
        " the other half ask for",
    )
    most_dimensions: int = setting(8, "most latent coordinates that are tried when --latent-dim is not given", ge=1)
    volumes: int | None = setting(
        None, "directions of change of the nonlinear model (as many as the motion needs unless given)", ge=1, le=64
    )
    landmarks: int = setting(128, "points of the latent space between which coefficients are interpolated", ge=2)
    resolution: float | None = setting(None, "finest spacing used, Å (what the consensus reaches unless given)", gt=0)
    passes: int = setting(5, "passes over the images at the finest spacing", ge=1)
    focus_mask: Path | None = setting(None, "look for changes inside this mask only, .mrc on the grid of the map")
    scale: bool = setting(True, "let the contrast of every image vary")
    cache: Literal["auto", "memory", "disk"] = setting(
        "auto", "where the images' coefficients are kept; auto takes the disk when memory is short"
    )
    checkpoint_every: int | None = setting(None, "steps between checkpoints (one every half minute unless given)", ge=1)

    @field_validator("within", mode="plain")
    @classmethod
    def _number_or_auto(cls, value: object) -> int | str:
        if value != "auto" and not str(value).isdecimal():
            raise ValueError("give a number of coordinates, or auto")
        return "auto" if value == "auto" else int(str(value))

    @property
    def within_dim(self) -> int | None:
        """Latent coordinates within each state; None to choose."""
        return None if self.within == "auto" else self.within
