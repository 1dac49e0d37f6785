"""A finished reconstruct job, made up: 60 particles, an ensemble that is a straight line of maps, a map with its FSC."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from frazil.data.ensemble import register_ensemble, save_ensemble
from frazil.data.mrc import write_stack, write_volume
from frazil.data.stack import Particles, read_particles, write_new_particles_star, write_particles_star
from frazil.numerics.fourier import coefficients_to_images
from frazil.physics.density import Density, Voxels
from frazil.physics.ensemble import Ensemble
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose

COUNT, BOX, PIXEL = 60, 16, 3.0
MANY = 900


class StraightEnsemble(Ensemble):
    """V(z) = V0 + sum_k z_k V_k."""

    kind = "straight"

    def __init__(self, mean: Tensor, basis: Tensor, pixel_size: float) -> None:
        self.mean, self.basis = mean, basis
        self._grid = Grid(mean.shape[-1], pixel_size)

    @property
    def latent_dim(self) -> int:
        return len(self.basis)

    @property
    def grid(self) -> Grid:
        return self._grid

    def density(self, latent: Tensor) -> Density:
        return Voxels(self.mean + torch.einsum("k,kzyx->zyx", latent, self.basis), self._grid)

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"mean": self.mean, "basis": self.basis}, {"pixel_size": self._grid.pixel_size}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> StraightEnsemble:
        return cls(tensors["mean"], tensors["basis"], settings["pixel_size"])


register_ensemble("straight", StraightEnsemble)


def bump(x: float, y: float, z: float, width: float = 2.0) -> Tensor:
    """A Gaussian blob at (x, y, z) voxels from the centre."""
    axis = torch.arange(BOX, dtype=torch.float32) - BOX // 2
    return torch.exp(
        -((axis[None, None, :] - x) ** 2 + (axis[None, :, None] - y) ** 2 + (axis[:, None, None] - z) ** 2)
        / (2 * width**2)
    )


@pytest.fixture
def straight() -> StraightEnsemble:
    """Three latent coordinates: the first moves density along x, the others change little."""
    mean = bump(0, 0, 0) + bump(3, 0, 0)
    basis = torch.stack([bump(3, 1, 0) - bump(3, -1, 0), 0.1 * bump(0, 3, 0), 0.1 * bump(0, 0, 3)])
    return StraightEnsemble(mean, basis, PIXEL)


@pytest.fixture
def rigid_job(tmp_path: Path) -> Path:
    """What a consensus job leaves: maps, fsc.csv, particles."""
    outputs = tmp_path / "consensus" / "outputs"
    outputs.mkdir(parents=True)
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(COUNT, BOX, BOX, generator=generator)
    write_stack(tmp_path / "particles.mrcs", images, PIXEL)
    pose = Pose.random(COUNT, shift_range=4.0, generator=generator)
    write_new_particles_star(
        outputs / "particles.star",
        tmp_path / "particles.mrcs",
        Grid(BOX, PIXEL),
        pose=pose,
        extra={"rlnMyOwnColumn": np.arange(COUNT) * 2},
    )
    volume = bump(0, 0, 0) + bump(3, 0, 0)
    for name in ("consensus", "consensus_sharpened", "half_a", "half_b"):
        write_volume(outputs / f"{name}.mrc", volume, PIXEL)
    shells = np.arange(BOX // 2 + 1)
    rows = [f"{s},{BOX * PIXEL / max(s, 1):.3f},{1 - s / 10:.3f},{1 - s / 20:.3f}" for s in shells]
    (outputs / "fsc.csv").write_text("shell,resolution,unmasked,masked\n" + "\n".join(rows) + "\n")
    return outputs.parent


@pytest.fixture
def ensemble_job(rigid_job: Path, straight: StraightEnsemble) -> Path:
    """The same with an ensemble, a latent for each particle, and metrics."""
    outputs = rigid_job / "outputs"
    generator = np.random.default_rng(0)
    latent = generator.normal(size=(COUNT, 3)) * [2.0, 0.5, 0.2]
    np.save(outputs / "latent.npy", latent.astype(np.float32))
    np.save(outputs / "latent_covariance.npy", np.broadcast_to(0.04 * np.eye(3, dtype=np.float32), (COUNT, 3, 3)))
    save_ensemble(outputs, straight)
    lines = [json.dumps({"epoch": i, "loss": 1.0 / (i + 1), "kl": 0.1 * i}) for i in range(5)]
    (rigid_job / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return rigid_job


@pytest.fixture
def cloud() -> np.ndarray:
    """Three tight, far-apart groups of 40, 60 and 100 particles along a tilted line in four dimensions."""
    generator = np.random.default_rng(3)
    direction = np.array([3.0, 0, 4, 0]) / 5
    place = np.repeat([-10.0, 0.0, 10.0], [40, 60, 100])
    return (place[:, None] * direction + 0.1 * generator.normal(size=(200, 4)) + 7).astype(np.float32)


@pytest.fixture
def imaged(tmp_path: Path, straight) -> tuple[Particles, np.ndarray]:
    """Particles whose density moves along the first latent coordinate, and their latents."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.linspace(-1, 1, MANY)[torch.randperm(MANY, generator=generator)]
    pose = Pose.random(MANY, shift_range=2.0, generator=generator)
    grid = straight.grid
    still, moved = (Voxels(v, grid).project(pose, grid) for v in (straight.mean, straight.basis[0]))
    images = coefficients_to_images(still + latent[:, None] * moved, grid.half_plane())
    images = images + 0.3 * images.std() * torch.randn(images.shape, generator=generator)
    write_stack(tmp_path / "moving.mrcs", images, grid.pixel_size)
    half = np.arange(MANY) % 2
    write_new_particles_star(tmp_path / "moving.star", tmp_path / "moving.mrcs", grid, pose=pose, half_set=half)
    return read_particles(tmp_path / "moving.star"), latent[:, None].numpy()


@pytest.fixture
def imaged_job(imaged: tuple[Particles, np.ndarray], straight: StraightEnsemble, tmp_path: Path) -> Path:
    """A job whose images do show the motion of its ensemble along the first coordinate."""
    particles, latent = imaged
    outputs = tmp_path / "moving" / "outputs"
    outputs.mkdir(parents=True)
    write_particles_star(particles, outputs / "particles.star")
    np.save(outputs / "latent.npy", latent.astype(np.float32))
    np.save(outputs / "latent_covariance.npy", np.full((MANY, 1, 1), 0.01, dtype=np.float32))
    save_ensemble(outputs, StraightEnsemble(straight.mean, straight.basis[:1], PIXEL))
    return outputs.parent


@pytest.fixture
def halved_job(ensemble_job: Path, straight: StraightEnsemble) -> Path:
    """The ensemble job with the ensembles of its half-sets: the same but for noise."""
    generator = torch.Generator().manual_seed(2)
    for name in ("half_a", "half_b"):
        noise = 0.02 * torch.randn(straight.mean.shape, generator=generator)
        half = StraightEnsemble(straight.mean + noise, straight.basis, PIXEL)
        save_ensemble(ensemble_job / "outputs" / name, half)
    return ensemble_job


@pytest.fixture
def fast_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Surfaces of a few pixels: what a surface looks like is tested elsewhere."""

    def flat(*_: object, size: int = 0, **__: object) -> np.ndarray:
        return np.ones((8, 8, 4))

    from frazil.figures import film, maps, strips

    for module in (film, maps, strips):
        monkeypatch.setattr(module, "render_surface", flat)
