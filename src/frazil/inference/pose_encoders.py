"""Networks that look at an image and say from where it was seen: amortised poses.

An encoder has one or several heads, each of which guesses a pose. An image of noise and a molecule of low contrast fits two
views nearly as well, so a head that has chosen the wrong one finds no way to the right one by small steps. Two things
help: the image is also shown turned or mirrored, which asks the heads again from the other side (the symmetric loss of
Levy et al., CryoAI and CryoFIRE 2022), and of all guesses only the best are held to account (`responsibilities`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from frazil.inference.posteriors import LatentPosterior
from frazil.numerics.fourier import HalfPlane, coefficients_to_images, mirrored_coefficients
from frazil.numerics.rotations import from_six_numbers
from frazil.physics.pose import Pose

Mirror = Literal["no", "half_turn", "flip"]

# six numbers of the rotation and two of the shift
NUMBERS_OF_A_POSE = 8


@final
@dataclass(frozen=True)
class Guesses:
    """What an encoder says of images, several times for each.

    Attributes:
        pose: of every image and guess. latent: posterior of the conformation that goes with each guess; without
            coordinates where there are none.
    """

    pose: Pose
    latent: LatentPosterior

    @staticmethod
    def side_by_side(first: Guesses, second: Guesses) -> Guesses:
        """The guesses of both for the same images."""
        return Guesses(
            Pose(
                torch.cat((first.pose.rotation, second.pose.rotation), 1),
                torch.cat((first.pose.shift, second.pose.shift), 1),
            ),
            LatentPosterior(
                torch.cat((first.latent.mean, second.latent.mean), 1),
                torch.cat((first.latent.log_variance, second.latent.log_variance), 1),
            ),
        )


class PoseEncoder(nn.Module, ABC):
    """Image to guesses of its pose and conformation. Images come as half-plane coefficients, standardised and phase-flipped.

    Attributes:
        heads: guesses per image. latent_dim: coordinates of the conformation. pixel_size: Å; networks speak of pixels.
    """

    def __init__(self, heads: int, latent_dim: int, pixel_size: float) -> None:
        super().__init__()
        self.heads, self.latent_dim, self.pixel_size = heads, latent_dim, pixel_size

    @abstractmethod
    def numbers(self, coefficients: Complex[Tensor, "batch coefficients"]) -> Float[Tensor, "batch numbers"]:
        """`outputs` numbers for every image."""

    @property
    def outputs(self) -> int:
        """How many numbers say all guesses of one image."""
        return self.heads * NUMBERS_OF_A_POSE + 2 * self.latent_dim

    def forward(self, coefficients: Complex[Tensor, "batch coefficients"]) -> Guesses:
        """One guess per head: rotation from six numbers (Zhou et al. 2019), shift, and a latent that the heads share."""
        numbers = self.numbers(coefficients)
        poses = numbers[:, : self.heads * NUMBERS_OF_A_POSE].unflatten(1, (self.heads, NUMBERS_OF_A_POSE))
        latent = numbers[:, None, self.heads * NUMBERS_OF_A_POSE :].expand(-1, self.heads, -1)
        mean, log_variance = latent.chunk(2, dim=-1)
        pose = Pose(from_six_numbers(poses[..., :6]), poses[..., 6:] * self.pixel_size)
        return Guesses(pose, LatentPosterior(mean, log_variance))


@final
class ConvolutionalPoseEncoder(PoseEncoder):
    """Convolutions on the real image (CryoFIRE): blocks of conv (C), ReLU, conv (2C), ReLU, average of 2 x 2, GroupNorm.

    Args:
        layout: half-plane of the images. depth: blocks; no more than leave a map of 2 x 2. channels: C of the first block,
            doubled from block to block. kernel_size: of all convolutions, odd.
    """

    def __init__(
        self,
        layout: HalfPlane,
        heads: int,
        latent_dim: int,
        pixel_size: float,
        *,
        depth: int = 6,
        channels: int = 16,
        kernel_size: int = 3,
    ) -> None:
        super().__init__(heads, latent_dim, pixel_size)
        self.layout = layout
        blocks: list[nn.Module] = []
        side, before = layout.box_size, 1
        for block in range(depth):
            if side // 2 < 2:
                break
            inner = channels * 2**block
            blocks += [
                nn.Conv2d(before, inner, kernel_size, padding=kernel_size // 2),
                nn.ReLU(),
                nn.Conv2d(inner, 2 * inner, kernel_size, padding=kernel_size // 2),
                nn.ReLU(),
                nn.AvgPool2d(2),
                nn.GroupNorm(2, 2 * inner),
            ]
            side, before = side // 2, 2 * inner
        self.blocks = nn.Sequential(*blocks)
        # one valid convolution for each head is one linear layer of the remaining map for all
        self.head = nn.Linear(before * side * side, self.outputs)

    def numbers(self, coefficients: Complex[Tensor, "batch coefficients"]) -> Float[Tensor, "batch numbers"]:
        """`outputs` numbers for every image."""
        images = coefficients_to_images(coefficients, self.layout) * self.layout.box_size
        return self.head(self.blocks(images[:, None]).flatten(1))


@final
class PerceptronPoseEncoder(PoseEncoder):
    """A residual perceptron of the coefficients out to a band: twenty times as fast as convolutions on a processor.

    ``h = relu(norm(E x))``, then ``h = h + relu(norm(W h))`` for every further layer. Normalised layers take ten times the
    learning rate of plain ones.

    Args:
        coefficients: how many of the half-plane are read, a prefix. width, layers: of the perceptron.
    """

    def __init__(
        self, coefficients: int, heads: int, latent_dim: int, pixel_size: float, *, width: int = 512, layers: int = 3
    ) -> None:
        super().__init__(heads, latent_dim, pixel_size)
        self.coefficients = coefficients
        self.entry = nn.Linear(2 * coefficients, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.head = nn.Linear(width, self.outputs)

    def numbers(self, coefficients: Complex[Tensor, "batch coefficients"]) -> Float[Tensor, "batch numbers"]:
        """`outputs` numbers for every image."""
        read = coefficients[:, : self.coefficients]
        h = torch.relu(self.norms[0](self.entry(torch.cat((read.real, read.imag), dim=-1))))
        for layer, norm in zip(self.hidden, list(self.norms)[1:], strict=True):
            h = h + torch.relu(norm(layer(h)))
        return self.head(h)


def mirrored_images(
    coefficients: Complex[Tensor, "batch coefficients"], layout: HalfPlane, mirror: Mirror
) -> Complex[Tensor, "batch coefficients"]:
    """The images as the second path sees them: turned by half a turn in the plane, or mirrored left to right."""
    return mirrored_coefficients(coefficients, layout) if mirror == "flip" else coefficients.conj().resolve_conj()


def mirrored_back(pose: Pose, mirror: Mirror) -> Pose:
    """The poses of images from the poses of their mirrored selves.

    A half turn in the plane is ``diag(-1, -1, 1) R`` with the shift negated. Mirrored left to right, an image is the view
    from behind, ``diag(-1, 1, -1) R``: columns of voxels have the same sum from both ends. Only x of its shift is negated.
    """
    turn = pose.rotation.new_tensor((-1.0, 1.0, -1.0) if mirror == "flip" else (-1.0, -1.0, 1.0))
    return Pose(turn[:, None] * pose.rotation, pose.shift * turn[:2])


def guess_both_ways(
    encoder: PoseEncoder, coefficients: Complex[Tensor, "batch coefficients"], layout: HalfPlane, mirror: Mirror
) -> Guesses:
    """The guesses of all heads for the images and, unless ``mirror`` is "no", for their mirrored selves: twice as many."""
    if mirror == "no":
        return encoder(coefficients)
    count = coefficients.shape[0]
    both = encoder(torch.cat((coefficients, mirrored_images(coefficients, layout, mirror))))
    second = Guesses(mirrored_back(both.pose[count:], mirror), both.latent[count:])
    return Guesses.side_by_side(Guesses(both.pose[:count], both.latent[:count]), second)


def responsibilities(
    errors: Float[Tensor, "batch paths"], softness: float, pixels: float
) -> Float[Tensor, "batch paths"]:
    """How much each guess of an image counts: all for the best (softness 0), or as its likelihood says.

    ``exp(-pixels (e - e_min) / (2 softness e_min))``, normalised: the least error itself estimates the noise, and
    softness 1 is the posterior over the guesses. Nothing flows back through them.

    Args:
        errors: mean squared error of each. pixels: over how many independent numbers.
    """
    least, best = errors.detach().min(dim=1, keepdim=True)
    if softness == 0:
        return torch.zeros_like(errors).scatter(1, best, 1.0)
    return torch.softmax(-pixels * (errors.detach() - least) / (2 * softness * least.clamp(min=1e-30)), dim=1)
