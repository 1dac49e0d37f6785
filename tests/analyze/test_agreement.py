"""A motion that the images show is told from one that they do not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from frazil.analyze.agreement import Agreement, compare_with_images, masked_correlation

N = 24


def bump(x: float, y: float = 0.0) -> Tensor:
    axis = torch.arange(N, dtype=torch.float32) - N // 2
    squared = (axis[None, None, :] - x) ** 2 + (axis[None, :, None] - y) ** 2 + axis[:, None, None] ** 2
    return torch.exp(-squared / 8)


def states(truth: list[Tensor], noise: float) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [tuple(v + noise * torch.randn(N, N, N, generator=generator) for _ in "ab") for v in truth]  # type: ignore[misc]


TRUTH = [bump(-4) + bump(x) for x in torch.linspace(1, 4, 8).tolist()]
MASK = (TRUTH[0] + TRUTH[7] > 0.05).float()


@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_a_model_that_is_right_agrees_whatever_the_noise(noise: float) -> None:
    found = compare_with_images(TRUTH, states(TRUTH, noise), MASK, 8.0, [100] * 8)
    assert found[0].shared_shell > 4, "a band in which the maps as a whole are one"
    assert found[0].score > 0.9 and found[-1].score > 0.9, "the outermost states move most"
    assert not any(one.flagged for one in found)
    assert found[0].verdict == "seen in the images"


def test_a_state_with_imagined_density_is_flagged_and_the_others_are_not() -> None:
    imagined = [*TRUTH]
    # the motion of one state goes the wrong way; what the states have in common stays
    imagined[7] = TRUTH[7] - 2.5 * (TRUTH[7] - TRUTH[3]) + 0.6 * bump(-4, 3)
    found = compare_with_images(imagined, states(TRUTH, 0.05), MASK, 8.0, [100] * 8)
    assert found[7].flagged and found[7].verdict == "not seen in the images"
    assert not any(one.flagged for one in found[:7])
    assert found[3].verdict == "hardly any", "a state in the middle has no motion of its own"


def test_images_that_are_too_noisy_accuse_nobody() -> None:
    found = compare_with_images(TRUTH, states([TRUTH[0]] * 8, 3.0), MASK, 8.0, [5] * 8)
    for one in found:
        assert one.verdict == "too noisy to tell" and math.isnan(one.score) and not one.flagged


def test_the_score_is_the_correlation_over_what_the_images_allow() -> None:
    assert Agreement(0.4, 0.8, 1.0, 10, 5.0).score == pytest.approx(0.5)
    assert Agreement(0.9, 0.8, 1.0, 10, 5.0).score == 1.0


def test_correlation_counts_voxels_as_the_mask_does() -> None:
    a = torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(0))
    b = a.clone()
    b[:4] = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(8, 8, 8)
    mask[4:] = 1
    assert masked_correlation(a, b, mask) == pytest.approx(1, abs=1e-5)
    assert masked_correlation(a, b, 1 - mask) < 0.3
    assert masked_correlation(a, torch.ones(8, 8, 8), mask) == 0
