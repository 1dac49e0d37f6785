"""Poses searched against a neural field: a known field, the schedule, the flags, the messages, the whole way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from frazil.config import read_preset
from frazil.data.ensemble import load_ensemble
from frazil.data.stack import Particles, read_particles
from frazil.engine.processes import Processes
from frazil.numerics.rotations import geodesic_angle
from frazil.numerics.spectrum_table import gather_table, table_layout
from frazil.physics.pose import Pose
from frazil.reconstruct.autoencoder import Autoencoder
from frazil.reconstruct.coefficients import standardise
from frazil.reconstruct.hierarchical_config import HierarchicalConfig
from frazil.reconstruct.neural_config import NeuralConfig
from frazil.reconstruct.searched_field import RandomPoses, SearchedAutoencoder, cells_of, decoded_table

ROWS = torch.arange(12)
QUICK = (
    *("--preset", "cryodrgn2", "--latent-dim", 2, "--threads", 1, "--no-report", "--train.width", 8),
    *("--train.encoder-width", 8, "--train.epochs", 2, "--hierarchical.pretrain", 100, "--hierarchical.every", 1),
    *("--hierarchical.order", 1, "--hierarchical.subdivisions", 1, "--hierarchical.kept", 2),
    *("--hierarchical.first-band", 4, "--hierarchical.last-band", 6, "--hierarchical.ramp", 1),
    *("--hierarchical.shift-extent-px", 3, "--hierarchical.shifts", 4),
    *("--hierarchical.cells", 2, "--hierarchical.renew", 32),
)


@pytest.fixture(scope="module")
def particles(small_stack: Path) -> Particles:
    return read_particles(small_stack)


def task_of(particles: Particles, latent_dim: int = 1, **options: object) -> SearchedAutoencoder:
    torch.manual_seed(3)
    config = NeuralConfig(width=32, layers=2, encoder_width=8, encoding_features=8, domain="hartley")
    autoencoder = Autoencoder(
        standardise(particles, sign=1), Pose.identity(len(ROWS)), particles.optics, config, latent_dim=latent_dim
    )
    return SearchedAutoencoder(autoencoder, HierarchicalConfig.model_validate(options), Processes())


def test_a_decoded_table_has_the_slices_of_the_field_in_the_unit_of_the_images(particles: Particles) -> None:
    task = task_of(particles)
    network, layout = task.autoencoder.field, table_layout(8)
    latent, pose = torch.tensor([0.3]), Pose.random(6, 0.0, torch.Generator().manual_seed(1))
    plane = task.plane.within(8)
    found = gather_table(
        decoded_table(network, latent, layout), layout, pose.rotation, plane, torch.ones(6, plane.count)
    )
    with torch.no_grad():
        seen = network.density(latent).project(pose, network.grid, plane) / network.amplitude
    found = torch.view_as_complex(found[..., 0].contiguous())
    likeness = (found.conj() * seen).real.sum() / (found.abs().square().sum() * seen.abs().square().sum()).sqrt()
    assert float(likeness) > 0.97
    assert float((found.abs().square().sum() / seen.abs().square().sum()).sqrt()) == pytest.approx(1, abs=0.1)


def test_a_field_that_has_learnt_at_the_true_poses_finds_them_again(rigid_stack: Path) -> None:
    particles = read_particles(rigid_stack)
    torch.manual_seed(3)
    config = NeuralConfig(width=96, layers=2, encoder_width=8, domain="hartley")
    assert particles.pose is not None
    own = Autoencoder(standardise(particles, sign=1), particles.pose, particles.optics, config, latent_dim=0)
    optimizer = torch.optim.Adam(own.field.parameters(), lr=2e-3)
    for _ in range(5):
        for rows in torch.randperm(particles.count).split(16):
            optimizer.zero_grad()
            own.error(own.batch(rows), torch.zeros(len(rows), 0), None).backward()
            optimizer.step()
    task = SearchedAutoencoder(own, HierarchicalConfig(ramp=0, every=3), Processes())
    rows = torch.arange(0, 500, 12)
    task.before(rows, 3.5)
    angle = torch.rad2deg(geodesic_angle(task.found().rotation[rows], particles.pose.rotation[rows]))
    shift = (task.found().shift[rows] - particles.pose.shift[rows]).norm(dim=1) / particles.grid.pixel_size
    assert float(angle.median()) < 4
    assert float(shift.median()) < 0.3
    assert torch.equal(own.pose.rotation, task.found().rotation)  # and is trained with them from here on


def test_poses_stay_between_searches(particles: Particles) -> None:
    task = task_of(particles, every=3)
    for epoch in (1.0, 2.5, 4.0):
        task.before(ROWS, epoch)
    assert torch.equal(task.found().rotation, torch.eye(3).expand(particles.count, 3, 3))


def test_the_highest_frequency_of_one_rigid_map_rises_over_25_epochs(particles: Particles) -> None:
    rigid, moving = (task_of(particles, dim, first_band=4, last_band=11, subdivisions=2) for dim in (0, 1))
    assert [rigid.hierarchy(epoch).bands[-1] for epoch in (0, 12, 25, 40)] == [4, 7, 11, 11]
    assert moving.hierarchy(0).bands == (4, 8, 11)
    assert task_of(particles, ramp=2).hierarchy(0).bands[-1] == 11  # no more than the images hold


def test_images_are_put_into_cells_by_their_latents() -> None:
    latent = torch.randn(60, 2, generator=torch.Generator().manual_seed(1)) * 0.1
    latent[20:40] += 5
    latent[40:, 0] -= 5
    cell, centres = cells_of(latent, 3)
    assert all(len(cell[part].unique()) == 1 for part in (slice(20), slice(20, 40), slice(40, 60)))
    torch.testing.assert_close(centres[cell[0]], latent[:20].mean(0))
    assert cells_of(latent[:, :0], 3)[1].shape == (1, 0)


def test_random_poses_train_the_field_alone_and_use_the_images_again_and_again(particles: Particles) -> None:
    task = RandomPoses(task_of(particles).autoencoder)
    rows = torch.tensor([0, 1, particles.count, particles.count + 1])
    prepared = task.prepare(rows, torch.Generator().manual_seed(1))
    task.step(rows, 0.0, prepared)["loss"].backward()
    assert all(p.grad is not None for p in task.autoencoder.field.parameters())
    assert all(p.grad is None for p in task.autoencoder.encoder.parameters())
    assert task.name_of(particles.count) == task.name_of(0)


def test_the_cryodrgn2_preset_has_the_published_settings() -> None:
    preset = read_preset("cryodrgn2", "reconstruct")
    assert (preset["density"], preset["poses"], preset["search"]["method"]) == ("field", "search", "hierarchical")
    network = {"width": 256, "layers": 3, "encoder_width": 256, "encoder_layers": 3, "domain": "hartley"}
    assert preset["train"].items() >= (network | {"epochs": 30, "batch_size": 16, "learning_rate": 1e-4}).items()
    search = {"pretrain": 10_000, "every": 5, "order": 2, "subdivisions": 4, "kept": 8}
    bands = {"first_band": 12, "last_band": 32, "shift_extent_px": 10.0, "shifts": 14}
    assert preset["hierarchical"].items() >= (search | bands).items()


# ------------------------------------------------------------------------------------------------------------- the verb


def test_the_preset_writes_poses_latents_maps_and_a_field(run_frazil: Any, small_stack: Path, tmp_path: Path) -> None:
    done = run_frazil("reconstruct", small_stack, *QUICK, "--out", tmp_path / "job")
    assert done.code == 0, done.stderr
    outputs = tmp_path / "job" / "outputs"
    assert np.load(outputs / "latent.npy").shape == (80, 2)
    assert {"consensus.mrc", "half_a.mrc", "half_b.mrc", "fsc.csv"} <= {path.name for path in outputs.iterdir()}
    pose = read_particles(outputs / "particles.star", need_images=False).pose
    given = read_particles(small_stack, need_images=False).pose
    assert pose is not None and given is not None
    assert float(pose.shift.abs().max()) <= 8 * 1.5 * (3 - 3 / 4) + 1e-3
    assert not torch.allclose(pose.rotation, given.rotation)
    assert load_ensemble(outputs).density(torch.zeros(2)).voxels(particles_grid(small_stack)).shape == (24, 24, 24)


def particles_grid(star: Path) -> Any:
    return read_particles(star, need_images=False).grid


def test_without_a_latent_one_rigid_map_is_made(run_frazil: Any, small_stack: Path, tmp_path: Path) -> None:
    done = run_frazil("reconstruct", small_stack, *QUICK, "--latent-dim", 0, "--out", tmp_path / "job")
    assert done.code == 0, done.stderr
    assert not (tmp_path / "job" / "outputs" / "latent.npy").exists()
    assert (tmp_path / "job" / "outputs" / "consensus.mrc").exists()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--poses", "search", "--search.method", "hierarchical"), "against a neural field only"),
        (("--preset", "cryodrgn2", "--train.refine-poses"), "they cannot be trained as well"),
        (("--preset", "cryodrgn2", "--symmetry", "D2"), "symmetry D2 and a neural field do not go together"),
        (("--preset", "cryodrgn2", "--search.classes", 2), "2 molecules and a neural field do not go together"),
        (("--preset", "cryodrgn2", "--hierarchical.first-band", 40), "first_band must not be larger than last_band"),
        (("--preset", "cryodrgn2", "--hierarchical.ramp", -1), "ramp must not be negative"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    run_frazil: Any, small_stack: Path, flags: tuple[object, ...], reason: str
) -> None:
    done = run_frazil("reconstruct", small_stack, *flags)
    assert (done.code, reason in done.stderr) == (2, True), done.stderr
