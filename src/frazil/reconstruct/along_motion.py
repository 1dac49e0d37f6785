"""Poses of particles that move continuously: each is refined against its own conformation, and frames follow the motion.

The conformation of a particle is the posterior mean of its map in a learnt basis, by the volumes of its own half-set.
Particles with about the same one are refined together against that map, then the volumes learn from the new poses, a few
times over. Conformations that differ less than an image can tell share a map: were they coarser, every particle would be
drawn towards the middle of its group, and the latents would gather there. A pose that is wrong by a little makes the whole
look as if it had moved by a little, and the best of poses would follow whatever volumes have learnt before. So volumes learn
from poses drawn from their posteriors (Monte Carlo expectation-maximisation: Wei and Tanner 1990), and the best are taken at
the end of a round.

The frame of a conformation (see `inference.still_frames`) is found at some places along the motion, and every particle takes
that between them: a frame that changed in steps would be taken for motion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.data.stack import Particles
from frazil.inference.local_refinement import Refined
from frazil.inference.still_frames import LARGEST_BOX, still_frames
from frazil.numerics.rotations import from_rotation_vector, geodesic_angle, to_rotation_vector
from frazil.numerics.spectrum_table import table_layout, table_of_volumes
from frazil.physics.grid import Grid
from frazil.physics.outline import outline
from frazil.physics.pose import DEGREE, Pose
from frazil.reconstruct.basis import BasisLearner
from frazil.reconstruct.basis_job import read_whitened
from frazil.reconstruct.basis_state import BasisState
from frazil.reconstruct.found_by_search import looked_among
from frazil.reconstruct.maximisation import resize_to
from frazil.reconstruct.own_half import OwnHalf
from frazil.reconstruct.refine import widest_prior

if TYPE_CHECKING:
    from frazil.engine.job import Job
    from frazil.reconstruct import Config

# groups of particles that are refined against one map: at most, and particles that each should have
MOST_GROUPS, PARTICLES_OF_A_GROUP = 64, 20
# times that poses are refined, and volumes learn from them, before frames are looked for
PASSES = 4
# places at which frames are found, and conformations in which lost particles look round
FRAMES, LOOKED_AT = 16, 4
# the frame between places: the width of the kernel in distances to the nearest ones
FRAME_SPREAD = 0.7


@final
@dataclass(frozen=True)
class Conformations:
    """Particles by conformation, in the order of the stack.

    Attributes:
        at: where each particle is, in standard errors of an image. group: of particles that are near each other.
        places: middle of each group. weights: mean weights (1, c_1, ..., c_K) of its particles.
    """

    at: Float[Tensor, "particles basis"]
    group: Int[Tensor, " particles"]
    places: Float[Tensor, "groups basis"]
    weights: Float[Tensor, "groups volumes"]

    @staticmethod
    def of(learner: BasisLearner, state: BasisState, most: int, seed: int) -> Conformations:
        """Groups by what the images say of the volumes of their own half. A meeting of the processes."""
        from sklearn.cluster import KMeans

        weights, information = learner.weights(state)
        order = torch.argsort(learner.images.order)
        weights = weights[order].double()
        # |u - v|^2 is what an image would lose in log likelihood, twice, were it of one and not of the other
        root = torch.linalg.cholesky(information[1:, 1:].double() + 1e-6 * torch.eye(weights.shape[1] - 1))
        at = weights[:, 1:] @ root
        count = max(2, min(most, len(at) // PARTICLES_OF_A_GROUP))
        found = KMeans(count, n_init="auto", random_state=seed).fit_predict(at.numpy())
        group = learner.images.processes.same(torch.from_numpy(found).long())
        present, group = group.unique(return_inverse=True)
        rows = [group == each for each in range(len(present))]
        means = (torch.stack([values[own].mean(0) for own in rows]) for values in (at, weights))
        return Conformations(at, group, *means)

    def map(self, group: int, volumes: Float[Tensor, "volumes n n n"]) -> Float[Tensor, "n n n"]:
        """The map of a group."""
        return torch.tensordot(self.weights[group].to(volumes), volumes, 1)

    def outline(self, volumes: Float[Tensor, "volumes n n n"], grid: Grid) -> Float[Tensor, "n n n"]:
        """A mask round the maps of all groups: most of the noise of a map is outside, where there is no molecule."""
        most = self.map(0, volumes)
        for group in range(1, len(self.places)):
            most = torch.maximum(most, self.map(group, volumes))
        return outline(most, grid).float()


def refine_along_motion(
    particles: Particles, motion: Motion, number: int, correlation: Float[Tensor, " shells"], diameter: float | None
) -> Pose:
    """Poses refined along a motion that was learnt at those of the particles.

    A meeting of the processes that work on the job.

    Args:
        number: of the round. correlation: of the half-maps of all particles.
        diameter: Å, of the molecule, if particles shall look round once more for a far better place; else None.
    """
    pose = particles.pose
    for step in range(PASSES):
        if step > 0:
            motion = motion.at_poses(particles)
        pose = motion.refined(particles, number * PASSES + step, drawn=step < PASSES - 1)
        particles = particles.given(pose=pose)
    if diameter is not None:
        pose = motion.looked_round(particles, diameter, correlation)
        particles = particles.given(pose=pose)
    # the axes of a symmetry are the frame already
    if motion.config.symmetry.upper() == "C1":
        pose = motion.in_still_frames(particles)
    assert pose is not None
    return pose


@final
@dataclass(frozen=True)
class Motion:
    """A motion that was learnt, and the images that it was learnt from.

    Attributes:
        learner, state: what is known of it. sign: +1 if particles are bright in the images.
    """

    learner: BasisLearner
    state: BasisState
    sign: int
    config: Config
    job: Job

    @property
    def grid(self) -> Grid:
        """Of the images."""
        return self.learner.images.grid

    def at_poses(self, particles: Particles) -> Motion:
        """What is known after one more pass over the images, at other poses."""
        band, noise = self.learner.images.plane.band, self.state.noise
        images = read_whitened(particles, band, noise, self.config, self.job, self.sign, again=True)
        learner, state = self.learner.seeing(images, self.state)
        return replace(self, learner=learner, state=learner.improved(state))

    def conformations(self, most: int, more: int = 0) -> Conformations:
        """At most so many groups; ``more`` is added to the seed."""
        return Conformations.of(self.learner, self.state, most, self.config.seed + more)

    def together(self, box: int) -> Float[Tensor, "volumes n n n"]:
        """The volumes of both half-sets together in a box. A meeting of the processes."""
        return resize_to(self.learner.together(self.state), box)

    def halves(self) -> tuple[Float[Tensor, "volumes n n n"], Float[Tensor, "volumes n n n"]]:
        """The volumes of both half-sets in the box of the images."""
        box = self.grid.box_size
        return resize_to(self.state.halves.a, box), resize_to(self.state.halves.b, box)

    def refined(self, particles: Particles, number: int, *, drawn: bool) -> Pose:
        """Every particle refined against the map that its group has in its own half-set; with a ``number`` of its own."""
        assert particles.pose is not None
        images, groups = self.learner.images, self.conformations(MOST_GROUPS, number)
        generator = torch.Generator().manual_seed(self.config.seed + number)
        normal = torch.randn(particles.count, 1, 5, generator=generator, dtype=torch.float64)
        layout, no_tilt = table_layout(images.plane.band), torch.zeros(images.groups, 2)
        mask, halves = groups.outline(self.together(self.grid.box_size), self.grid), self.halves()
        # poses that were made with another map are wide of the truth: the prior stays wide
        prior = replace(widest_prior(self.config.refine, self.grid), defocus=0.0)
        before, group = particles.pose, groups.group[images.order]
        rotation, shift = before.rotation.clone(), before.shift.clone()
        for each in range(len(groups.places)):
            own = images.subset(group == each)
            rows = own.order.sort().values
            known = Pose(before.rotation[rows][:, None].double(), before.shift[rows][:, None].double())
            a, b = (table_of_volumes((groups.map(each, half) * mask)[None].float(), layout) for half in halves)
            seen = OwnHalf(own.alone(), known, no_tilt, (a, b), layout, images.plane)
            found = seen.refined(Refined.unrefined(known), prior)
            pose = found.drawn(normal[rows]) if drawn else found.pose
            rotation[rows], shift[rows] = pose.rotation[:, 0].float(), pose.shift[:, 0].float()
        turned = geodesic_angle(rotation.double(), before.rotation.double()).median() / DEGREE
        self.job.log(
            f"each particle refined against its own of {len(groups.places)} conformations: turned by {turned:.2f}°"
        )
        return self.job.processes.same(Pose(rotation, shift))

    def looked_round(self, particles: Particles, diameter: float, correlation: Float[Tensor, " shells"]) -> Pose:
        """The poses after a look in a few conformations: a lost particle was sorted by a wrong pose, perhaps wrongly."""
        found = self.conformations(LOOKED_AT)
        mask = self.sign * found.outline(self.together(self.grid.box_size), self.grid)
        groups = range(len(found.places))
        a, b = (torch.stack([found.map(group, half) * mask for group in groups]) for half in self.halves())

        def look() -> Pose:
            pose, told = looked_among(particles, (a, b), found.group, correlation, self.config, diameter, self.job)
            self.job.log(told)
            return pose

        return self.job.processes.from_first(look)

    def in_still_frames(self, particles: Particles) -> Pose:
        """The poses in frames in which most of the molecule stands still, along all of the motion."""
        found, box = self.conformations(FRAMES), min(self.grid.box_size, LARGEST_BOX)
        small, volumes = Grid(box, self.grid.extent / box), self.together(box)
        mask = found.outline(volumes, small)
        maps = torch.stack([found.map(group, volumes) * mask for group in range(len(found.places))])

        def frames() -> tuple[Tensor, Tensor]:
            frame = still_frames(maps, found.places, small)
            return to_rotation_vector(frame.turn.double()), frame.offset.double()

        turn, offset = self.job.processes.from_first(frames)
        nearest = torch.cdist(found.places, found.places).sort(dim=1).values[:, 1:3].mean()
        near = torch.softmax(-0.5 * (torch.cdist(found.at, found.places) / (FRAME_SPREAD * nearest)).square(), dim=1)
        assert particles.pose is not None
        moved = particles.pose.of_moved_object(from_rotation_vector(near @ turn).float(), (near @ offset).float())
        return Pose(moved.rotation, moved.shift)
