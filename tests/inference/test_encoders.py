"""Encoders take coefficients to posteriors."""

import pytest
import torch

from frazil.inference.encoders import ConvolutionalEncoder, Encoder, MLPEncoder
from frazil.numerics.fourier import half_plane


def encoders(box_size: int) -> list[Encoder]:
    torch.manual_seed(0)
    layout = half_plane(box_size)
    return [MLPEncoder(layout.count, 3, 32, 2), ConvolutionalEncoder(layout, 3, 4)]


@pytest.mark.parametrize("box_size", [16, 17, 22])
def test_every_image_gets_a_mean_and_a_log_variance_per_latent(box_size: int) -> None:
    coefficients = torch.randn(5, half_plane(box_size).count, dtype=torch.complex64)
    for encoder in encoders(box_size):
        posterior = encoder(coefficients)
        assert posterior.mean.shape == posterior.log_variance.shape == (5, 3)


def test_images_of_a_batch_do_not_see_each_other() -> None:
    coefficients = torch.randn(5, half_plane(16).count, dtype=torch.complex64)
    for encoder in encoders(16):
        assert torch.allclose(encoder(coefficients).mean[2], encoder(coefficients[2:3]).mean[0], atol=1e-6)


def test_encoders_tell_an_image_from_its_mirror_image() -> None:
    coefficients = torch.randn(1, half_plane(16).count, dtype=torch.complex64)
    for encoder in encoders(16):
        assert not torch.allclose(encoder(coefficients).mean, encoder(coefficients.conj()).mean)
