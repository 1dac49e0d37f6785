"""The outline of a molecule holds all of it and leaves the solvent."""

import pytest
import torch

from frazil.numerics.masks import soft_sphere
from frazil.physics.grid import Grid
from frazil.physics.outline import outline


def noisy(signal: torch.Tensor, noise: float) -> torch.Tensor:
    return signal + noise * torch.randn(signal.shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("box", [48, 49])
def test_the_outline_covers_the_molecule_and_leaves_the_solvent(box: int) -> None:
    texture = torch.randn(box, box, box, generator=torch.Generator().manual_seed(0))
    mask = outline(noisy(soft_sphere(box, 13, 2) * (1 + 0.5 * texture), 0.2), Grid(box, 2.0))
    assert float(mask[soft_sphere(box, 12, 0) > 0.5].min()) > 0.95
    assert float(mask[soft_sphere(box, 22, 0) < 0.5].max()) < 0.05


@pytest.mark.parametrize("box", [64, 65])
def test_one_very_dense_spot_does_not_take_the_rest_out_of_the_outline(box: int) -> None:
    """A heavy atom eight times as dense as the molecule that it sits in."""
    body, spot = soft_sphere(box, 18, 2), soft_sphere(box, 3, 1)
    mask = outline(noisy(body + 7 * spot, 0.1), Grid(box, 2.5))
    assert float((mask * (body > 0.5)).sum() / (body > 0.5).sum()) > 0.95
    assert float(mask[soft_sphere(box, 27, 0) < 0.5].max()) < 0.05
