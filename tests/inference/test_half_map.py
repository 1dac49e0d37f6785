"""A map from the sums of backprojection."""

import pytest
import torch

from frazil.inference.half_map import HalfMap
from frazil.physics.grid import Grid


@pytest.mark.parametrize("box", [24, 25])
@pytest.mark.parametrize("ratio", [torch.float32, torch.float64])
def test_sums_of_a_single_wave_give_that_wave_inside_the_sphere(box: int, ratio: torch.dtype) -> None:
    """All weights are one, and so is one coefficient: of the padded box's frequency 2 along x, half that of the map's."""
    half = HalfMap.empty(Grid(box, 2.0))
    half.sums[..., 2] = 1
    reach = half.sums.shape[2] - 1
    half.sums[reach, reach, 2, 0] = 1
    volume = half.volume(torch.full((half.grid.last_shell + 1,), 1e9, dtype=ratio))
    assert volume.dtype == ratio
    x = torch.arange(box, dtype=torch.float64) - box // 2
    wave = torch.cos(2 * torch.pi * 2 * x / (2 * box))
    near = slice(box // 2 - 4, box // 2 + 5)
    line = volume[box // 2, box // 2].double()
    falloff = torch.sinc(x / (2 * box)) ** 2
    expected = 2 * wave / (2 * box) ** 3 / falloff
    torch.testing.assert_close(line[near], expected[near], rtol=1e-4, atol=1e-9)
