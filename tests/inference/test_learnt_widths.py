"""Widths of a prior that all particles tell together."""

import pytest
import torch

from frazil.inference.learnt_widths import learnt_widths
from frazil.inference.local_refinement import PriorWidths, Refined
from frazil.numerics.rotations import from_rotation_vector
from frazil.physics.pose import Pose

WIDEST = PriorWidths(10.0, 12.0, 500.0, 0.5)


def found(spread: PriorWidths, error: PriorWidths, prior: PriorWidths, count: int = 4000) -> tuple[Refined, Pose]:
    """What images with Gaussian errors tell of particles that differ by a spread, under a prior."""
    generator = torch.Generator().manual_seed(0)
    parts, deviations = [], []
    truth, noise, width = spread.as_tensor(), error.as_tensor(), prior.as_tensor()
    for number in range(7):
        true = truth[number] * torch.randn(count, generator=generator, dtype=torch.float64)
        seen = true + noise[number] * torch.randn(count, generator=generator, dtype=torch.float64)
        variance = 1 / (noise[number] ** -2 + width[number] ** -2)
        parts.append(variance * noise[number] ** -2 * seen)
        deviations.append(variance.sqrt())
    offset, deviation = torch.stack(parts, 1), torch.stack(deviations).expand(count, 7)
    known = Pose.random(count, 4.0, generator, torch.float64)
    known = Pose(known.rotation[:, None], known.shift[:, None])
    rotation = from_rotation_vector(torch.deg2rad(offset[:, None, :3])) @ known.rotation
    refined = Refined(
        torch.zeros(count, 1), torch.zeros(count, 1), Pose(rotation, known.shift + offset[:, None, 3:5]), offset[:, 5:6],
        offset[:, 6:].exp(), torch.diag_embed(deviation[:, None, :5] ** 2), deviation[:, None, 5:],
    )  # fmt: skip
    return refined, known


def test_widths_of_what_images_hardly_tell_are_found_at_once():
    prior = PriorWidths(5.0, 3.5, 290.0, 0.19)
    refined, known = found(PriorWidths(3.0, 2.0, 150.0, 0.1), PriorWidths(0.5, 0.5, 600.0, 0.2), prior)
    learnt = learnt_widths(refined, known, prior, WIDEST)
    # of poses after one step: the posterior variance counts noise a second time
    assert learnt.rotation == pytest.approx(3.0, rel=0.06) and learnt.shift == pytest.approx(2.0, rel=0.06)
    assert learnt.defocus == pytest.approx(150, rel=0.25)
    assert learnt.scale == pytest.approx(0.1, rel=0.1)


def test_widths_do_not_exceed_the_widest_and_fixed_ones_stay_fixed():
    refined, known = found(PriorWidths(3.0, 2.0, 400.0, 0.3), PriorWidths(0.5, 0.5, 100.0, 0.1), WIDEST)
    held = PriorWidths(rotation=1.0, shift=12.0, defocus=0.0, scale=0.2)
    prior = PriorWidths(1.0, 2.0, 0.0, 0.2)
    learnt = learnt_widths(refined, known, prior, held)
    assert (learnt.rotation, learnt.defocus, learnt.scale) == (1.0, 0.0, 0.2)


def test_widths_fall_to_half_at_once_and_no_lower():
    refined, known = found(PriorWidths(0.0, 0.0, 0.0, 0.0), PriorWidths(0.5, 0.5, 300.0, 0.1), WIDEST)
    assert learnt_widths(refined, known, WIDEST, WIDEST) == PriorWidths(5.0, 6.0, 250.0, 0.25)
