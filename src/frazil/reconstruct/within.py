"""Motion within discrete states: the images of each state are taken as a stack of their own.

Once particles are sorted, the mean, the linear model and the non-linear one of every state are learnt from its images alone,
beginning with its own half-maps; so is the noise, in which the differences between states were counted before. Images of
the other half say how many coordinates a state has, and one that does not move has none.

An image belongs to its likeliest state and to no other. Weighed between several it would bring the maps of all of them into
each, and the largest change that a state then shows is the difference between states, which is no motion. States that
differ in composition are told apart with near certainty, so little is lost; particles that are not are better left out
with component_probability.npy than shared out.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from frazil.data.stack import Particles
from frazil.reconstruct.basis import BasisLearner
from frazil.reconstruct.basis_outputs import tell, write_gains, write_results
from frazil.reconstruct.basis_state import BasisState
from frazil.reconstruct.consensus import backproject_together, judge, write_outputs
from frazil.reconstruct.linear import Halves

if TYPE_CHECKING:
    from frazil.engine.job import Job
    from frazil.reconstruct import Config

# images of each half-set from which a motion is learnt: fewer say too little about its map, let alone a change of it
FEWEST_IMAGES = 50


@final
@dataclass(frozen=True)
class Within:
    """What was found within a state.

    Attributes:
        component: its number. folder: of its results. images: how many it has. coordinates: of its motion.
    """

    component: int
    folder: Path
    images: int
    coordinates: int


def learn_within(
    sorted_by: BasisLearner,
    state: BasisState,
    component: Int[Tensor, " images"],
    particles: Particles,
    config: Config,
    job: Job,
    *,
    sign: int,
) -> tuple[str, Path]:
    """Learn how each state moves, and write outputs/component_000 and so on, each as the outputs of a job.

    Args:
        sorted_by: what found the states. state: what it learnt. component: the state of every image, in working order.
        sign: +1 if particles are bright in the images.

    Returns:
        What moves, in a few words, and the folder to look at next: the largest state that moves, or the job's own.
    """
    assert state.mixture is not None
    found = []
    for number, centre in enumerate(state.mixture.mean):
        chosen = component == number
        images = sorted_by.images.subset(chosen)
        if min(images.counts) == 0:
            job.log(f"state {number}: no image in one of the half-sets")
            continue
        learner = BasisLearner(
            images,
            config.basis.model_copy(update={"components": 1}),
            config.basis.within_dim,
            config.symmetry,
            config.seed,
            sorted_by.focus,
            number,
            pose_prior=sorted_by.pose_prior,
        )
        begun = BasisState(state_halves(state.halves, centre, chosen), state.noise)
        found.append(moved(learner, begun, particles[images.order.sort().values], config, job, sign))
        job.log(f"state {number}: {len(images)} images, {_coordinates(found[-1].coordinates)}{_opened(found[-1])}")
    moving = [one for one in found if one.coordinates > 0]
    if not moving:
        return "no state moves", job.folder
    motion = ", ".join(f"{_coordinates(one.coordinates)} in state {one.component}" for one in moving)
    return f"motion within states: {motion}", max(moving, key=lambda one: one.images).folder


def state_halves(halves: Halves, centre: Float[Tensor, " basis"], chosen: Bool[Tensor, " images"]) -> Halves:
    """The half-maps of the state whose weights are ``centre``, and the contrast of its images."""
    weights = torch.cat((torch.ones(1), centre))
    a, b = (torch.tensordot(weights, volumes, 1)[None] for volumes in halves.pair)
    return Halves(a, b, halves.scale[chosen], halves.spread)


def moved(learner: BasisLearner, begun: BasisState, members: Particles, config: Config, job: Job, sign: int) -> Within:
    """The motion and the maps of one state, made now or by the run that was interrupted. A meeting of the processes.

    Args:
        begun: the half-maps of the state. members: its particles, in the order of the stack.
    """
    processes, folder, number = job.processes, job.outputs / learner.name, learner.component
    assert number is not None
    # the table of particles is written when all else is there
    whole = processes.from_first(lambda: job.resumed and (folder / "particles.star").is_file())
    if not whole:
        if min(learner.images.counts) >= FEWEST_IMAGES:
            _learn(learner, begun, folder, job)
        else:
            job.log(f"state {number}: too few images to learn a motion from, it is left rigid")
        a, b = backproject_together(members, members.grid, config.symmetry, job)
        if processes.first:
            write_outputs(folder, judge(a, b, config, members.grid, sign)[0], members)
    if processes.first:
        learner.checkpoint(job).unlink(missing_ok=True)
    latent = folder / "latent.npy"
    count = processes.from_first(lambda: np.load(latent, mmap_mode="r").shape[1] if latent.is_file() else 0)
    return Within(number, folder, len(learner.images), count)


def _learn(learner: BasisLearner, begun: BasisState, folder: Path, job: Job) -> None:
    job.log(f"state {learner.component}: learning its motion from {len(learner.images)} images")
    metrics = job.metrics_of(folder)
    try:
        learnt = learner.learn(begun, job, metrics, partial(tell, job, metrics, learner.images.grid))
    finally:
        metrics.close()
    write_gains(learnt, folder, job.processes)
    if not learnt.rigid:
        write_results(learner, learnt, folder)


def _coordinates(count: int) -> str:
    return f"{count or 'no'} latent coordinate{'' if count == 1 else 's'}"


def _opened(one: Within) -> str:
    return f": frazil analyze {shlex.quote(str(one.folder))}"
