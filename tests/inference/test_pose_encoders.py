"""Encoders guess poses, of an image and of its mirrored self."""

import pytest
import torch

from frazil.inference.pose_encoders import (
    ConvolutionalPoseEncoder,
    PerceptronPoseEncoder,
    PoseEncoder,
    guess_both_ways,
    mirrored_back,
    mirrored_images,
    responsibilities,
)
from frazil.numerics.fourier import coefficients_to_images, half_plane, images_to_coefficients
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose

PIXEL = 3.0


def encoders(box_size: int, heads: int = 2, latent_dim: int = 1) -> list[PoseEncoder]:
    torch.manual_seed(0)
    layout = half_plane(box_size)
    return [
        PerceptronPoseEncoder(layout.count, heads, latent_dim, PIXEL, width=16),
        ConvolutionalPoseEncoder(layout, heads, latent_dim, PIXEL, channels=4),
    ]


def coefficients(box_size: int, count: int = 5) -> torch.Tensor:
    return torch.randn(count, half_plane(box_size).count, dtype=torch.complex64)


@pytest.mark.parametrize("box_size", [16, 17, 22])
def test_every_head_gives_a_rotation_a_shift_and_a_latent(box_size: int) -> None:
    for encoder in encoders(box_size, heads=3):
        guesses = encoder(coefficients(box_size))
        rotation = guesses.pose.rotation
        assert rotation.shape == (5, 3, 3, 3)
        torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(5, 3, 3, 3), atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(5, 3))
        assert guesses.pose.shift.shape == (5, 3, 2)
        assert guesses.latent.mean.shape == guesses.latent.log_variance.shape == (5, 3, 1)


def test_images_of_a_batch_do_not_see_each_other() -> None:
    images = coefficients(16)
    for encoder in encoders(16):
        together, alone = encoder(images).pose.rotation[2], encoder(images[2:3]).pose.rotation[0]
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_gradients_of_a_pose_reach_every_weight_of_its_encoder() -> None:
    for encoder in encoders(16, latent_dim=0):
        pose = encoder(coefficients(16)).pose
        (pose.rotation[..., 0, 0].sum() + pose.rotation[..., 1, 2].sum() + pose.shift.sum()).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize("box_size", [16, 17])
@pytest.mark.parametrize("mirror", ["half_turn", "flip"])
def test_mirrored_images_are_turned_about_the_centre_of_the_box(box_size: int, mirror: str) -> None:
    layout = half_plane(box_size)
    images = coefficients_to_images(coefficients(box_size), layout)
    centre = box_size // 2
    index = (2 * centre - torch.arange(box_size)) % box_size  # band-limited images are periodic
    expected = images[:, :, index] if mirror == "flip" else images[:, index][:, :, index]
    found = coefficients_to_images(mirrored_images(images_to_coefficients(images, layout), layout, mirror), layout)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("box_size", [20, 21])
@pytest.mark.parametrize("mirror", ["half_turn", "flip"])
def test_a_mirrored_image_is_the_view_from_the_pose_taken_back(box_size: int, mirror: str) -> None:
    generator = torch.Generator().manual_seed(3)
    grid = Grid(box_size, 4.0)
    layout = grid.half_plane()
    molecule = Gaussians(
        12 * torch.randn(7, 3, generator=generator), torch.rand(7, generator=generator), torch.full((7,), 6.0)
    )
    pose = Pose.random(4, 8.0, generator)
    mirrored = mirrored_images(molecule.project(pose, grid, layout), layout, mirror)
    torch.testing.assert_close(
        mirrored, molecule.project(mirrored_back(pose, mirror), grid, layout), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("mirror", ["half_turn", "flip"])
def test_the_second_path_is_the_encoder_on_the_mirrored_image(mirror: str) -> None:
    images, layout = coefficients(16), half_plane(16)
    for encoder in encoders(16):
        both = guess_both_ways(encoder, images, layout, mirror)
        first, second = encoder(images), encoder(mirrored_images(images, layout, mirror))
        back = mirrored_back(second.pose, mirror)
        torch.testing.assert_close(both.pose.rotation, torch.cat((first.pose.rotation, back.rotation), 1))
        torch.testing.assert_close(both.pose.shift, torch.cat((first.pose.shift, back.shift), 1))
        torch.testing.assert_close(both.latent.mean, torch.cat((first.latent.mean, second.latent.mean), 1))


def test_without_a_mirror_there_is_one_path() -> None:
    for encoder in encoders(16, heads=3):
        assert guess_both_ways(encoder, coefficients(16), half_plane(16), "no").pose.shift.shape == (5, 3, 2)


def test_without_softness_the_best_guess_counts_alone() -> None:
    shares = responsibilities(torch.tensor([[3.0, 1.0, 2.0], [0.5, 0.7, 0.6]]), 0.0, 10.0)
    assert shares.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_soft_shares_are_the_posterior_of_gaussian_noise() -> None:
    errors, pixels = torch.tensor([[1.0, 1.02]]), 200.0
    # the variance of the noise is that of the best residual, 1: log likelihoods differ by 200 * 0.02 / 2
    expected = torch.tensor([1.0, torch.exp(torch.tensor(-2.0)).item()])
    torch.testing.assert_close(responsibilities(errors, 1.0, pixels)[0], expected / expected.sum(), atol=1e-4, rtol=0)


def test_depth_is_what_leaves_a_map_of_two_by_two() -> None:
    encoder = ConvolutionalPoseEncoder(half_plane(32), 1, 0, PIXEL, depth=6, channels=4)
    assert encoder.head.in_features == 2 * 2 * 4 * 2**4
