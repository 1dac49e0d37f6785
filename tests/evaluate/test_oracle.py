"""Maps from images with everything known."""

import numpy as np
import pytest
import torch

from frazil.data.truth import Truth
from frazil.evaluate.oracle import signal_to_noise, true_distance
from frazil.inference.half_map import HalfMap
from frazil.physics.grid import Grid


def test_half_maps_that_agree_by_a_third_carry_as_much_signal_as_noise_together():
    # FSC 1/3: in each half the noise is twice the signal, in their mean they are equal
    assert torch.allclose(signal_to_noise(torch.full((9,), 1 / 3)), torch.ones(9), atol=1e-5)


def test_the_distance_of_a_circular_coordinate_goes_the_short_way_round():
    latent = np.array([[0.0, 0.5], [0.9, 0.5], [0.5, 0.5]])
    truth = Truth(latent, np.zeros(3, int), np.zeros((3, 3, 3)), np.zeros((3, 2)), facts={"circular": [True, False]})
    assert true_distance(truth, np.array([0.05, 0.5])) == pytest.approx([0.05, 0.15, 0.45])


@pytest.mark.parametrize("box", [16, 17])
def test_a_wiener_filter_halves_what_has_as_much_noise_as_signal_and_leaves_what_has_none(box):
    half = HalfMap.empty(Grid(box, 2.0))
    generator = torch.Generator().manual_seed(0)
    half.sums[..., :2] = torch.randn(half.sums[..., :2].shape, generator=generator)
    half.sums[..., 2] = 3.0  # every direction seen alike
    plain, shells = half.volume(), half.grid.last_shell + 1
    assert torch.allclose(half.volume(torch.full((shells,), 1.0)), plain / 2, atol=1e-6)
    assert torch.allclose(half.volume(torch.full((shells,), 1e9)), plain, atol=1e-6)
