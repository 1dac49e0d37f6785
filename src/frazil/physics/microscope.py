"""The forward model: from a density, a pose and optics to an image, its noise, its likelihood, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from frazil.numerics.fourier import HalfPlane, coefficients_to_images
from frazil.physics.density import Density
from frazil.physics.grid import Grid
from frazil.physics.noise import Noise
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose


@final
@dataclass(frozen=True)
class Microscope:
    """``y = T(optics) . P[R, t] V + n``: a density seen through optics, with noise.

    Attributes:
        density: what is looked at. noise: None for a perfect detector.
    """

    density: Density
    noise: Noise | None = None

    def image(
        self, pose: Pose, optics: Optics | None, grid: Grid, layout: HalfPlane | None = None
    ) -> Complex[Tensor, "batch coefficients"]:
        """Noise-free images as half-plane coefficients; without optics the CTF is 1."""
        layout = self._layout(pose, grid, layout)
        return _see(self.density.project(pose, grid, layout), optics, grid, layout)

    def sample(
        self, pose: Pose, optics: Optics | None, grid: Grid, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch n n"]:
        """Images in real space with a draw of the noise."""
        layout = self._layout(pose, grid, None)
        images = coefficients_to_images(self.image(pose, optics, grid, layout), layout)
        if self.noise is None:
            return images
        return images + self.noise.sample(images.shape[0], grid, generator).to(images)

    def log_likelihood(
        self,
        coefficients: Complex[Tensor, "batch coefficients"],
        pose: Pose,
        optics: Optics | None,
        grid: Grid,
        layout: HalfPlane | None = None,
    ) -> Float[Tensor, " batch"]:
        """Log probability density of images under the model, normalised.

        ``log p = -sum_k |y_k - T_k S_k|^2 / N_k + log(pi N_k)`` over complex coefficients; the origin is real and counts
        ``-|y - T S|^2 / (2 N) - log(2 pi N) / 2``.

        Raises:
            ValueError: if the microscope has no noise.
        """
        if self.noise is None:
            raise ValueError("a likelihood needs noise: give the microscope one")
        layout = self._layout(pose, grid, layout)
        residual = coefficients - self.image(pose, optics, grid, layout)
        power = self.noise.at(layout).to(residual.real)
        degrees = layout.weight.to(power)
        terms = degrees / 2 * (residual.abs().square() / power + power.log() + math.log(math.pi))
        constant = (degrees == 1).to(power) * (math.log(2.0) / 2)
        return -(terms + constant).sum(-1)

    def adjoint(
        self,
        coefficients: Complex[Tensor, "batch coefficients"],
        pose: Pose,
        optics: Optics | None,
        grid: Grid,
        layout: HalfPlane | None = None,
    ) -> Float[Tensor, "..."]:
        """The adjoint of `image` in the density's linear parameters: CTF-weighted backprojection."""
        layout = self._layout(pose, grid, layout)
        return self.density.backproject(_see_back(coefficients, optics, grid, layout), pose, grid, layout)

    @staticmethod
    def _layout(pose: Pose, grid: Grid, layout: HalfPlane | None) -> HalfPlane:
        return grid.half_plane(device=str(pose.rotation.device)) if layout is None else layout


def _see(coefficients: Tensor, optics: Optics | None, grid: Grid, layout: HalfPlane) -> Tensor:
    if optics is None:
        return coefficients
    if optics.has_beam_tilt:
        return coefficients * optics.transfer(grid, layout).to(coefficients.dtype)
    return coefficients * optics.ctf(grid, layout).to(coefficients.real.dtype)


def _see_back(coefficients: Tensor, optics: Optics | None, grid: Grid, layout: HalfPlane) -> Tensor:
    if optics is None:
        return coefficients
    if optics.has_beam_tilt:
        return coefficients * optics.transfer(grid, layout).conj().to(coefficients.dtype)
    return coefficients * optics.ctf(grid, layout).to(coefficients.real.dtype)
