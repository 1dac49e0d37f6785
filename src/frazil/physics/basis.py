"""A few volumes whose weighted sums are the conformations: ``V(z) = V_0 + sum_k c_k(z) V_k``.

Projection is linear in the volumes, so a slice of any conformation is a weighted sum of K + 1 slices, and what an image says
about its conformation is a quadratic form in c: a (K + 1)² matrix and a vector. Source of the linear case (c = z):
Tagare et al. 2015; Punjani and Fleet 2021 (3DVA); Gilles and Singer 2025 (RECOVAR).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from frazil.numerics.fourier import HalfPlane, fourier_resize
from frazil.numerics.slices import extract_slices, padded_spectrum
from frazil.physics.density import Density, Voxels
from frazil.physics.ensemble import Ensemble
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose

PADDING = 2
# steps of Gauss and Newton from the nearest landmark to the conformation of a volume
PROJECTION_STEPS = 10


@final
@dataclass(frozen=True)
class Basis(Density):
    """Volumes with weights: each pose sees a conformation of its own.

    Attributes:
        volumes: the mean, then the directions of change. weights: (1, c_1, ..., c_K) for each pose, or one row for all.
        grid: sampling of the volumes.
    """

    volumes: Float[Tensor, "volumes n n n"]
    weights: Float[Tensor, "batch volumes"]
    grid: Grid

    def project(self, pose: Pose, grid: Grid, layout: HalfPlane | None = None) -> Complex[Tensor, "batch coefficients"]:
        """The weighted sum of the slices of every volume: see `Density.project`.

        Raises:
            ValueError: if the image's grid is not the volumes' own.
        """
        if grid != self.grid:
            raise ValueError(f"a basis on {self.grid} is projected on that grid only, not on {grid}")
        layout = grid.half_plane(device=str(self.volumes.device)) if layout is None else layout
        total: Tensor | None = None
        for k, volume in enumerate(self.volumes):
            spectrum = padded_spectrum(volume, layout.band, PADDING)
            part = extract_slices(spectrum, pose.rotation, layout, PADDING) * self.weights[:, k, None]
            total = part if total is None else total + part
        assert total is not None
        return total * pose.shift_phase(grid, layout)

    def voxels(self, grid: Grid) -> Float[Tensor, "n n n"]:
        """The conformation of the one row of weights.

        Raises:
            ValueError: if there are several rows, or the grid has another extent.
        """
        if self.weights.shape[0] != 1:
            raise ValueError("a basis with a row of weights for each pose has no single map")
        return Voxels(torch.tensordot(self.weights[0], self.volumes, 1), self.grid).voxels(grid)

    def linear_parameters(self) -> Float[Tensor, "volumes n n n"]:
        """The volumes."""
        return self.volumes

    def with_linear_parameters(self, parameters: Float[Tensor, "volumes n n n"]) -> Basis:
        """Other volumes with the same weights."""
        return Basis(parameters, self.weights, self.grid)


@final
@dataclass(frozen=True)
class Landmarks:
    """A function from latents to coefficients, known at landmarks and interpolated between them.

    ``c(z) = sum_m w_m(z) c_m`` with ``w_m(z)`` proportional to ``exp(-|(z - z_m) / width|^2 / 2)`` and sum 1.

    Attributes:
        positions: latents of the landmarks. coefficients: their values. width: of the kernel along each latent coordinate.
    """

    positions: Float[Tensor, "landmarks latent"]
    coefficients: Float[Tensor, "landmarks basis"]
    width: Float[Tensor, " latent"]

    def at(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch basis"]:
        """The coefficients at latents; differentiable."""
        gap = (latent[:, None] - self.positions) / self.width
        return torch.softmax(-0.5 * gap.square().sum(-1), dim=-1) @ self.coefficients


@final
@dataclass(frozen=True)
class BasisEnsemble(Ensemble):
    """Conformations that are weighted sums of volumes.

    Attributes:
        volumes: the mean, then the directions of change. images: the grid of the images it was learnt from.
        landmarks: latents to coefficients; None when the coefficients are the latents themselves.
    """

    kind = "basis"
    volumes: Float[Tensor, "volumes n n n"]
    images: Grid
    landmarks: Landmarks | None = None

    @property
    def latent_dim(self) -> int:
        """Number of latent coordinates."""
        return self.volumes.shape[0] - 1 if self.landmarks is None else self.landmarks.positions.shape[1]

    @property
    def grid(self) -> Grid:
        """The grid of the images it was learnt from."""
        return self.images

    def coefficients(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch basis"]:
        """The weights of the directions of change."""
        return latent if self.landmarks is None else self.landmarks.at(latent)

    def density(self, latent: Float[Tensor, " latent"]) -> Voxels:
        """The map at one conformation."""
        return Voxels(self._sum(self.coefficients(latent.to(self.volumes)[None])[0]), self._own_grid())

    def _sum(self, coefficients: Tensor) -> Tensor:
        return self.volumes[0] + torch.tensordot(coefficients, self.volumes[1:], 1)

    def _own_grid(self) -> Grid:
        box = self.volumes.shape[-1]
        return self.images if box == self.images.box_size else Grid(box, self.images.extent / box)

    def in_units(self, unit: Float[Tensor, " latent"]) -> BasisEnsemble:
        """The same conformations at latents that are ``unit`` times as large."""
        if self.landmarks is None:
            directions = self.volumes[1:] / unit.to(self.volumes)[:, None, None, None]
            return BasisEnsemble(torch.cat((self.volumes[:1], directions)), self.images)
        found = self.landmarks
        landmarks = Landmarks(found.positions * unit, found.coefficients, found.width * unit)
        return BasisEnsemble(self.volumes, self.images, landmarks)

    def project_volume(self, volume: Float[Tensor, "n n n"]) -> Float[Tensor, " latent"]:
        """The latent whose map is nearest to a volume, by least squares over all voxels.

        With landmarks the search starts at the nearest one and follows Gauss and Newton.
        """
        box = self.volumes.shape[-1]
        target = volume.to(self.volumes) if volume.shape[-1] == box else fourier_resize(volume, box, 3).to(self.volumes)
        directions = self.volumes[1:].flatten(1)
        gram = directions @ directions.T
        tiny = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
        best = torch.linalg.solve(gram + tiny, directions @ (target - self.volumes[0]).reshape(-1))
        if self.landmarks is None:
            return best

        def distance(latent: Tensor) -> Tensor:
            gap = self.coefficients(latent[None])[0] - best
            return gap @ gram @ gap

        gaps = self.landmarks.coefficients - best
        latent = self.landmarks.positions[int(((gaps @ gram) * gaps).sum(-1).argmin())].clone()
        for _ in range(PROJECTION_STEPS):
            slope = torch.autograd.functional.jacobian(lambda z: self.coefficients(z[None])[0], latent)
            assert isinstance(slope, Tensor)
            curvature = slope.T @ gram @ slope
            damping = 1e-3 * curvature.diagonal().mean() * torch.eye(len(latent)).to(gram)
            gap = self.coefficients(latent[None])[0] - best
            # far from where it changes the function may be flat: no step then, and no matrix to invert
            moved = latent - torch.linalg.pinv(curvature + damping) @ (slope.T @ (gram @ gap))
            if not float(distance(moved)) < float(
                distance(latent)
            ):  # nor where a step went so far that it is no number
                break
            latent = moved
        return latent

    def to(self, device: str) -> BasisEnsemble:
        """The same ensemble on another device."""
        landmarks = self.landmarks
        if landmarks is not None:
            positions, coefficients = landmarks.positions.to(device), landmarks.coefficients.to(device)
            landmarks = Landmarks(positions, coefficients, landmarks.width.to(device))
        return BasisEnsemble(self.volumes.to(device), self.images, landmarks)

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Named tensors and plain settings: see `frazil.data.ensemble`."""
        tensors = {"volumes": self.volumes}
        if self.landmarks is not None:
            tensors |= {name: getattr(self.landmarks, name) for name in ("positions", "coefficients", "width")}
        return tensors, {"grid": asdict(self.images)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> BasisEnsemble:
        """The ensemble that `to_tensors` took apart."""
        landmarks = None
        if "positions" in tensors:
            landmarks = Landmarks(tensors["positions"], tensors["coefficients"], tensors["width"])
        return cls(tensors["volumes"], Grid(**settings["grid"]), landmarks)
