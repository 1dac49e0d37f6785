"""A neural ensemble with given poses: from particles to latents, their covariance and a field."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from frazil.data.ensemble import save_ensemble
from frazil.data.stack import Particles, write_particles_star
from frazil.engine.files import write_npy
from frazil.engine.processes import Processes
from frazil.engine.train import train
from frazil.errors import InputError
from frazil.inference.posteriors import LatentPosterior
from frazil.inference.streamed import one_thread_per_operation
from frazil.physics.field import FieldEnsemble
from frazil.reconstruct.autoencoder import Autoencoder, choose_precision
from frazil.reconstruct.coefficients import StandardisedImages, standardise

if TYPE_CHECKING:
    from frazil.engine.job import Job
    from frazil.reconstruct import Config

# images whose latents are computed at once
ROWS_AT_ONCE = 256


def train_neural(particles: Particles, config: Config, job: Job, *, sign: float) -> str:
    """Train the autoencoder and write what it has learnt into the job.

    Writes outputs/latent.npy (particles, latent), latent_covariance.npy (particles, latent, latent), and the ensemble:
    ensemble.safetensors and ensemble.json; particles.star is written again if poses were refined. An interrupted job goes
    on from its checkpoint.

    Args:
        particles: with poses. config: of the verb. sign: +1 if particles are bright in the images, -1 if dark.

    Returns:
        How good it is, in a few words.

    Raises:
        InputError: if there are no poses, the images differ in box or pixel size, or the crop does not fit.
        FrazilError: if training diverges.
    """
    images = read_images(particles, config, job, sign)
    with one_thread_per_operation() as workers:
        task = build_task(images, particles, config, job, workers)
        train(
            task,
            count=particles.count,
            batch_size=config.train.batch_size,
            epochs=config.train.epochs,
            accumulate=config.train.accumulate,
            checkpoint_every=config.train.checkpoint_every,
            seed=config.seed,
            job=job,
            name="neural",
        )
    posterior = latents_of_all(task, job.processes)
    if job.processes.first:
        write_results(task, posterior, particles, job.outputs)
    divergence = posterior.divergence().mean().item()
    job.metric(latent_divergence=divergence)
    return f"{divergence:.1f} nats of conformation per particle"


def read_images(particles: Particles, config: Config, job: Job, sign: float) -> StandardisedImages:
    """The images as the network sees them, kept in memory.

    Raises:
        InputError: if there are no poses, or the images cannot be brought to one box.
    """
    if particles.pose is None and config.poses in (None, "given"):
        raise InputError(
            "the particles have no poses", where=particles.path, remedy="refine them first, and give the refined table"
        )
    options, grid = config.train, particles.grid
    if options.box is not None and options.box > grid.box_size:
        raise InputError(
            f"{options.box} px is more than the box of the images, {grid.box_size} px",
            where="--train.box",
            remedy=f"give at most {grid.box_size}",
        )
    side = grid.box_size if options.box is None else options.box
    # half a disc of float16 pairs per image; the rest is one batch of activations, weights and their moments
    size = particles.count * torch.pi / 8 * side**2 * 4 + 5e8
    job.announce_memory(size, "the images' Fourier coefficients and the networks")
    with job.progress(particles.count, "reading images") as progress:
        return standardise(
            particles,
            sign=sign,
            box=options.box,
            window=(options.window_inner, options.window_outer),
            advance=progress.advance,
        )


def build_task(
    images: StandardisedImages, particles: Particles, config: Config, job: Job, workers: int = 1
) -> Autoencoder:
    """The autoencoder with its first weights, drawn from the seed."""
    assert particles.pose is not None
    precision = choose_precision(config.train.precision, job.device)
    torch.manual_seed(config.seed)
    task = Autoencoder(
        images,
        particles.pose,
        particles.optics,
        config.train,
        latent_dim=config.latent_dim or 0,
        device=job.device,
        precision=precision,
        workers=workers if job.device == "cpu" else 1,
        names=particles.name,
    )
    weights = sum(parameter.numel() for module in task.modules().values() for parameter in module.parameters())
    job.log(
        f"{weights / 1e6:.1f} million weights, {images.layout.count} coefficients per image, "
        f"matrix products in {'float32' if precision is None else 'bfloat16'}"
    )
    return task


def latents_of_all(task: Autoencoder, processes: Processes) -> LatentPosterior:
    """Latent posteriors of every particle, in the order of the stack; each process encodes its share."""
    own = processes.share(range(len(task.images)))
    parts = [task.posterior(rows) for rows in torch.arange(own.start, own.stop).split(ROWS_AT_ONCE)]
    return LatentPosterior(
        processes.gather(torch.cat([part.mean.cpu() for part in parts])),
        processes.gather(torch.cat([part.log_variance.cpu() for part in parts])),
    )


def write_results(task: Autoencoder, posterior: LatentPosterior, particles: Particles, folder: Path) -> None:
    """Latents, the ensemble, and the poses if they were refined."""
    write_npy(folder / "latent.npy", posterior.mean.numpy())
    write_npy(folder / "latent_covariance.npy", posterior.covariance().numpy())
    save_ensemble(folder, FieldEnsemble(task.field.cpu()))
    if (pose := task.refined_poses()) is not None:
        write_particles_star(particles, folder / "particles.star", pose=pose)
