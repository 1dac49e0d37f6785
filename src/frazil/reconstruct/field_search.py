"""Poses for particles that have none, by searching them against a neural field while it is trained: from job to results."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from frazil.data.stack import Particles
from frazil.engine.train import train
from frazil.inference.streamed import one_thread_per_operation
from frazil.physics.pose import Pose
from frazil.reconstruct.found_poses import FoundPoses
from frazil.reconstruct.neural import build_task, latents_of_all, read_images
from frazil.reconstruct.searched_field import RandomPoses, SearchedAutoencoder

if TYPE_CHECKING:
    from frazil.engine.job import Job
    from frazil.reconstruct import Config


def search_with_field(particles: Particles, config: Config, job: Job) -> FoundPoses:
    """Train encoder and field, searching the poses on the way; poses of the table are not looked at.

    An interrupted job goes on from its checkpoint.

    Raises:
        InputError: if the images differ in box or pixel size, or the crop does not fit.
        FrazilError: if training diverges.
    """
    options, settings = config.train, config.hierarchical
    images = read_images(particles, config, job, sign=1.0)
    with one_thread_per_operation() as workers:
        given = particles.given(pose=Pose.identity(particles.count))
        with warnings.catch_warnings():
            # an encoder of no coordinates ends in an empty layer, which torch remarks upon
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            autoencoder = build_task(images, given, config, job, workers)
        task = SearchedAutoencoder(autoencoder, settings, job.processes, workers)
        job.log(describe(task, job))
        if settings.pretrain:
            train(
                RandomPoses(autoencoder), count=settings.pretrain, batch_size=options.batch_size, epochs=1,
                checkpoint_every=options.checkpoint_every, seed=config.seed, job=job, name="random_poses",
            )  # fmt: skip
        train(
            task,
            count=particles.count,
            batch_size=options.batch_size,
            epochs=options.epochs,
            accumulate=options.accumulate,
            stretch=-(-settings.renew // options.batch_size) * options.batch_size,
            checkpoint_every=options.checkpoint_every,
            seed=config.seed,
            job=job,
            name="searched",
        )
        posterior = latents_of_all(autoencoder, job.processes)
    pose = task.found()
    found = Pose(pose.rotation.clone(), pose.shift.clone())
    job.log("one field has seen both half-sets: their FSC is too good; hand and frame are not determined")
    latent = posterior if autoencoder.latent_dim else None
    return FoundPoses(particles.given(pose=found), latent, autoencoder.field.cpu())


def describe(task: SearchedAutoencoder, job: Job) -> str:
    """One line about the search, as fine as it will be."""
    last = task.hierarchy(task.autoencoder.config.epochs)
    bands = ", ".join(str(band) for band in last.bands)
    place = "" if job.device == "cpu" else ", on the CPU"
    return (
        f"poses are searched every {task.config.every} epochs at bands of {bands} Fourier px, to {last.spacing:.2f} degrees "
        f"and {task.shift_spacing:.2f} px{place}"
    )
