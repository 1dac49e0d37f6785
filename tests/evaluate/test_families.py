"""Families of maps: only what moves counts in difference maps."""

import pytest
import torch

from frazil.evaluate.maps import (
    areas_and_resolutions,
    correlation,
    difference_map_correlations,
    family_mask,
    spread,
)
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid

GRID = Grid(24, 3.0)


def family(distance: float) -> torch.Tensor:
    volumes = []
    for place in (-1.0, 0.0, 1.0):
        centres = torch.tensor([[0.0, 0, 0], [15.0, distance * place, 0]])
        volumes.append(Gaussians(centres, torch.tensor([50.0, 20.0]), torch.tensor([4.0, 4.0])).voxels(GRID))
    return torch.stack(volumes)


def test_a_rigid_reconstruction_has_no_difference_to_correlate():
    true = family(12.0)
    still = true.mean(0).expand(3, -1, -1, -1)
    assert correlation(still[0], true[0]) > 0.9
    assert difference_map_correlations(still, true) == pytest.approx([0, 0, 0], abs=1e-6)


def test_difference_maps_do_not_care_about_scale_or_a_common_part():
    true = family(12.0)
    decoded = 3 * true + torch.randn(24, 24, 24, generator=torch.Generator().manual_seed(0))
    assert difference_map_correlations(decoded, true) == pytest.approx([1, 1, 1], abs=1e-4)


def test_swapped_states_correlate_negatively():
    true = family(12.0)
    assert difference_map_correlations(true.flip(0), true)[0] < 0


def test_the_family_mask_holds_every_state_and_leaves_the_corner():
    volumes = family(12.0)
    mask = family_mask(volumes)
    assert float((volumes.sum(0) * mask).sum() / volumes.sum()) > 0.97
    assert float(mask[0, 0, 0]) == 0
    assert float(mask.max()) == 1


def test_a_true_map_reaches_the_perfect_area_and_two_pixels():
    areas, resolutions = areas_and_resolutions(family(12.0), family(12.0))
    assert torch.allclose(areas, torch.full((3,), 11 / 24))
    assert torch.equal(resolutions, torch.full((3,), 2.0))


def test_a_weighted_correlation_ignores_what_the_mask_leaves_out():
    a, b = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(8, 8, 8)
    mask[:4] = 1
    assert correlation(a, torch.where(mask > 0, a, b), mask) == pytest.approx(1)
    assert correlation(a, torch.ones(8, 8, 8)) == 0


def test_spread_is_of_the_population():
    assert spread(torch.tensor([1.0, 2.0, 6.0])) == pytest.approx({"mean": 3.0, "std": (14 / 3) ** 0.5, "median": 2.0})
