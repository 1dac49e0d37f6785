"""Half-maps of a state say what it is worth."""

from __future__ import annotations

import pytest
import torch

from frazil.inference.half_map_pair import decode_pair, pair_half_maps
from frazil.numerics.shells import low_pass
from frazil.physics.basis import BasisEnsemble
from frazil.physics.grid import Grid

GRID = Grid(48, 2.0)


def molecule() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.arange(48, dtype=torch.float32) - 24
    ball = torch.exp(-(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2) / (2 * 8.0**2))
    return ball * (1 + 0.5 * torch.randn(48, 48, 48, generator=generator))


def test_the_resolution_is_that_to_which_the_halves_share_their_signal() -> None:
    generator = torch.Generator().manual_seed(1)
    signal = low_pass(molecule(), 12.0, 1.0)
    a, b = (signal + 0.1 * torch.randn(48, 48, 48, generator=generator) for _ in range(2))
    pair = pair_half_maps(a, b, GRID, seed=0)
    assert pair.resolution() == pytest.approx(96 / 12, rel=0.15)
    local = pair.local_resolution()
    inside = pair.mask > 0.5
    assert (local[~inside] == 0).all() and float(local[inside].median()) == pytest.approx(96 / 12, rel=0.25)


def test_a_pair_is_both_ensembles_at_one_point() -> None:
    volumes = torch.stack((molecule(), molecule().roll(3, 2)))
    one, other = (
        BasisEnsemble(volumes, GRID),
        BasisEnsemble(volumes + torch.tensor([1.0, 0.0])[:, None, None, None], GRID),
    )
    point = torch.tensor([0.5])
    pair = decode_pair((one, other), point, GRID, seed=0)
    torch.testing.assert_close(pair.a, one.density(point).voxels(GRID))
    torch.testing.assert_close(pair.b, pair.a + 1)


@pytest.mark.parametrize("size", [32, 33])
def test_what_was_not_learnt_is_not_believed_however_well_it_correlates(size: int) -> None:
    volume = torch.randn(size, size, size, generator=torch.Generator().manual_seed(0))
    grid = Grid(size, 2.0)
    pair = pair_half_maps(volume, volume, grid, seed=0, mask=torch.ones_like(volume), finest=8.0)
    assert pair.resolution() == pytest.approx(8.0, rel=0.1)
    assert float(pair.local_resolution().min()) >= 8.0 - 1e-5
    assert len(pair.corrected()) == round(size * 2 / 8) + 1
