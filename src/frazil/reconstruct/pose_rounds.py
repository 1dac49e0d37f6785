"""Rounds of refinement: half-maps from the poses there are, then every particle's pose against the map of its own half.

A particle begins at the best guesses of the encoder and at the best of some random poses, so that one that was never
guessed right is found all the same. The two halves meet only where encoder and first map were trained on all particles;
from there each goes its own way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from frazil.data.stack import Particles
from frazil.inference.pose_refinement import ObservedImages, refine_poses
from frazil.inference.proposals import best_proposal
from frazil.numerics.rotations import geodesic_angle, random_rotations
from frazil.physics.density import Voxels
from frazil.physics.pose import DEGREE, Pose
from frazil.reconstruct.amortised import AmortisedPoses
from frazil.reconstruct.consensus import backproject_together
from frazil.reconstruct.moving_reference import filtered_maps, moving_maps

if TYPE_CHECKING:
    from frazil.engine.job import Job
    from frazil.reconstruct import Config

# images refined at once, and images that the noise is measured on
ROWS_AT_ONCE, NOISE_SAMPLE = 128, 500
# steps out to the band that was trained, where minima are wide, and then out to the edge
COARSE_STEPS, FINE_STEPS = 4, 5


@final
@dataclass(frozen=True)
class Reference:
    """What the particles of a half are compared with.

    Attributes:
        maps: the mean of the half, then its directions of change, in the unit of the standardised images. rotations: random
            ones. slices: of the mean at these, out to the coarse band.
    """

    maps: list[Voxels]
    rotations: Float[Tensor, "rotations 3 3"]
    slices: Complex[Tensor, "rotations coefficients"]


def refine_in_rounds(
    task: AmortisedPoses, particles: Particles, pose: Pose, seen: float, config: Config, job: Job
) -> Pose:
    """Refined poses of all particles, one each.

    Args:
        pose: of every particle and candidate, the best first. seen: images the task was trained on.
    """
    coarse = task.layout_after(seen).band
    generator = torch.Generator().manual_seed(config.seed)
    for number in range(1, config.amortised.refine + 1):
        first = Pose(pose.rotation[:, 0], pose.shift[:, 0])
        maps = reference_maps(task, particles.given(pose=first), config, job)
        weight = whitening(task, particles, first, maps[0][0])
        rotations = random_rotations(config.amortised.proposals, generator).to(task.device)
        references = [reference(task, half, rotations, coarse) for half in maps]
        pose = refine_all(task, particles, pose, references, weight, coarse, job)
        turned = geodesic_angle(pose.rotation[:, 0], first.rotation) / DEGREE
        job.log(
            f"refinement {number}/{config.amortised.refine}: half of the poses turned by {turned.median():.2f}° or more"
        )
        job.metric(refinement=number, turned_median=round(float(turned.median()), 4))
    return Pose(pose.rotation[:, :1], pose.shift[:, :1])


def reference_maps(task: AmortisedPoses, particles: Particles, config: Config, job: Job) -> list[list[Voxels]]:
    """The maps of each half in the unit of the standardised images: the mean, and directions of change where asked for."""
    grid = particles.grid
    halves = filtered_maps(*backproject_together(particles, grid, config.symmetry, job))
    if config.amortised.refine_dimensions:
        halves = moving_maps(particles, halves, config.amortised.refine_dimensions, config, job)
    return [[Voxels((one / task.images.amplitude).to(task.device), grid) for one in half] for half in halves]


def reference(task: AmortisedPoses, maps: list[Voxels], rotations: Tensor, coarse: int) -> Reference:
    """The maps of a half with the views of its mean from random rotations."""
    still = Pose(rotations, rotations.new_zeros(len(rotations), 2))
    return Reference(maps, rotations, maps[0].project(still, task.images.grid, task.layout.within(coarse)))


def whitening(task: AmortisedPoses, particles: Particles, pose: Pose, density: Voxels) -> Tensor:
    """Weights of the coefficients: one over the power of what a map leaves of the images, shell by shell."""
    rows = torch.arange(0, particles.count, max(1, particles.count // NOISE_SAMPLE))
    observed = observe(task, rows, task.weight)
    rest = observed.seen([density], pose[rows].to(str(task.device)))[:, 0] - observed.coefficients
    shell = task.layout.shell
    power = torch.zeros(int(shell.max()) + 1, device=task.device).index_add_(0, shell, rest.abs().square().mean(0))
    power = power / torch.bincount(shell)
    return task.weight / power[shell].clamp(min=1e-12)


def observe(task: AmortisedPoses, rows: Tensor, weight: Tensor) -> ObservedImages:
    """Images with their CTF, as refinement asks for them."""
    return ObservedImages(*task.batch(rows), weight, task.images.grid, task.layout)


def refine_all(
    task: AmortisedPoses,
    particles: Particles,
    pose: Pose,
    references: list[Reference],
    weight: Tensor,
    coarse: int,
    job: Job,
) -> Pose:
    """The best refined candidate of every particle, against the map of its half; each process refines its share."""
    assert particles.half_set is not None
    own = job.processes.share(range(particles.count))
    rotation, shift = torch.empty(len(own), 1, 3, 3), torch.empty(len(own), 1, 2)
    with job.progress(len(own), "refining poses") as progress:
        for half in (0, 1):
            members = torch.nonzero(particles.half_set[own.start : own.stop] == half)[:, 0]
            for places in members.split(ROWS_AT_ONCE):
                observed = observe(task, places + own.start, weight)
                guesses = pose[places + own.start].to(str(task.device))
                candidates = with_proposal(guesses, references[half], observed.within(coarse), task.shifts)
                found = refine_candidates(references[half].maps, observed, candidates, coarse)
                rotation[places, 0], shift[places, 0] = found.rotation.cpu(), found.shift.cpu()
                progress.advance(len(places))
    return Pose(job.processes.gather(rotation), job.processes.gather(shift))


def with_proposal(candidates: Pose, reference: Reference, observed: ObservedImages, shifts: Tensor) -> Pose:
    """The best random pose of every image as one more candidate."""
    if len(reference.rotations) == 0:
        return candidates
    images, transfer, weight = observed.coefficients, observed.transfer, observed.weight
    proposal = best_proposal(
        reference.slices, reference.rotations, shifts, images, transfer, weight, observed.grid, observed.layout
    )
    return Pose(
        torch.cat((candidates.rotation, proposal.rotation[:, None]), 1),
        torch.cat((candidates.shift, proposal.shift[:, None]), 1),
    )


def refine_candidates(maps: list[Voxels], observed: ObservedImages, pose: Pose, coarse: int) -> Pose:
    """Of each image's candidates, all refined out to the coarse band, the best one refined out to the edge."""
    seen = observed.within(coarse)
    refined = [refine_poses(maps, seen, pose[:, c], steps=COARSE_STEPS) for c in range(pose.shift.shape[1])]
    best = torch.stack([one.error for one in refined]).argmin(0)
    row = torch.arange(len(best), device=best.device)
    rotation = torch.stack([one.pose.rotation for one in refined])[best, row]
    shift = torch.stack([one.pose.shift for one in refined])[best, row]
    latent = torch.stack([one.latent for one in refined])[best, row]
    return refine_poses(maps, observed, Pose(rotation, shift), latent, steps=FINE_STEPS).pose
