"""Landmarks mark the path of a motion, not the noise of the latents that they are drawn from."""

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
    mean, covariance = circle.latents(torch.eye(len(circle.positions)))
    torch.testing.assert_close(mean, circle.positions)
    spread = (covariance * circle.metric[:, None] * circle.metric).to(torch.float64)
    out = torch.nn.functional.normalize(mean.double() * torch.tensor([1.0, 1.0, 0.0]), dim=1)
    along = torch.stack((-out[:, 1], out[:, 0], out[:, 2]), dim=1)
    wide, thin = (torch.einsum("ni,nij,nj->n", axis, spread, axis).median() for axis in (along, out))
    assert float(wide) > 4 * float(thin)
    assert float(torch.linalg.eigvalsh(spread).min()) > 0.005
