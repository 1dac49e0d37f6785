"""Landmarks mark the path of a motion, not the noise of the latents that they are drawn from."""

from dataclasses import replace

import pytest
import torch

from frazil.reconstruct.nonlinear import Manifold, manifold_of

RADIUS, COUNT = 20.0, 3000


@pytest.fixture(scope="module")
def circle() -> Manifold:
    """Landmarks of a circle, one standard error of an image thick; a unit of latents is a tenth of that error."""
    generator = torch.Generator().manual_seed(5)
    angle = 2 * torch.pi * torch.rand(COUNT, generator=generator)
    path = RADIUS * torch.stack((angle.cos(), angle.sin(), torch.zeros(COUNT)), dim=1)
    latent = (path + torch.randn(COUNT, 3, generator=generator)) / 10
    return manifold_of(latent, torch.full((3,), 10.0), landmarks=96, volumes=None, seed=1)


def test_landmarks_lie_on_the_path_though_latents_scatter_about_it(circle):
    places = circle.positions * circle.metric
    off = torch.stack((places[:, :2].norm(dim=1) - RADIUS, places[:, 2]), dim=1)
    assert float(off.square().mean().sqrt()) < 0.25


def test_an_image_of_one_landmark_may_lie_anywhere_in_its_cell_and_hardly_beside_the_path(circle):
    count = len(circle.positions)
    mean, covariance = (found[:count] for found in circle.latents(torch.eye(count).repeat(COUNT // count, 1)))
    torch.testing.assert_close(mean, circle.positions)
    spread = (covariance * circle.metric[:, None] * circle.metric).to(torch.float64)
    out = torch.nn.functional.normalize(mean.double() * torch.tensor([1.0, 1.0, 0.0]), dim=1)
    along = torch.stack((-out[:, 1], out[:, 0], out[:, 2]), dim=1)
    wide, thin = (torch.einsum("ni,nij,nj->n", axis, spread, axis).median() for axis in (along, out))
    assert float(wide) > 4 * float(thin)
    assert float(torch.linalg.eigvalsh(spread).min()) > 0.9 * circle.functions.shape[1] / COUNT


def test_stated_errors_stay_positive_where_shares_are_rounded(circle):
    far = replace(circle, positions=circle.positions + 100)
    shares = torch.softmax(-0.5 * torch.cdist(circle.positions * 10, circle.positions * 10).square(), dim=1) * (
        1 + 1e-6
    )
    covariance = far.latents(shares)[1].to(torch.float64)
    torch.testing.assert_close(covariance, circle.latents(shares)[1].to(torch.float64), rtol=1e-3, atol=1e-6)
    assert float(torch.linalg.eigvalsh(covariance).min()) > 0


@pytest.mark.parametrize("error", [0.1, 0.3, 0.5, 1.0, 2.0])
def test_stated_variance_is_the_error_found_between_landmarks_however_far_apart_they_are(error):
    """A straight path of evenly spaced landmarks; images lie anywhere between them and tell their place to ``error``."""
    generator = torch.Generator().manual_seed(3)
    places = torch.arange(-20.0, 21.0)
    positions = torch.stack((places, torch.zeros(41)), dim=1)
    line = Manifold(positions / 4, torch.full((2,), 4.0), torch.zeros(41, 1), torch.full((41,), 1 / 41), 1.0)
    truth = 10 * (torch.rand(20_000, generator=generator) - 0.5)
    seen = truth + error * torch.randn(20_000, generator=generator)
    mean, covariance = line.latents(torch.softmax(-0.5 * ((seen[:, None] - places) / error) ** 2, dim=1))
    found = (4 * mean[:, 0] - truth).square().mean()
    stated = 16 * covariance[:, 0, 0].mean()
    assert 0.9 < float(stated / found) < 1.2
