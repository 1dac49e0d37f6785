"""What states differ by is believed as far as half-sets agree, and states lend each other what they share."""

import torch
from torch import Tensor

from frazil.numerics.spectrum_table import table_layout
from frazil.reconstruct.agreement import Agreement, directions_between, voxels_of_shells
from frazil.reconstruct.maximisation import LEAST_CORRELATION

LAYOUT = table_layout(8)
SHARE = torch.tensor([0.5, 0.02, 0.48])


def halves(*growth: float, noise: float = 0.5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Three molecules of which each has what the one before it has and more, and their maps in two halves.

    A map's noise is that of an average over as many images as its share.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(LAYOUT.count, 2, 3, generator=generator)
    parts = parts * torch.tensor([10.0, *growth])
    true = parts.cumsum(2)
    error = noise / SHARE.sqrt()
    a, b = (true + error * torch.randn(true.shape, generator=generator) for _ in range(2))
    return true, a, b


def squared_error(found: Tensor, true: Tensor) -> Tensor:
    return (found - true).square().mean((0, 1))


def test_maps_of_a_half_are_as_good_as_the_linear_estimate_with_the_true_covariance() -> None:
    true, a, b = halves(0.5, 2.0)
    agreement = Agreement.between(a, b, SHARE, LAYOUT)
    found = squared_error(agreement.of_half(a, SHARE, LAYOUT), true)
    # E[x | a] = S (S + N)^-1 a with S of the cumulative sums and N of the averages
    sums = torch.tril(torch.ones(3, 3))
    signal = sums @ torch.diag(torch.tensor([100.0, 0.25, 4.0])) @ sums.T
    gain = signal @ torch.linalg.inv(signal + torch.diag(0.25 / SHARE))
    best = squared_error(a @ gain.T, true)
    torch.testing.assert_close(found, best, rtol=0.15, atol=0)


def test_a_small_state_takes_from_its_neighbours_what_it_shares_with_them() -> None:
    true, a, b = halves(0.5, 2.0)
    found = Agreement.between(a, b, SHARE, LAYOUT).of_half(a, SHARE, LAYOUT)
    mean = (a * SHARE).sum(2)
    # the best that shrinking the state's own difference from the mean could give
    own = a[..., 1] - mean
    wanted = true[..., 1] - mean
    alone = mean + own * (own * wanted).mean() / own.square().mean()
    assert float(squared_error(found, true)[1]) < 0.8 * float((alone - true[..., 1]).square().mean())


def test_both_halves_together_are_nearer_the_truth_than_either() -> None:
    true, a, b = halves(0.5, 2.0)
    agreement = Agreement.between(a, b, SHARE, LAYOUT)
    shrunk = replace_mean(agreement)
    both = squared_error(shrunk.of_both(a, b, SHARE, LAYOUT), true)
    assert bool((both < squared_error(shrunk.of_half(a, SHARE, LAYOUT), true)).all())


def replace_mean(agreement: Agreement) -> Agreement:
    """With means of both halves that are perfect: nothing to give back to them."""
    return Agreement(torch.ones_like(agreement.mean), agreement.directions, agreement.difference)


def test_what_halves_do_not_agree_on_is_hardly_believed() -> None:
    _, a, b = halves(0.0, 0.0)
    found = Agreement.between(a, b, SHARE, LAYOUT).of_half(a, SHARE, LAYOUT)
    left = (found - (found * SHARE).sum(2, keepdim=True)).square().mean()
    there = (a - (a * SHARE).sum(2, keepdim=True)).square().mean()
    assert float(left) < 0.03 * float(there)


def test_caution_believes_less_and_least_is_left() -> None:
    _, a, b = halves(0.5, 2.0)
    agreement = Agreement.between(a, b, SHARE, LAYOUT)
    cautious = agreement.cautious(6.0)
    assert bool((cautious.difference <= agreement.difference.clamp(min=0) + 1e-6).all())
    table = Agreement.between(a, b, SHARE, LAYOUT).cautious(1e6).of_half(a, SHARE, LAYOUT)
    mean = (a * SHARE).sum(2, keepdim=True)
    torch.testing.assert_close(table - mean, LEAST_CORRELATION * (a - mean), atol=2e-3, rtol=1e-3)


def test_one_state_has_nothing_to_differ_from() -> None:
    _, a, b = halves(0.5, 2.0)
    alone = torch.ones(1)
    agreement = Agreement.between(a[..., :1], b[..., :1], alone, LAYOUT)
    torch.testing.assert_close(agreement.of_half(a[..., :1], alone, LAYOUT), a[..., :1])
    assert agreement.difference.shape[1] == 0


def test_directions_are_orthonormal_and_leave_the_mean_out() -> None:
    found = directions_between(SHARE)
    torch.testing.assert_close(found.T @ found, torch.eye(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(SHARE.sqrt() @ found, torch.zeros(2), atol=1e-5, rtol=0)


def test_every_voxel_lies_in_one_shell() -> None:
    rows = torch.cat(voxels_of_shells(LAYOUT))
    assert torch.equal(rows.sort().values, torch.arange(LAYOUT.count))
    for shell, voxels in enumerate(voxels_of_shells(LAYOUT)):
        assert bool((LAYOUT.nearest_shell[voxels] == shell).all())
