"""A small molecule of Gaussians that several tests look at."""

import pytest
import torch

from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid


def molecule_of_gaussians(grid: Grid, dtype: torch.dtype = torch.float64, count: int = 40) -> Gaussians:
    """Blobs in a ball whose diameter is 0.55 of the box, the usual box of 1.8 particle diameters."""
    generator = torch.Generator().manual_seed(5)
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1)
    radius = torch.rand(count, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    centres = direction * radius * (0.275 * grid.extent - 6.0)
    amplitudes = torch.rand(count, generator=generator, dtype=torch.float64) + 0.5
    sigmas = torch.full((count,), 1.2 * grid.pixel_size, dtype=torch.float64)
    return Gaussians(centres.to(dtype), amplitudes.to(dtype), sigmas.to(dtype))


@pytest.fixture
def molecule():
    """The function that makes the molecule for a grid."""
    return molecule_of_gaussians
