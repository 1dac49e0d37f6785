"""Poses for particles that have none: train an encoder with a density, and ask it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from frazil.data.ensemble import save_ensemble
from frazil.data.stack import Particles
from frazil.engine.files import write_npy
from frazil.engine.train import train
from frazil.inference.pose_encoders import ConvolutionalPoseEncoder, PerceptronPoseEncoder, PoseEncoder
from frazil.inference.posteriors import LatentPosterior
from frazil.inference.streamed import one_thread_per_operation
from frazil.physics.field import FieldEnsemble, FieldNetwork
from frazil.physics.pose import Pose
from frazil.reconstruct.amortised import AmortisedPoses
from frazil.reconstruct.autoencoder import POINTS_AT_ONCE, beta_schedule, choose_precision
from frazil.reconstruct.coefficients import StandardisedImages
from frazil.reconstruct.learnt_density import LearntDensity, LearntField, LearntVoxels
from frazil.reconstruct.neural import read_images

if TYPE_CHECKING:
    from frazil.engine.job import Job
    from frazil.reconstruct import Config

# images whose poses are computed at once, and images that the contrast of the first map is measured on
ROWS_AT_ONCE, CONTRAST_SAMPLE = 256, 1000
# slices of voxels that a worker has in hand
SLICES_AT_ONCE = 1024


@final
@dataclass(frozen=True)
class FoundPoses:
    """What training without poses has found.

    Attributes:
        particles: with the poses. latent: of every particle, where conformations were learnt. network: the field, if the
            density is one; it is as dark as the particles are in the images.
    """

    particles: Particles
    latent: LatentPosterior | None
    network: FieldNetwork | None


def find_poses(particles: Particles, config: Config, job: Job) -> FoundPoses:
    """Train encoder and density, and take the best guess of every particle.

    An interrupted job goes on from its checkpoint.

    Raises:
        InputError: if the images differ in box or pixel size, or the crop does not fit.
        FrazilError: if training diverges.
    """
    options = config.amortised
    images = read_images(particles, config, job, sign=1.0)
    with one_thread_per_operation() as workers:
        task = build_task(images, particles, config, job, workers)
        train(
            task,
            count=particles.count,
            batch_size=options.batch_size,
            epochs=options.epochs,
            checkpoint_every=options.checkpoint_every,
            metric_every=options.metric_every,
            seed=config.seed,
            job=job,
            name="amortised",
        )
    seen = float(options.epochs * particles.count)
    pose, latent = poses_of_all(task, seen, job)
    network = task.density.network.cpu() if isinstance(task.density, LearntField) else None
    job.log("one encoder has seen both half-sets: their FSC is too good; hand and frame are not determined")
    return FoundPoses(particles.given(pose=pose), latent if config.made_of == "field" else None, network)


def build_task(
    images: StandardisedImages, particles: Particles, config: Config, job: Job, workers: int = 1
) -> AmortisedPoses:
    """Encoder and density with their first weights, drawn from the seed."""
    torch.manual_seed(config.seed)
    latent_dim = (config.latent_dim or 0) if config.made_of == "field" else 0
    encoder = make_encoder(config, images, latent_dim)
    density, precision = make_density(config, images, latent_dim, job.device)
    cpu = job.device == "cpu"
    points = max(1, POINTS_AT_ONCE // images.layout.count) if cpu else SLICES_AT_ONCE
    task = AmortisedPoses(
        images,
        particles.optics,
        encoder,
        density,
        config.amortised,
        beta=beta_schedule(config.train.beta, latent_dim) if config.amortised.variational else None,
        device=job.device,
        images_at_once=points if isinstance(density, LearntField) else SLICES_AT_ONCE,
        workers=workers if cpu else 1,
        names=particles.name,
    )
    if isinstance(density, LearntVoxels):
        density.match(*task.batch(torch.arange(min(CONTRAST_SAMPLE, len(images)))), task.layout)
    weights = [sum(p.numel() for p in module.parameters()) / 1e6 for module in (encoder, density)]
    job.log(
        f"{weights[0]:.2f} million weights of the encoder, {weights[1]:.2f} million of the density, {task.paths} guesses per "
        f"image, matrix products in {'float32' if precision is None else 'bfloat16'}"
    )
    if latent_dim and config.amortised.pose_only >= config.amortised.epochs * particles.count:
        job.log(
            "warning: conformations stay random: --amortised.pose-only is not over after "
            f"{config.amortised.epochs * particles.count} images; poses alone are learnt"
        )
    return task


def make_encoder(config: Config, images: StandardisedImages, latent_dim: int) -> PoseEncoder:
    """The encoder a config asks for."""
    options, layout, pixel_size = config.amortised, images.layout, images.grid.pixel_size
    if options.encoder == "convolutional":
        return ConvolutionalPoseEncoder(
            layout,
            options.heads,
            latent_dim,
            pixel_size,
            depth=options.depth,
            channels=options.channels,
            kernel_size=options.kernel_size,
        )
    read = layout.within(min(options.last_radius or layout.band, layout.band)).count
    return PerceptronPoseEncoder(
        read, options.heads, latent_dim, pixel_size, width=options.width, layers=options.layers
    )


def make_density(
    config: Config, images: StandardisedImages, latent_dim: int, device: str
) -> tuple[LearntDensity, torch.dtype | None]:
    """The density a config asks for, and the precision of its matrix products; a basis begins with one rigid map."""
    if config.made_of != "field":
        return LearntVoxels(images.grid), None
    options, precision = config.train, choose_precision(config.train.precision, device)
    network = FieldNetwork(
        images.grid,
        latent_dim,
        width=options.width,
        layers=options.layers,
        encoding=options.encoding,
        features=options.encoding_features,
        sigma=options.encoding_sigma,
        domain=options.domain,
    )
    network.amplitude.fill_(images.amplitude)
    return LearntField(network, precision), precision


def poses_of_all(task: AmortisedPoses, seen: float, job: Job) -> tuple[Pose, LatentPosterior]:
    """The best guess of every particle, and its conformation; each process encodes its share."""
    own = job.processes.share(range(len(task.images)))
    parts: list[tuple[Tensor, ...]] = []
    with job.progress(len(own), "encoding") as progress:
        for rows in torch.arange(own.start, own.stop).split(ROWS_AT_ONCE):
            pose, latent = task.best(rows, seen)
            parts.append(tuple(part.cpu() for part in (pose.rotation, pose.shift, latent.mean, latent.log_variance)))
            progress.advance(len(rows))
    rotation, shift, mean, log_variance = (
        job.processes.gather(torch.cat(column)) for column in zip(*parts, strict=True)
    )
    if not task.config.variational:  # a guess without a spread
        log_variance = torch.full_like(log_variance, -torch.inf)
    return Pose(rotation, shift), LatentPosterior(mean, log_variance)


def write_found_ensemble(found: FoundPoses, sign: int, job: Job) -> str:
    """Latents and the field under their fixed names, with bright density. Returns how good they are, in a few words."""
    assert found.latent is not None and found.network is not None
    found.network.amplitude.mul_(sign)
    write_npy(job.outputs / "latent.npy", found.latent.mean.numpy())
    write_npy(job.outputs / "latent_covariance.npy", found.latent.covariance().numpy())
    save_ensemble(job.outputs, FieldEnsemble(found.network))
    return f"{found.particles.count} poses and conformations by an encoder"
