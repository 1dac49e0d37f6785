"""Latents of images whose poses were found from them: the pose is integrated out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from frazil.data.stack import read_particles
from frazil.inference.local_refinement import PriorWidths
from frazil.numerics.rotations import from_rotation_vector, random_rotations
from frazil.numerics.spectrum_table import gather_table, table_layout, table_of_volumes
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose
from frazil.reconstruct.basis import BasisLearner
from frazil.reconstruct.basis_config import BasisConfig
from frazil.reconstruct.basis_state import BasisState
from frazil.reconstruct.marching import marching_bands
from frazil.reconstruct.unsure_poses import UnsurePoses
from frazil.reconstruct.whitened import WhitenedImages

WIDTHS = PriorWidths(rotation=2.0, shift=3.0)


def test_integrating_the_pose_out_is_the_marginal_of_the_joint_posterior() -> None:
    generator = torch.Generator().manual_seed(0)
    slices, changes, image = (torch.randn(3, size, 40, generator=generator, dtype=torch.float64) for size in (4, 5, 1))
    rows = torch.cat((slices, image, changes), dim=1)
    found = UnsurePoses(torch.zeros(3, 4), WIDTHS).integrated(rows @ rows.mT, changes @ changes.mT)
    gram, projection = found[:, :4, :4], found[:, :4, 4]
    # all nine unknowns at once, with a standard normal prior of the weights
    model = torch.cat((slices, changes), dim=1)
    prior = torch.tensor([1.0] * 4 + [2.0**-2] * 3 + [3.0**-2] * 2, dtype=torch.float64).diag()
    joint = torch.linalg.inv(model @ model.mT + prior)
    mean = (joint @ (model @ image.mT))[:, :4, 0]
    own = torch.linalg.inv(gram + torch.eye(4, dtype=torch.float64))
    assert torch.allclose(own, joint[:, :4, :4], atol=1e-10)
    assert torch.allclose((own @ projection[..., None])[..., 0], mean, atol=1e-10)


@pytest.mark.parametrize("box", [32, 33])
def test_images_change_with_their_poses_as_projections_of_gaussians_do(box: int) -> None:
    grid, band = Grid(box, 4.0), 12
    plane, layout = grid.half_plane(band), table_layout(band)
    generator = torch.Generator().manual_seed(box)

    def blobs() -> Gaussians:
        centres = 15.0 * torch.randn(30, 3, generator=generator, dtype=torch.float64)
        return Gaussians(centres, torch.ones(30, dtype=torch.float64), torch.full((30,), 6.0, dtype=torch.float64))

    densities = [blobs() for _ in range(3)]
    table = table_of_volumes(torch.stack([one.voxels(grid) for one in densities]).float(), layout)
    rotation = random_rotations(4, generator)
    weights = torch.cat((torch.ones(4, 1), torch.randn(4, 2, generator=generator)), dim=1)
    transfer = torch.rand(4, plane.count, generator=generator)
    slices = gather_table(table, layout, rotation, plane, transfer).flatten(1, 2)
    unsure = UnsurePoses(weights, WIDTHS)
    found = unsure.changes(slice(0, 4), slices, rotation, table, layout, plane, transfer, grid)

    def seen(off: Tensor) -> Tensor:
        """What the analytic projections are at poses a little off."""
        turned = from_rotation_vector(off[:3].expand(4, 3) * math.pi / 180) @ rotation.double()
        pose = Pose(turned, off[3:].expand(4, 2))
        views = torch.stack([one.project(pose, grid, plane) for one in densities], dim=-1)
        return torch.view_as_real((views * weights[:, None]).sum(-1) * transfer).flatten(1)

    small = 1e-3
    for number, off in enumerate(torch.eye(5, dtype=torch.float64) * small):
        true = ((seen(off) - seen(-off)) / (2 * small)).flatten()
        one = found[:, number].double().flatten()
        # slopes between the points of a table are steps: right together rather than one by one
        assert float(one @ true / (one.norm() * true.norm())) > 0.97
        assert float(one.norm() / true.norm()) == pytest.approx(1, abs=0.05)


def test_latents_of_refined_poses_are_less_sure_than_those_of_given_ones(run_frazil: Any, tmp_path: Path) -> None:
    images = ("--set", "linear-1d", "--count", 300, "--box", 24, "--pixel-size", 8, "--snr", 2, "--seed", 1)
    assert run_frazil("simulate", "particles", *images, "--out", tmp_path / "sim").code == 0
    flags = ("--density", "basis", "--basis.model", "linear", "--latent-dim", 1, "--basis.resolution", 24)
    rounds = ("--refine.rounds", 1, "--refine.by-state", 0, "--no-report")
    star, job = tmp_path / "sim/outputs/particles.star", tmp_path / "job"
    done = run_frazil("reconstruct", star, *flags, *rounds, "--threads", 1, "--out", job)
    assert done.code == 0, done.stderr
    outputs = job / "outputs"
    particles = read_particles(outputs / "particles.star")
    state, _, _ = BasisState.load(job / "checkpoints" / "basis.safetensors")
    band = math.ceil(particles.grid.shell_of(24))
    sign = 1.0 if "particles are bright" in (job / "log.txt").read_text() else -1.0
    images = WhitenedImages(particles, band, state.noise, sign=sign, bands=marching_bands(band))
    sure = PriorWidths(rotation=1e-4, shift=1e-4)
    learner = BasisLearner(images, BasisConfig(model="linear"), 1, "C1", 0, pose_prior=sure)
    found = learner.latents(state, learner.together(state))
    order = torch.argsort(images.order)
    # of the variance among particles: units of latents differ
    given = found.covariance[order][:, 0, 0] / found.mean.var()
    latent, covariance = (np.load(outputs / f"latent{name}.npy") for name in ("", "_covariance"))
    ratio = covariance[:, 0, 0] / latent.var(ddof=1) / given.numpy()
    assert 1.05 < float(np.median(ratio)) < 3
