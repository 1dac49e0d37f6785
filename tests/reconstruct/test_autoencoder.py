"""The autoencoder of the cryodrgn preset: data, loss, options."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from frazil.data.ensemble import load_ensemble
from frazil.data.stack import Particles, read_particles
from frazil.errors import InputError
from frazil.inference.objective import squared_error
from frazil.numerics.fourier import images_to_coefficients
from frazil.physics.field import slice_points
from frazil.physics.pose import Pose
from frazil.reconstruct import Config
from frazil.reconstruct.autoencoder import BFLOAT16_INSTRUCTIONS, Autoencoder, beta_schedule, choose_precision
from frazil.reconstruct.coefficients import circular_window, standardise
from frazil.reconstruct.neural import read_images
from frazil.reconstruct.neural_config import NeuralConfig

SMALL = {"width": 16, "encoder_width": 16, "batch_size": 8}
FLAGS = ("--preset", "cryodrgn", "--threads", 1, "--train.width", 16, "--train.encoder-width", 16, "--no-report")


@pytest.fixture(scope="module")
def particles(small_stack: Path) -> Particles:
    return read_particles(small_stack)


def autoencoder(
    particles: Particles, *, precision: torch.dtype | None = None, device: str = "cpu", **options: object
) -> Autoencoder:
    torch.manual_seed(1)
    config = NeuralConfig.model_validate(SMALL | options)
    images = standardise(particles, sign=1, box=config.box)
    assert particles.pose is not None
    return Autoencoder(
        images, particles.pose, particles.optics, config, latent_dim=2, device=device, precision=precision
    )


def values_of(
    task: Autoencoder, rows: torch.Tensor, epoch: float = 0.0, generator: torch.Generator | None = None
) -> dict[str, torch.Tensor]:
    """What a step says of a whole batch."""
    return task.step(rows, epoch, task.prepare(rows, generator or torch.Generator()))


# ---------------------------------------------------------------------------------------------------------------- data


def test_window_falls_linearly_between_its_radii() -> None:
    window = circular_window(100, 0.5, 0.9)
    assert window[50, 50] == 1
    assert window[50, 50 + 25].item() == pytest.approx(1)
    assert window[50, 50 + 35].item() == pytest.approx(0.5)
    assert window[50, 50 + 46] == 0


def test_noise_is_standardised_to_unit_hartley_variance(particles: Particles) -> None:
    images = standardise(particles, sign=1)
    raw = particles.images(slice(None))
    spectrum = torch.fft.fft2(raw - raw.mean())
    hartley = spectrum.real - spectrum.imag
    assert images.deviation == pytest.approx(hartley.std().item(), rel=0.05)


def test_standardised_images_are_the_windowed_coefficients_in_half_precision(particles: Particles) -> None:
    images = standardise(particles, sign=-1, window=(0.7, 0.95))
    raw = particles.images(slice(3, 5))
    window = circular_window(24, 0.7, 0.95)
    background = raw[:, window == 0].mean(-1)[:, None, None]
    expected = -images_to_coefficients((raw - background) * window, images.layout) / images.deviation
    found = images[torch.tensor([3, 4])]
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


def test_stacks_on_an_offset_give_the_same_coefficients(
    particles: Particles, tmp_path: Path, small_stack: Path
) -> None:
    moved = tmp_path / "moved.mrcs"
    moved.write_bytes((small_stack.parent / "particles.mrcs").read_bytes())
    with mrcfile.open(moved, mode="r+") as file:
        file.set_data(file.data + 100 * file.data.std())
    other = standardise(read_particles(moved, pixel_size=8.0), sign=1)
    assert torch.allclose(other.values.float(), standardise(particles, sign=1).values.float(), atol=0.02)


def test_cropping_keeps_a_prefix_of_the_coefficients(particles: Particles) -> None:
    full, cropped = standardise(particles, sign=1), standardise(particles, sign=1, box=16)
    assert cropped.grid.box_size == 16
    assert cropped.grid.extent == pytest.approx(full.grid.extent)
    assert torch.equal(cropped.values, full.values[:, : cropped.layout.count])


# ---------------------------------------------------------------------------------------------------------------- loss


def test_the_error_is_that_of_projections_through_the_microscope(particles: Particles) -> None:
    task = autoencoder(particles)
    rows = torch.arange(6)
    batch = task.batch(rows)
    with torch.no_grad():
        prepared = task.prepare(rows, torch.Generator())
        values = task.step(rows, 0.0, prepared)
        latent = task.encode(batch).sample(prepared.noise)
        density = task.field.density(latent)
        pose, optics = particles.pose[rows], particles.optics[rows]
        image = density.project(pose, task.images.grid) * optics.ctf(task.images.grid, task.layout)
        image = image / task.images.deviation
        expected = squared_error(image, task.images[rows], task.weight).mean()
    assert values["error"].item() == pytest.approx(expected.item(), rel=1e-4)
    price = values["divergence"].item() / 2 / task.weight.sum().item()
    assert values["loss"].item() == pytest.approx(expected.item() + price, rel=1e-4)


def test_drawing_fewer_coefficients_leaves_the_expected_error_as_it_is(particles: Particles) -> None:
    whole, drawn = autoencoder(particles), autoencoder(particles, coefficients=0.4)
    with torch.no_grad():
        rows, latent = torch.arange(8), torch.zeros(8, 2)
        exact = whole.error(whole.batch(rows), latent, None)
        generator = torch.Generator().manual_seed(1)
        draws = [drawn.prepare(rows, generator).coefficients for _ in range(200)]
        estimates = torch.stack([drawn.error(drawn.batch(rows), latent, index) for index in draws])
    assert abs(estimates.mean() - exact) < 4 * estimates.std() / 200**0.5
    assert estimates.std() > 0


def test_half_precision_gives_the_loss_and_gradient_of_single_precision(particles: Particles) -> None:
    gradients, losses = [], []
    for precision in (None, torch.bfloat16):
        task = autoencoder(particles, precision=precision)
        loss = values_of(task, torch.arange(8))["loss"]
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in task.field.parameters()]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert (gradients[0] - gradients[1]).norm() < 0.05 * gradients[0].norm()


def test_training_lowers_the_error_of_the_images(particles: Particles) -> None:
    task = autoencoder(particles, learning_rate=3e-3)
    optimizer = task.optimizers()["networks"]
    errors = []
    for step in range(30):
        optimizer.zero_grad()
        values = values_of(task, torch.arange(16), step / 5, torch.Generator().manual_seed(step))
        values["loss"].backward()
        optimizer.step()
        errors.append(values["error"].item())
    assert np.mean(errors[-5:]) < 0.9 * np.mean(errors[:5])


def test_poses_wait_for_the_networks_and_then_move_where_seen(particles: Particles) -> None:
    task = autoencoder(particles, refine_poses=True, pose_pretrain=1)
    assert task.poses is not None
    table = task.poses.correction.weight
    values_of(task, torch.arange(4), 0.5)["loss"].backward()
    assert table.grad is None
    values_of(task, torch.arange(4), 1.0)["loss"].backward()
    assert table.grad is not None
    moved = table.grad.coalesce()
    assert moved.indices().tolist() == [[0, 1, 2, 3]]
    assert (moved.values().abs().sum(0) > 0).all()


def test_a_poisoned_image_gives_no_finite_loss_and_is_blamed_by_name(particles: Particles) -> None:
    task = autoencoder(particles)
    task.images.values[5, 3] = torch.inf
    rows = torch.arange(8)
    assert not values_of(task, rows)["loss"].isfinite()
    assert task.blame(rows).tolist() == [5]


def test_a_field_trained_on_cropped_images_is_seen_at_their_own_pixel_size(particles: Particles) -> None:
    task = autoencoder(particles, box=16)
    rows, latent = torch.arange(3), torch.zeros(3, 2)
    still = Pose(particles.pose[rows].rotation, torch.zeros(3, 2))
    with torch.no_grad():
        full = task.field.density(latent).project(still, particles.grid, particles.grid.half_plane(7))
        points = slice_points(still.rotation, task.layout, 1 / 16)
        values = torch.view_as_complex(task.field(latent, points)) * task.images.deviation
    assert torch.allclose(full[:, 1:], values[:, 1:], rtol=1e-3, atol=1e-3 * task.images.deviation)


@pytest.mark.parametrize(("beta", "expected"), [("auto", 0.25), (2.0, 2.0), ("b", 5.0)])
def test_beta_is_a_number_the_inverse_of_the_latent_dimension_or_a_schedule(beta: float | str, expected: float) -> None:
    assert beta_schedule(beta, 4)(0) == expected


@pytest.mark.parametrize(("fast", "expected"), [(True, torch.bfloat16), (False, None)])
def test_half_precision_is_chosen_where_the_processor_has_it(monkeypatch, fast: bool, expected: object) -> None:
    for name in BFLOAT16_INSTRUCTIONS:
        monkeypatch.setattr(torch.cpu, name, lambda: fast, raising=False)
    assert choose_precision("auto", "cpu") == expected
    assert choose_precision("float32", "cpu") is None
    assert choose_precision("bfloat16", "cpu") == torch.bfloat16


@pytest.mark.gpu
def test_a_gpu_gives_the_loss_of_the_cpu(particles: Particles) -> None:
    losses = []
    for device in ("cpu", "cuda"):
        task = autoencoder(particles, device=device)
        with torch.no_grad():
            losses.append(task.error(task.batch(torch.arange(8)), torch.ones(8, 2, device=device), None).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


# ------------------------------------------------------------------------------------------------------------- command


def test_the_preset_makes_latents_covariances_and_an_ensemble(run_frazil, small_stack: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    done = run_frazil("reconstruct", small_stack, *FLAGS, "--latent-dim", 3, "--train.epochs", 1, "--out", job)
    assert done.code == 0, done.stderr
    latent = np.load(job / "outputs" / "latent.npy")
    covariance = np.load(job / "outputs" / "latent_covariance.npy")
    assert latent.shape == (80, 3) and latent.dtype == np.float32
    assert covariance.shape == (80, 3, 3) and (np.linalg.eigvalsh(covariance) > 0).all()
    ensemble = load_ensemble(job / "outputs")
    assert (ensemble.latent_dim, ensemble.grid.box_size, ensemble.grid.pixel_size) == (3, 24, 8.0)
    assert ensemble.density(torch.from_numpy(latent[0])).voxels(ensemble.grid).isfinite().all()
    assert json.loads((job / "metrics.jsonl").read_text().splitlines()[-1])["latent_divergence"] > 0


@pytest.mark.parametrize(
    "flags",
    [
        "--train.encoder convolutional --train.domain hartley --train.beta a --train.encoding geom_lowf "
        "--train.encoding-features 6 --train.box 16 --train.layers 1 --train.precision float32 --train.accumulate 2 "
        "--train.refine-poses --train.pose-pretrain 0 --train.pose-learning-rate 1e-3 --train.checkpoint-every 9",
        "--train.coefficients 0.5 --train.encoder-layers 0 --train.learning-rate 1e-3 --train.encoding-sigma 1.0 "
        "--train.beta-control 2.0 --train.beta 0.5 --train.window-inner 0.6 --train.window-outer 0.8",
    ],
)
def test_every_option_of_training_runs(run_frazil, small_stack: Path, tmp_path: Path, flags: str) -> None:
    job = tmp_path / "job"
    done = run_frazil(
        "reconstruct", small_stack, *FLAGS, *flags.split(), "--train.batch-size", 16, "--train.epochs", 1, "--out", job
    )
    assert done.code == 0, done.stderr
    assert np.isfinite(np.load(job / "outputs" / "latent.npy")).all()
    given, written = read_particles(small_stack).pose, read_particles(job / "outputs" / "particles.star").pose
    moved = (written.rotation - given.rotation).abs().max().item()
    assert moved > 1e-4 if "refine-poses" in flags else moved < 1e-5


def test_a_box_larger_than_the_images_is_refused(particles: Particles, small_stack: Path) -> None:
    config = Config(particles=small_stack, train=NeuralConfig(box=64))
    with pytest.raises(InputError, match=r"--train.box: 64 px is more than the box of the images, 24 px"):
        read_images(particles, config, None, 1.0)  # type: ignore[arg-type]


def test_particles_without_poses_are_refused(particles: Particles, small_stack: Path) -> None:
    with pytest.raises(InputError, match="the particles have no poses"):
        read_images(replace(particles, pose=None), Config(particles=small_stack), None, 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--train.window-inner 0.99", "window_inner must be smaller than window_outer"),
        ("--train.encoding fourrier", "encoding"),
        ("--train.coefficients 0", "coefficients"),
        ("--train.widht 16", "width"),
    ],
)
def test_wrong_options_of_training_are_one_clear_line(
    run_frazil, small_stack: Path, tmp_path: Path, flags: str, words: str
) -> None:
    done = run_frazil("reconstruct", small_stack, *FLAGS, *flags.split(), "--out", tmp_path / "job")
    assert done.code == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
