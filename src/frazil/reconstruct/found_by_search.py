"""From particles without poses to refined ones: a search, refinement, and another look all round with the better maps.

The first search sees coarse maps, and leaves some particles in wrong places that refinement near them cannot mend. So when
refinement has settled, every particle is compared once more with views from everywhere, this time of the map of its own
half-set and to the resolution that both halves agree upon; then refinement goes on.
"""

from __future__ import annotations

import torch

from frazil.data.stack import Particles
from frazil.engine.checkpoint import load_checkpoint, save_checkpoint
from frazil.engine.job import Job
from frazil.inference.coarse_images import read_coarse
from frazil.inference.low_volume import resized
from frazil.numerics.shells import first_shell_below
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose
from frazil.reconstruct import Config
from frazil.reconstruct.basis_job import measured_noise
from frazil.reconstruct.consensus import judge
from frazil.reconstruct.maps import believed
from frazil.reconstruct.placing import Placer
from frazil.reconstruct.refine import Refinement, refine
from frazil.reconstruct.search import MOST_IMAGES, search_of, search_poses

# other looks, rounds of refinement before each, and rounds after the last, unless so many were asked for
LOOKS, ROUNDS_BEFORE, ROUNDS = 2, 4, 12
# the other look goes as far as the half-maps agree this well, but not beyond this share of the first search's resolution
AGREED, FINEST = 0.5, 0.7
# how near the grid's views come to any rim, in units of the resolution; how far particles may have been off, in units of
# the first search's range
REACH, RANGE = 0.6, 0.6


def poses_by_search(particles: Particles, reference: Grid, config: Config, job: Job) -> Refinement:
    """Search, refine, look again, refine. A meeting of the processes that work on the job.

    Raises:
        InputError: if the images differ in box or pixel size, or there are too few.
    """
    found = search_poses(particles, config, job)
    particles = particles.given(pose=found.placed.pose)
    rounds = ROUNDS if config.refine.rounds is None else config.refine.rounds
    for look in range(LOOKS):
        few = _of_rounds(config, min(ROUNDS_BEFORE, rounds))
        refinement = refine(particles, reference, few, job, f"refinement_{look}")
        particles = another_look(refinement, found.diameter, reference, config, job, look)
    return refine(particles, reference, _of_rounds(config, rounds), job)


def _of_rounds(config: Config, rounds: int) -> Config:
    return config.model_copy(update={"refine": config.refine.model_copy(update={"rounds": rounds})})


def another_look(
    refinement: Refinement, diameter: float, reference: Grid, config: Config, job: Job, number: int
) -> Particles:
    """Every particle against views from everywhere of the map of its own half-set; the ``number`` is the checkpoint's."""

    def look() -> Pose:
        path = job.checkpoints / f"look_{number}.safetensors"
        if job.resumed and path.is_file():
            tensors, _ = load_checkpoint(path)
            return Pose(tensors["rotation"], tensors["shift"])
        pose = _looked(refinement, diameter, reference, config, job)
        save_checkpoint(path, {"rotation": pose.rotation, "shift": pose.shift}, {})
        return pose

    return refinement.particles.given(pose=job.processes.from_first(look))


def _looked(refinement: Refinement, diameter: float, reference: Grid, config: Config, job: Job) -> Pose:
    particles = refinement.particles
    assert particles.pose is not None and particles.half_set is not None
    consensus, sign = judge(*refinement.halves, config, reference)
    trust = believed(consensus.correlation.corrected).clamp(1e-3, 1 - 1e-3).float()
    grid, settings = particles.grid, config.search
    agreed = grid.resolution_of(first_shell_below(trust, AGREED))
    finest = max(agreed, FINEST * settings.resolution)
    level = search_of(particles, config, diameter, RANGE).level(finest, REACH)
    job.log(f"another look from everywhere at {level.resolution:.1f} Å")
    noise, plane = measured_noise(particles), grid.half_plane(level.low.band)
    placer = Placer(particles, noise, level)
    rotation, shift = particles.pose.rotation.clone(), particles.pose.shift.clone()
    moved = 0
    with job.progress(particles.count, "looking again") as progress:
        for which, half in enumerate(refinement.halves):
            # the images are as they are: density in them may be dark
            volume = half.volume(trust / (1 - trust)) * consensus.mask
            volumes = resized(volume[None].float(), level.low.box_size)
            for rows in torch.nonzero(particles.half_set == which)[:, 0].split(MOST_IMAGES):
                images = read_coarse(particles, grid, plane, noise, rows)
                placed = placer.placed(images, rows, volumes, particles.pose[rows], progress.advance)
                moved += int((placed.pose.rotation - rotation[rows]).flatten(1).norm(dim=1).gt(0.5).sum())
                rotation[rows], shift[rows] = placed.pose.rotation, placed.pose.shift
    job.log(f"{moved} of {particles.count} particles found another place, more than 20° away")
    return Pose(rotation, shift)
