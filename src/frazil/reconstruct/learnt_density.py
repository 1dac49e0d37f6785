"""Densities that are learnt by gradients while poses are still moving: voxels, or a neural field."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from frazil.numerics.fourier import HalfPlane
from frazil.numerics.masks import soft_sphere
from frazil.numerics.perceptron import PerceptronWeights
from frazil.numerics.slices import extract_slices, padded_spectrum
from frazil.physics.field import FieldNetwork, slice_points
from frazil.physics.grid import Grid

PADDING = 2
# the first map is a ball of this share of the box with noise of this share on it: something must tell views apart
FIRST_RADIUS, FIRST_NOISE = 0.16, 0.5
# the map is zero beyond this share of half the box, and falls to it over so many voxels
OUTER_RADIUS, OUTER_EDGE = 0.875, 2.0
MATCHED_SHELLS = 3


class Slices(ABC):
    """Unshifted central slices of a density at one moment of training.

    Attributes:
        parameters: tensors that gradients of slices flow into, besides the rotation and the context.
    """

    parameters: Sequence[Tensor]

    @abstractmethod
    def context(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch context"]:
        """What slices must know of a conformation."""

    @abstractmethod
    def __call__(
        self, rotation: Float[Tensor, "batch 3 3"], context: Float[Tensor, "batch context"]
    ) -> Complex[Tensor, "batch coefficients"]:
        """Coefficients of the views, in the unit of standardised images."""


class LearntDensity(nn.Module, ABC):
    """A density with weights to be trained."""

    @abstractmethod
    def slices(self, layout: HalfPlane) -> Slices:
        """Slices of the density as it is now, out to the band of the half-plane."""


@final
class LearntVoxels(LearntDensity):
    """A rigid map whose voxels are trained. Starts as a soft ball with noise.

    Args:
        grid: of the images. generator: draws the noise.
    """

    ball: Tensor
    unit: Tensor

    def __init__(self, grid: Grid, generator: torch.Generator | None = None) -> None:
        super().__init__()
        n = grid.box_size
        x = (torch.arange(n) - n // 2).square()
        radius = (x[:, None, None] + x[:, None] + x).sqrt()
        first = torch.exp(-0.5 * (radius / (FIRST_RADIUS * n)).square())
        first = first * (1 + FIRST_NOISE * torch.randn(n, n, n, generator=generator))
        # voxels are about one in this unit, so that one learning rate serves all boxes and contrasts
        self.values = nn.Parameter(first)
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("ball", soft_sphere(n, OUTER_RADIUS * n / 2, OUTER_EDGE), persistent=False)

    def map(self) -> Float[Tensor, "n n n"]:
        """The voxels in the unit of standardised images."""
        return self.values * self.ball * self.unit

    @torch.no_grad()
    def match(
        self,
        images: Complex[Tensor, "batch coefficients"],
        transfer: Float[Tensor, "batch coefficients"],
        layout: HalfPlane,
    ) -> None:
        """Give the first map the power of the images in the lowest shells, where there is more signal than noise."""
        low = (layout.radius > 0) & (layout.radius < MATCHED_SHELLS + 0.5)
        first = self.slices(layout)(torch.eye(3).to(images.real)[None], images.real[:1, :0])
        predicted = (first * transfer)[:, low].abs().square().sum()
        self.unit.mul_((images[:, low].abs().square().sum() / predicted).sqrt())

    def slices(self, layout: HalfPlane) -> VoxelSlices:
        """Slices of the padded spectrum, which is made once for all of them."""
        return VoxelSlices(padded_spectrum(self.map(), layout.band, PADDING), layout)


@final
class VoxelSlices(Slices):
    """Slices of a spectrum; a rigid map has no context."""

    def __init__(self, spectrum: Complex[Tensor, "z y x"], layout: HalfPlane) -> None:
        self.spectrum, self.layout, self.parameters = spectrum, layout, [spectrum]

    def context(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch context"]:
        """Nothing."""
        return latent[:, :0].detach()

    def __call__(
        self, rotation: Float[Tensor, "batch 3 3"], context: Float[Tensor, "batch context"]
    ) -> Complex[Tensor, "batch coefficients"]:
        """Trilinear interpolation: see `frazil.numerics.slices`."""
        return extract_slices(self.spectrum, rotation, self.layout, float(PADDING))


@final
class LearntField(LearntDensity):
    """A neural field of frequency and conformation.

    Args:
        network: the field. precision: of its matrix products, None for float32.
    """

    def __init__(self, network: FieldNetwork, precision: torch.dtype | None = None) -> None:
        super().__init__()
        self.network, self.precision = network, precision

    def slices(self, layout: HalfPlane) -> FieldSlices:
        """The network on central slices, with weights cast once for all of them."""
        return FieldSlices(self.network, self.network.perceptron.weights(self.precision), layout)


@final
class FieldSlices(Slices):
    """A network at the frequencies of slices; the context is what the latent adds to its first layer."""

    def __init__(self, network: FieldNetwork, weights: PerceptronWeights, layout: HalfPlane) -> None:
        self.network, self.weights, self.layout = network, weights, layout
        self.parameters = weights.tensors()

    def context(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch context"]:
        """What the latent adds to the first layer at all frequencies."""
        return self.network.perceptron.entry_bias(latent)

    def __call__(
        self, rotation: Float[Tensor, "batch 3 3"], context: Float[Tensor, "batch context"]
    ) -> Complex[Tensor, "batch coefficients"]:
        """The network at every frequency of the views."""
        points = slice_points(rotation, self.layout, 1 / self.network.grid.box_size)
        return torch.view_as_complex(self.network.transform(points, self.weights, context).contiguous())
