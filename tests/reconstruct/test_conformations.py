"""How well the two halves agree on a change is judged where the change is."""

import pytest
import torch

from frazil.physics.basis import BasisEnsemble
from frazil.physics.grid import Grid
from frazil.reconstruct.conformations import NOWHERE, half_map_curve

ENDS = torch.tensor([1.0]), torch.tensor([-1.0])


def halves(box: int, faint: float, noise: float) -> tuple[BasisEnsemble, BasisEnsemble]:
    """A dense ball that stands still and a faint one that moves far from it, with noise of its own in each half."""
    generator = torch.Generator().manual_seed(1)
    axis = (torch.arange(box) - box // 2).to(torch.float32)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")

    def ball(at: tuple[float, float, float], width: float) -> torch.Tensor:
        squared = (x - at[0] * box).square() + (y - at[1] * box).square() + (z - at[2] * box).square()
        return torch.exp(-squared / (2 * width**2))

    still = ball((-0.15, -0.15, 0), 3.0)
    left, right = (faint * ball((0.2, side, 0), 1.5) for side in (0.1, 0.22))
    volumes = torch.stack((still + (left + right) / 2, (right - left) / 2))
    grid = Grid(box, 3.0)
    a, b = (BasisEnsemble(volumes + noise * torch.randn(volumes.shape, generator=generator), grid) for _ in range(2))
    return a, b


@pytest.mark.parametrize("box", [48, 49])
def test_halves_agree_on_a_faint_part_that_moves_far_from_a_dense_one(box: int) -> None:
    curve, words = half_map_curve(halves(box, 0.1, 0.001), ENDS[0], 0.0, 0, beside=ENDS[1])
    assert float(curve[1:8].min()) > 0.9
    assert float(words.removesuffix(" Å")) < 18


def test_halves_agree_nowhere_on_a_change_that_is_noise() -> None:
    curve, words = half_map_curve(halves(48, 0.0, 0.01), ENDS[0], 0.0, 0, beside=ENDS[1])
    assert words == NOWHERE
    assert float(curve[1:].mean()) < 0.2
