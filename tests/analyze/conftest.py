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
from frazil.data.stack import write_new_particles_star
from frazil.physics.density import Density, Voxels
from frazil.physics.ensemble import Ensemble
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose

COUNT, BOX, PIXEL = 60, 16, 3.0


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
