"""Poses of moving particles: every conformation refined on its own, and all laid on each other so that most stands still.

A rigid map draws poses away from the truth: where a domain has turned, the whole is turned a part of the way, this way or
that. So conformations are learnt at the poses there are, every particle is refined against its own, and all conformations
are brought into one frame (see `inference.still_frames`); where poses were searched, particles look round once more for a far
better place. With these poses conformations are told apart better, so it is done again.

What moves continuously is refined `along_motion`. Discrete states are refined here, each against half-maps of its own
particles alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.data.stack import Particles
from frazil.engine.checkpoint import load_checkpoint, save_checkpoint
from frazil.inference.still_frames import StillFrames, still_frames
from frazil.numerics.rotations import geodesic_angle
from frazil.physics.grid import Grid
from frazil.physics.pose import DEGREE, Pose
from frazil.reconstruct.along_motion import Motion, refine_along_motion
from frazil.reconstruct.basis import BasisLearner
from frazil.reconstruct.basis_job import begin_learning
from frazil.reconstruct.basis_state import BasisState
from frazil.reconstruct.consensus import backproject_together, judge
from frazil.reconstruct.found_by_search import looked_around
from frazil.reconstruct.refine import Refinement, refine

if TYPE_CHECKING:
    from frazil.engine.job import Job
    from frazil.reconstruct import Config

# particles that a half-set of a state needs for a map, and rounds of refinement of each state
FEWEST, ROUNDS = 20, 5


@final
@dataclass(frozen=True)
class Sorted:
    """Particles by discrete state.

    Attributes:
        state: of every particle. places: latents of the states.
    """

    state: Int[Tensor, " particles"]
    places: Float[Tensor, "states latent"]


def refine_by_state(
    refinement: Refinement, reference: Grid, config: Config, job: Job, rounds: int, diameter: float | None = None
) -> Refinement:
    """Rounds of learning conformations and refining each on its own; nothing changes where the molecule is rigid.

    A job that was killed goes on in the round that it was in. A meeting of the processes that work on the job.

    Args:
        refinement: of all particles together. reference: the grid of the maps.
        diameter: Å, of the molecule, where particles look round after each round but the last; None where they do not.
    """
    for number in range(1, rounds + 1):
        particles = refinement.particles
        pose = _kept(number, job)
        if pose is None:
            pose = _refined(refinement, number, reference, config, job, diameter if number < rounds else None)
        if pose is None:
            break
        assert particles.pose is not None
        turned = geodesic_angle(pose.rotation.double(), particles.pose.rotation.double()).median() / DEGREE
        job.metric(by_state=number, median_turn=round(float(turned), 4))
        job.log(f"by conformation {number}/{rounds}: half of the poses turned by {turned:.2f}° or more")
        particles = particles.given(pose=pose)
        halves = backproject_together(particles, reference, config.symmetry, job, refinement.scale)
        refinement = replace(refinement, particles=particles, halves=halves, by_state=number)
    return refinement


def _kept(number: int, job: Job) -> Pose | None:
    """The poses of a round that was finished before the job was killed."""

    def load() -> Pose | None:
        path = job.checkpoints / f"by_state_{number}.safetensors"
        if not (job.resumed and path.is_file()):
            return None
        tensors, told = load_checkpoint(path)
        job.metrics.restore(told["metrics"])
        job.log(f"going on after round {number} by conformation")
        return Pose(tensors["rotation"], tensors["shift"])

    return job.processes.from_first(load)


def _refined(
    refinement: Refinement, number: int, reference: Grid, config: Config, job: Job, diameter: float | None
) -> Pose | None:
    """The poses after a round; None where there is one conformation only."""
    particles = refinement.particles
    consensus, sign = job.processes.from_first(lambda: judge(*refinement.halves, config, reference))
    learner, begun = begin_learning(particles, consensus, config, job, sign=sign, file=f"basis_{number}")
    state = learner.learn(begun, job, job.metrics, lambda name, state: None)
    if state.halves.a.shape[0] == 1:
        job.log("no conformational change that both halves agree upon: particles stay together")
        return None
    if state.mixture is None:
        motion, correlation = Motion(learner, state, sign, config, job), consensus.correlation.corrected
        pose = refine_along_motion(particles, motion, number, correlation, diameter)
    else:
        # a state of few particles would guess whether they are bright or dark: all of them together have told
        sure = config.model_copy(update={"contrast": "bright" if sign > 0 else "dark"})
        pose = refine_states(particles, _sorted(learner, state), reference, sure, job, number, diameter)
    if job.processes.first:
        tensors = {"rotation": pose.rotation, "shift": pose.shift}
        save_checkpoint(job.checkpoints / f"by_state_{number}.safetensors", tensors, {"metrics": job.metrics.text()})
        for path in job.checkpoints.glob(f"state_{number}_*.safetensors"):
            path.unlink()
    return pose


def _sorted(learner: BasisLearner, state: BasisState) -> Sorted:
    """Particles by their likeliest state."""
    found = learner.latents(state)
    assert found.component is not None
    order = torch.argsort(learner.images.order)
    latent = found.mean[order] * found.unit
    present, component = found.component[order].argmax(1).unique(return_inverse=True)
    return Sorted(component, torch.stack([latent[component == each].mean(0) for each in range(len(present))]))


def refine_states(
    particles: Particles, found: Sorted, reference: Grid, config: Config, job: Job, number: int, diameter: float | None
) -> Pose:
    """The particles of every state refined on their own, then brought into one frame.

    States with few particles keep their poses, and take the frame of their nearest neighbour.
    """
    assert particles.pose is not None and particles.half_set is not None
    poses = config.refine.model_copy(update={"rounds": ROUNDS, "defocus": False, "beam_tilt": False})
    own = config.model_copy(update={"refine": poses})
    rotation, shift = particles.pose.rotation.clone(), particles.pose.shift.clone()
    maps: dict[int, Tensor] = {}
    with job.progress(len(found.places), "refining states", unit="states") as progress:
        for state in range(len(found.places)):
            rows = torch.nonzero(found.state == state)[:, 0]
            halves = torch.bincount(particles.half_set[rows], minlength=2)
            if int(halves.min()) >= max(FEWEST, job.processes.count):
                name = f"state_{number}_{state:02d}"
                refined = refine(particles[rows], reference, own, job, name, quiet=True, biased=True)
                pose = refined.particles.pose
                if diameter is not None:
                    look = partial(looked_around, refined, config, diameter, reference, job)
                    pose, _ = job.processes.from_first(look)
                assert pose is not None
                rotation[rows], shift[rows] = pose.rotation, pose.shift
                maps[state] = job.processes.from_first(lambda: _map(refined, config, reference))  # noqa: B023
            progress.advance(1)
    pose = Pose(rotation, shift)
    if len(maps) < 2 or config.symmetry.upper() != "C1":
        # the axes of a symmetry are the frame already
        return pose
    fewest = int(torch.bincount(found.state)[sorted(maps)].min())
    job.log(f"{len(maps)} states refined, of {fewest} particles or more")
    frames = job.processes.from_first(lambda: _frames(maps, found.places, reference))
    moved = pose.of_moved_object(frames.turn[found.state], frames.offset[found.state])
    return Pose(moved.rotation, moved.shift)


def _map(refined: Refinement, config: Config, reference: Grid) -> Float[Tensor, "n n n"]:
    consensus, _ = judge(*refined.halves, config, reference)
    return consensus.filtered * consensus.mask


def _frames(maps: dict[int, Tensor], places: Float[Tensor, "states latent"], reference: Grid) -> StillFrames:
    """The frame of every state."""
    there = torch.tensor(sorted(maps))
    found = still_frames(torch.stack([maps[state] for state in there.tolist()]), places[there], reference)
    nearest = torch.cdist(places.double(), places[there].double()).argmin(1)
    return StillFrames(found.turn[nearest], found.offset[nearest])
