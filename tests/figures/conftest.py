"""A map whose surface, sections and directions are known."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def ball() -> np.ndarray:
    """A smooth ball of radius 8 voxels at the centre of a box of 32, density 1 inside."""
    axis = np.arange(32) - 16
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return (1 / (1 + np.exp(2 * (np.sqrt(x**2 + y**2 + z**2) - 8)))).astype(np.float32)
