"""Several molecules found in one stack: each refined and written as a result of its own.

The particles of molecule 0, 1, ... have their maps in outputs/component_000, component_001, ...; component.npy says which
molecule each row of the input is of.
"""

from __future__ import annotations

import torch

from frazil.data.stack import Particles
from frazil.engine.files import write_npy
from frazil.engine.job import Job
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose
from frazil.reconstruct import Config
from frazil.reconstruct.consensus import backproject_together, judge, write_outputs
from frazil.reconstruct.placing import Placed
from frazil.reconstruct.refine import Refinement, refine

# particles that a half-set needs to be worth refining
FEWEST = 10


def refine_molecules(particles: Particles, placed: Placed, reference: Grid, config: Config, job: Job) -> Refinement:
    """Refine every molecule with its own particles, and write its maps.

    A meeting of the processes that work on the job.

    Returns:
        The refinement of the molecule with the most particles, with all particles of the stack in it.
    """
    particles = particles.given(pose=placed.pose)
    assert particles.pose is not None and particles.half_set is not None
    component = placed.component
    rotation, shift, scale = particles.pose.rotation.clone(), particles.pose.shift.clone(), torch.ones(particles.count)
    counts = torch.bincount(component, minlength=config.search.classes)
    largest, kept = int(counts.argmax()), None
    optics = particles.optics
    for number, count in enumerate(counts.tolist()):
        rows = torch.nonzero(component == number)[:, 0]
        own = particles[rows]
        assert own.half_set is not None
        halves = torch.bincount(own.half_set, minlength=2)
        if int(halves.min()) < max(FEWEST, job.processes.count):
            job.log(f"molecule {number}: {count} particles, too few for maps")
            continue
        refinement = refine(own, reference, config, job, f"molecule_{number:03d}")
        pose = refinement.particles.pose
        assert pose is not None
        rotation[rows], shift[rows], scale[rows] = pose.rotation, pose.shift, refinement.scale
        if optics is not None and refinement.particles.optics is not None:
            optics = optics.replaced(rows, refinement.particles.optics)
        consensus, _ = job.processes.from_first(lambda: judge(*refinement.halves, config, reference))  # noqa: B023
        job.log(f"molecule {number}: {count} particles, {consensus.resolution():.2f} Å in the mask")
        if job.processes.first:
            folder = job.outputs / f"component_{number:03d}"
            write_outputs(folder, consensus, refinement.particles, refinement.scale)
        kept = refinement if number == largest else kept
    if job.processes.first:
        write_npy(job.outputs / "component.npy", component.numpy())
    whole = particles.given(pose=Pose(rotation, shift), optics=optics)
    if kept is None:
        halves = backproject_together(whole, reference, config.symmetry, job)
        return Refinement(particles, whole, scale, halves, torch.zeros(1, reference.box_size // 2 + 1), 0)
    return Refinement(particles, whole, scale, kept.halves, kept.correlation, kept.kept)
