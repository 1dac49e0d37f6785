"""How much images have of a piece of density: one of two amounts, told from each other by a mixture."""

import pytest
import torch
from torch import Tensor

from frazil.reconstruct.pieces import Amounts, pieces_of, window


def told(amounts: Tensor, precision: float, seed: int) -> tuple[Tensor, Tensor]:
    """What images say whose amounts of one piece are measured with this precision."""
    noise = torch.randn(len(amounts), 1, generator=torch.Generator().manual_seed(seed))
    curvature = torch.full((len(amounts), 1), precision)
    return curvature * amounts[:, None] + precision**0.5 * noise, curvature


def test_two_amounts_are_found_with_their_shares() -> None:
    has = torch.arange(2000) % 10 == 0
    said = told(torch.where(has, 1.5, -0.2), 9.0, 1)
    found = Amounts.fitted(*said)
    order = found.amount[0].argsort()
    torch.testing.assert_close(found.amount[0, order], torch.tensor([-0.2, 1.5]), atol=0.06, rtol=0)
    torch.testing.assert_close(found.share[0, order], torch.tensor([0.9, 0.1]), atol=0.01, rtol=0)
    members = found.members(*said)[:, 0, order[1]]
    assert float(((members > 0.5) == has).float().mean()) > 0.99


def test_two_amounts_explain_other_images_no_better_where_all_have_the_same() -> None:
    found = Amounts.fitted(*told(torch.ones(2000), 9.0, 2))
    gain = found.gain(*told(torch.ones(2000), 9.0, 3))
    assert float(gain.mean()) < 2 * float(gain.std()) / 2000**0.5


def test_the_gain_is_the_log_likelihood_of_two_amounts_against_one() -> None:
    amounts = Amounts(torch.tensor([[0.7, 0.3]]), torch.tensor([[0.0, 2.0]]), torch.tensor([0.5]))
    slope, curvature = torch.tensor([[1.0], [-2.0]]), torch.tensor([[2.0], [0.5]])
    likelihood = [torch.exp(slope * w - curvature * w**2 / 2) for w in (0.0, 2.0, 0.5)]
    wanted = torch.log((0.7 * likelihood[0] + 0.3 * likelihood[1]) / likelihood[2])
    torch.testing.assert_close(amounts.gain(slope, curvature), wanted)


@pytest.mark.parametrize("box", [32, 33])
def test_windows_are_centred_where_there_is_density(box: int) -> None:
    density = 3.0 * window(box, torch.tensor([10.0, 20.0, 16.0]), 2.0)
    centres = pieces_of(density)
    nearest = (centres - torch.tensor([10.0, 20.0, 16.0])).norm(dim=1)
    # spacing is two widths of a window, here 3 voxels
    assert float(nearest.min()) < 3 and float(nearest.max()) < 10


def test_a_window_falls_to_exp_minus_a_half_at_its_width() -> None:
    shape = window(21, torch.tensor([10.0, 10.0, 10.0]), 3.0)
    assert float(shape[10, 10, 10]) == 1
    assert float(shape[13, 10, 10]) == pytest.approx(float(torch.exp(torch.tensor(-0.5))))
