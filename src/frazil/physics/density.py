"""Anything in three dimensions that can be projected.

A `Density` answers two questions: what does it look like from this pose (`project`), and what is it on a grid of voxels
(`voxels`). A pixel of a projection is the sum over the column of voxels behind it: the line integral divided by the
pixel size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Self, final

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from frazil.numerics.fourier import HalfPlane, fourier_resize, integer_frequencies
from frazil.numerics.slices import extract_slices, padded_spectrum
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose

# Gaussians handled at once, so that the table of plane waves stays in the cache
GAUSSIANS_AT_ONCE = 512


class Density(ABC):
    """A three-dimensional density that can be projected."""

    @abstractmethod
    def project(self, pose: Pose, grid: Grid, layout: HalfPlane | None = None) -> Complex[Tensor, "batch coefficients"]:
        """Half-plane coefficients of the projections, one per pose, moved by the pose's shift.

        ``layout`` is a half-plane of the grid; without it the grid's own is used. Differentiable in pose and density.
        """

    @abstractmethod
    def voxels(self, grid: Grid) -> Float[Tensor, "n n n"]:
        """The density on a grid, axes (z, y, x), band-limited to the grid."""

    @abstractmethod
    def linear_parameters(self) -> Float[Tensor, "..."]:
        """The parameters in which the density is linear (or its tangent is taken)."""

    @abstractmethod
    def with_linear_parameters(self, parameters: Float[Tensor, "..."]) -> Self:
        """The same density with other linear parameters."""

    def backproject(
        self,
        coefficients: Complex[Tensor, "batch coefficients"],
        pose: Pose,
        grid: Grid,
        layout: HalfPlane | None = None,
    ) -> Float[Tensor, "..."]:
        """The adjoint of `project` in `linear_parameters`: ``<project(v), u> = <v, backproject(u)>``.

        The inner product of coefficients is ``Re sum conj(a) b`` over the half-plane, of parameters the plain dot product.
        """
        parameters = self.linear_parameters().detach().requires_grad_()
        with torch.enable_grad():
            slices = self.with_linear_parameters(parameters).project(pose.detach(), grid, layout)
            return torch.autograd.grad(slices, parameters, coefficients)[0]


@final
@dataclass(frozen=True)
class Voxels(Density):
    """A density on a cubic grid.

    Attributes:
        values: (z, y, x). grid: its sampling. padding: how much finer its spectrum is sampled before interpolation.
    """

    values: Float[Tensor, "n n n"]
    grid: Grid
    padding: int = 2
    _spectra: dict[int, Tensor] = field(default_factory=dict[int, Tensor], init=False, repr=False, compare=False)

    def _spectrum(self, band: int) -> Tensor:
        if self.values.requires_grad:
            return padded_spectrum(self.values, band, self.padding)
        if band not in self._spectra:
            self._spectra[band] = padded_spectrum(self.values, band, self.padding)
        return self._spectra[band]

    def project(self, pose: Pose, grid: Grid, layout: HalfPlane | None = None) -> Complex[Tensor, "batch coefficients"]:
        """Central slices of the padded spectrum: see `Density.project`."""
        layout = grid.half_plane(device=str(self.values.device)) if layout is None else layout
        ratio = self.grid.extent / grid.extent
        band = min(self.grid.last_shell, int(layout.band * ratio + 1))
        slices = extract_slices(self._spectrum(band), pose.rotation, layout, self.padding * ratio)
        if grid.pixel_size != self.grid.pixel_size:
            slices = slices * (self.grid.pixel_size / grid.pixel_size) ** 3
        return slices * pose.shift_phase(grid, layout)

    def voxels(self, grid: Grid) -> Float[Tensor, "n n n"]:
        """The values, resampled in Fourier space when the grid has the same extent but other voxels.

        Raises:
            ValueError: if the grid has another extent.
        """
        if grid == self.grid:
            return self.values
        if abs(grid.extent / self.grid.extent - 1) > 1e-3:
            raise ValueError(f"a map of {self.grid.extent:g} Å cannot be resampled onto a box of {grid.extent:g} Å")
        return fourier_resize(self.values, grid.box_size, 3)

    def linear_parameters(self) -> Float[Tensor, "n n n"]:
        """The voxel values."""
        return self.values

    def with_linear_parameters(self, parameters: Float[Tensor, "n n n"]) -> Voxels:
        """A map of other values on the same grid."""
        return Voxels(parameters, self.grid, self.padding)


@final
@dataclass(frozen=True)
class Gaussians(Density):
    """A sum of spherical Gaussians, projected analytically. Atoms are Gaussians with names.

    ``rho(x) = sum_j a_j (2 pi sigma_j^2)^(-3/2) exp(-|x - c_j|^2 / (2 sigma_j^2))``

    Attributes:
        centres: (x, y, z), Å from the centre of the box. amplitudes: integral of each Gaussian, density times Å^3.
        sigmas: standard deviations, Å. With a leading batch dimension, each pose sees a conformer of its own.
    """

    centres: Float[Tensor, "*batch gaussians 3"]
    amplitudes: Float[Tensor, "*batch gaussians"]
    sigmas: Float[Tensor, "*batch gaussians"]

    def _waves(self, positions: Tensor, index: Tensor, extent: float, sigmas: Tensor) -> Tensor:
        """One axis of the transform of each Gaussian: exp(-2 pi i k x / L) exp(-2 pi^2 sigma^2 k^2 / L^2)."""
        frequency = index.to(positions.dtype) / extent
        angle = -2 * torch.pi * positions[..., None] * frequency
        envelope = torch.exp(-2 * torch.pi**2 * (sigmas[..., None] * frequency) ** 2)
        return torch.polar(envelope.expand(angle.shape), angle)

    def project(self, pose: Pose, grid: Grid, layout: HalfPlane | None = None) -> Complex[Tensor, "batch coefficients"]:
        """The analytic transform of the projected Gaussians: see `Density.project`.

        ``F(k) = p^-3 sum_j a_j exp(-2 pi^2 sigma_j^2 k^2 / L^2) exp(-2 pi i k.(R c_j + t) / L)``: a matrix product of
        plane waves along x with plane waves along y.
        """
        layout = grid.half_plane(device=str(self.centres.device)) if layout is None else layout
        kx = torch.arange(layout.band + 1, device=layout.device)
        ky = torch.arange(-layout.band, layout.band + 1, device=layout.device)
        total: Tensor | None = None
        for first in range(0, self.centres.shape[-2], GAUSSIANS_AT_ONCE):
            part = slice(first, first + GAUSSIANS_AT_ONCE)
            sigmas = self.sigmas[..., part]
            seen = self.centres[..., part, :] @ pose.rotation[:, :2].mT + pose.shift[:, None]
            along_x = self._waves(seen[..., 0], kx, grid.extent, sigmas) * self.amplitudes[..., part, None]
            along_y = self._waves(seen[..., 1], ky, grid.extent, sigmas)
            plane = along_y.mT @ along_x
            total = plane if total is None else total + plane
        if total is None:
            raise ValueError("there is no Gaussian to project")
        flat = total.flatten(-2)[:, (layout.y + layout.band) * (layout.band + 1) + layout.x]
        return flat / grid.pixel_size**3

    def voxels(self, grid: Grid) -> Float[Tensor, "n n n"]:
        """The band-limited density on a grid, from its analytic transform."""
        n = grid.box_size
        device = self.centres.device
        signed = integer_frequencies(n, device=device)
        positive = integer_frequencies(n, half=True, device=device)
        total: Tensor | None = None
        for first in range(0, self.centres.shape[0], GAUSSIANS_AT_ONCE):
            part = slice(first, first + GAUSSIANS_AT_ONCE)
            centres, sigmas = self.centres[part], self.sigmas[part]
            along_x = self._waves(centres[:, 0], positive, grid.extent, sigmas) * self.amplitudes[part][:, None]
            along_y = self._waves(centres[:, 1], signed, grid.extent, sigmas)
            along_z = self._waves(centres[:, 2], signed, grid.extent, sigmas)
            planes = torch.stack([(along_z[:, k, None] * along_y).mT @ along_x for k in range(n)])
            total = planes if total is None else total + planes
        if total is None:
            raise ValueError("there is no Gaussian to draw")
        if n % 2 == 0:
            # the sign of the Nyquist coefficient is undefined: leave it out, as the half-plane does
            keep = signed.abs() < n // 2
            total = total * keep[:, None, None] * keep[:, None] * (positive < n // 2)
        return torch.fft.fftshift(torch.fft.irfftn(total, s=(n, n, n))) / grid.pixel_size**3

    def linear_parameters(self) -> Float[Tensor, " gaussians"]:
        """The amplitudes."""
        return self.amplitudes

    def with_linear_parameters(self, parameters: Float[Tensor, " gaussians"]) -> Gaussians:
        """The same Gaussians with other amplitudes."""
        return Gaussians(self.centres, parameters, self.sigmas)
