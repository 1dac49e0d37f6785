"""Volumes are learnt at a coarse band first, then at finer ones: which these are."""

from __future__ import annotations

# the first band, and by how much the next one is finer; a last step shorter than this is not worth a band of its own
FIRST_BAND, NEXT_BAND, WORTH_A_BAND = 10, 1.6, 1.25


def marching_bands(finest: int, first: int = FIRST_BAND) -> list[int]:
    """Band limits from coarse to the finest."""
    bands = [min(first, finest)]
    while bands[-1] < finest:
        following = round(bands[-1] * NEXT_BAND)
        bands.append(finest if following * WORTH_A_BAND > finest else following)
    return bands
