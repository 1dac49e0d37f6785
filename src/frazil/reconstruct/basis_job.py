"""The ensemble part of `frazil reconstruct` where the density is a basis: memory, files, and the order of the work."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.data.stack import Particles
from frazil.engine.files import write_text
from frazil.engine.machine import GIGABYTE
from frazil.errors import InputError
from frazil.inference.local_refinement import PriorWidths
from frazil.numerics.shells import first_shell_below
from frazil.numerics.spectrum_table import table_voxels
from frazil.physics.noise import Noise
from frazil.reconstruct.basis import BasisLearner
from frazil.reconstruct.basis_outputs import tell, write_gains, write_results
from frazil.reconstruct.basis_state import BasisState
from frazil.reconstruct.consensus import checked_mask, planned_memory
from frazil.reconstruct.linear import Halves
from frazil.reconstruct.maps import Consensus
from frazil.reconstruct.marching import marching_bands
from frazil.reconstruct.maximisation import box_of
from frazil.reconstruct.nonlinear import MOST_VOLUMES
from frazil.reconstruct.whitened import WhitenedImages
from frazil.reconstruct.within import learn_within

if TYPE_CHECKING:
    from frazil.engine.job import Job
    from frazil.reconstruct import Config

NOISE_SAMPLE = 500
# shells kept beyond the one where half-maps of the consensus agree no more: what moves is blurred in it, and finer in a state
MARGIN = 2.0
LEAST_BAND = 8
# tables held per half at the peak: present, gradient, and the room of two for lists of voxels and products on the way
TABLES_PER_HALF = 4
# whole maps at the peak: those of the consensus, and those that the report draws
MAPS = 16
# the share of memory that coefficients may take before they go to disk, and that tables may take before they are made coarser
SHARE_FOR_IMAGES, SHARE_FOR_TABLES = 0.6, 0.8


def learn_basis(
    particles: Particles,
    consensus: Consensus,
    config: Config,
    job: Job,
    *,
    sign: int,
    pose_prior: PriorWidths | None = None,
) -> tuple[str, Path]:
    """Learn the ensemble and write latent.npy, latent_covariance.npy, the ensemble and those of both halves; then the same
    for the motion within each state where it is asked for.

    Args:
        pose_prior: what was known of poses that were then refined by these images: latents are as unsure as that leaves
            them. None where poses are given.

    Returns:
        How good it is, in a few words, and the folder to look at next.

    Raises:
        InputError: if the images differ in box or pixel size, or memory is too small.
    """
    if job.device != "cpu":
        job.log("a basis is learnt on the CPU")
    learner, begun = begin_learning(particles, consensus, config, job, sign=sign)
    learner = replace(learner, pose_prior=pose_prior)
    images, grid = learner.images, particles.grid
    job.log(f"{images.plane.count} coefficients per image, to {grid.resolution_of(images.plane.band):.1f} Å")
    state = learner.learn(begun, job, job.metrics, partial(tell, job, job.metrics, grid))
    write_gains(state, job.outputs, job.processes)
    good, component = "no conformational change that both halves agree upon: one rigid structure", None
    if state.halves.a.shape[0] > 1:
        good, component = write_results(learner, state, job.outputs)
    if config.basis.within == 0:
        return good, job.folder
    if component is None:
        good, component = "all particles are of one state", torch.zeros(len(images), dtype=torch.int64)
    motion, following = learn_within(learner, state, component, particles, config, job, sign=sign)
    return f"{good}; {motion}", following


def begin_learning(
    particles: Particles, consensus: Consensus, config: Config, job: Job, *, sign: int, file: str = "basis"
) -> tuple[BasisLearner, BasisState]:
    """The learner with its images, and what it knows before its first step: one rigid map in each half.

    Args:
        file: name of the checkpoint.
    """
    given = config.basis.focus_mask
    focus = None if given is None else checked_mask(given, particles.grid, "focus mask")
    noise = measured_noise(particles)
    began = job.checkpoints / f"{file}_band.txt"
    band = band_that_fits(working_band(consensus, config.basis.resolution), particles, config, job, began)
    images = read_whitened(particles, band, noise, config, job, sign)
    if job.processes.first:  # not before: a job that had no memory to begin decides anew
        write_text(began, f"{band}\n")
    learner = BasisLearner(images, config.basis, config.latent_dim, config.symmetry, config.seed, focus, file=file)
    halves = Halves(consensus.half_a[None], consensus.half_b[None], torch.ones(len(images), 2), 0.0)
    return learner, BasisState(halves, noise)


def working_band(consensus: Consensus, resolution: float | None) -> int:
    """The highest shell worth using: a little beyond where the half-maps of the consensus agree, or as asked."""
    grid = consensus.grid
    if resolution is not None:
        shell = grid.shell_of(resolution)
    else:
        shell = MARGIN * first_shell_below(consensus.correlation.corrected, 0.143) + 1
    return max(min(LEAST_BAND, grid.last_shell), min(grid.last_shell, math.ceil(shell)))


def band_that_fits(wanted: int, particles: Particles, config: Config, job: Job, began: Path) -> int:
    """The highest shell, up to the one that is wanted, for whose tables there is memory.

    It decides the result, and memory comes and goes: a job that is taken up again keeps what it began with.

    Args:
        began: a file that holds the shell, once a job has begun.

    Raises:
        InputError: where a resolution was asked for and does not fit, or none does.
    """
    grid, count = particles.grid, particles.count
    room = job.memory_to_be_had()

    def fitting() -> int:
        if job.resumed and began.is_file():
            return int(began.read_text())
        if room is None:
            return wanted
        bands = range(min(LEAST_BAND, wanted), wanted + 1)
        fits = [band for band in bands if planned_tables(band, grid.box_size, count, config) <= SHARE_FOR_TABLES * room]
        return max(fits, default=bands[0])

    band = job.processes.from_first(fitting)
    if band == wanted:
        return band
    needed = planned_tables(wanted, grid.box_size, count, config) / SHARE_FOR_TABLES / GIGABYTE
    wish, reached = (f"{grid.resolution_of(each):.1f} Å" for each in (wanted, band))
    if config.basis.resolution is not None:
        what = f"conformations to {wish} need {needed:.2g} GB of memory"
        remedy = f"ask for {reached} with --basis.resolution, for fewer --basis.volumes, or allow more with --memory GB"
        raise InputError(what, remedy=remedy)
    job.log(f"conformations to {reached}, as memory allows; to {wish} they need {needed:.2g} GB (--memory)")
    return band


def measured_noise(particles: Particles) -> Float[Tensor, "groups shells"]:
    """Power of the noise in each optics group: that of whole images, which are almost all noise; refined later."""
    spectra = []
    for group in range(len(particles.grids)):
        rows = torch.nonzero(particles.group == group)[:, 0]
        rows = rows if len(rows) else torch.arange(particles.count)
        sample = rows[torch.linspace(0, len(rows) - 1, min(NOISE_SAMPLE, len(rows))).round().to(torch.int64)]
        power = Noise.measured(particles.images(sample)).power
        # shell 0 is the mean of the image, which normalisation took away
        power[0] = power[1]
        spectra.append(power)
    return torch.stack(spectra)


def planned_tables(band: int, box: int, count: int, config: Config) -> float:
    """Bytes of the tables and volumes at the peak, and of what a pass learns of every image."""
    basis = config.basis
    directions = basis.volumes or (MOST_VOLUMES if basis.model == "nonlinear" else 0)
    moving = 1 + max(directions, config.latent_dim or (basis.within_dim or basis.most_dimensions))
    # the maps of the states are kept while one of them learns to move
    volumes = max(moving, basis.components) if basis.within == 0 else moving + basis.components
    table = table_voxels(band) * 2 * volumes * 4
    own = box_of(box, band)
    transforms = 2 * 3 * (2 * own) ** 3 * 4  # one padded volume and its spectra in each half
    # twice, in the pieces of a pass and in one: overlaps of volumes, covariance, shares of landmarks, pose and optics
    of_images = count * 2 * (2 * volumes**2 + config.basis.landmarks + 30) * 4
    maps = (4 * volumes * own**3 + MAPS * box**3) * 4
    return 2 * TABLES_PER_HALF * table + maps + transforms + of_images + 5e8


def read_whitened(
    particles: Particles, band: int, noise: Tensor, config: Config, job: Job, sign: float, *, again: bool = False
) -> WhitenedImages:
    """The coefficients in memory, or on the job's disk when memory is short.

    Args:
        again: they were read before, at other poses, and take the place of those: nothing new is said.
    """
    grid = particles.grid
    tables = planned_tables(band, grid.box_size, particles.count, config)
    if config.basis.within != 0:
        tables = max(tables, planned_memory(particles, grid))
    size = WhitenedImages.size(math.ceil(particles.count / job.processes.count), grid, band)
    room = job.memory_to_be_had()
    short = room is not None and size > SHARE_FOR_IMAGES * max(room - tables, 0)
    on_disk = config.basis.cache == "disk" or (config.basis.cache == "auto" and short)
    where = f"; {size / 1e9:.1f} GB of images on disk" if on_disk else ""
    if not again:
        job.announce_memory(
            tables + (0 if on_disk else size), f"tables of the basis{'' if on_disk else ' and images'}{where}"
        )
    with job.progress(math.ceil(particles.count / job.processes.count), "reading images") as progress:
        file = job.checkpoints / f"coefficients_{job.processes.rank}.float16" if on_disk else None
        return WhitenedImages(
            particles, band, noise, sign=sign, file=file, bands=marching_bands(band), processes=job.processes,
            advance=progress.advance, log=job.log,
        )  # fmt: skip
