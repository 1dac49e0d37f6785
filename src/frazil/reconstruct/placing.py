"""Images placed against volumes: the likeliest views of a grid of poses, each refined off the grid, the best of them kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.data.stack import Particles
from frazil.inference.local_refinement import PriorWidths, refine_poses
from frazil.inference.matching import CoarseImages, Views, likeliest_views
from frazil.inference.streamed import one_thread_per_operation
from frazil.numerics.rotation_grid import half_turned
from frazil.physics.pose import Pose
from frazil.reconstruct.ab_initio import Level

# views of an image that are refined off the grid, and how far off they may be: degrees, and a share of the resolution
CANDIDATES, OFF_GRID, OFF_SHIFT = 8, 8.0, 0.5
# images that a thread refines at once
AT_ONCE = 128


@final
@dataclass(frozen=True)
class Placed:
    """Where images were placed.

    Attributes:
        pose: of each. component: which volume it is of. likelihood: log likelihood ratio to an image of noise alone.
    """

    pose: Pose
    component: Int[Tensor, " images"]
    likelihood: Float[Tensor, " images"]

    def __getitem__(self, rows: Tensor) -> Placed:
        return Placed(self.pose[rows], self.component[rows], self.likelihood[rows])

    def moved(self, shifts: Float[Tensor, "images 2"]) -> Placed:
        """The same images before they were moved back by shifts in Å."""
        return replace(self, pose=Pose(self.pose.rotation, self.pose.shift + shifts))

    @staticmethod
    def joined(parts: Sequence[Placed]) -> Placed:
        """All the images of the parts, one part after the other."""
        rotation, shift = (torch.cat([getattr(part.pose, name) for part in parts]) for name in ("rotation", "shift"))
        component, likelihood = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("component", "likelihood")
        )
        return Placed(Pose(rotation, shift), component, likelihood)


@final
class Placer:
    """Places images of a stack at one level of a search.

    Args:
        noise: of the optics groups, that the images were whitened by. level: grid, shifts and band.
    """

    def __init__(self, particles: Particles, noise: Float[Tensor, "groups shells"], level: Level) -> None:
        self.particles, self.level = particles, level
        self.plane = level.search.grid.half_plane(level.low.band)
        # half a sum of squares is the exponent in a refinement, a sum of squares in a comparison with views
        self.used = level.used[self.plane.shell]
        self.gain = noise.rsqrt()[:, self.plane.shell] * self.used * 2**0.5

    def placed(
        self,
        images: CoarseImages,
        rows: Int[Tensor, " images"],
        volumes: Float[Tensor, "volumes n n n"],
        known: Placed | None = None,
        everywhere: bool = True,
        advance: Callable[[int], None] = lambda count: None,
    ) -> Placed:
        """The likeliest pose and volume of images.

        Args:
            images: whose ``rows`` of the stack these are. volumes: in the box of the level.
            known: where they were placed before: tried beside the poses of the grid, or, not ``everywhere``, alone.
        """
        tables = [self.level.low.table(volume[None]) for volume in volumes]
        pose, component = self._candidates(images, volumes, known, everywhere or known is None)
        parts: list[Placed] = []
        with one_thread_per_operation() as threads, ThreadPoolExecutor(threads) as pool:
            batches = torch.arange(len(rows)).split(AT_ONCE)
            for part in pool.map(
                lambda b: self._best(images.values[b], rows[b], pose[b], component[b], tables), batches
            ):
                parts.append(part)
                advance(len(part.component))
        return Placed.joined(parts)

    def _candidates(
        self, images: CoarseImages, volumes: Tensor, known: Placed | None, everywhere: bool
    ) -> tuple[Pose, Tensor]:
        """Poses (images, candidates), and of which volume each is."""
        if known is not None and not everywhere:
            return known.pose[:, None], known.component[:, None]
        level, low = self.level, self.level.low
        rotations = level.rotations()
        views = Views(low.views(volumes, rotations))
        number, shift, _ = likeliest_views(
            level.cut(images).scaled(self.used),
            views,
            level.cells(),
            low.plane,
            CANDIDATES,
            shift_prior=level.shift_prior(),
        )
        half, view = number >= views.count, number % views.count
        component, turn = view // len(rotations), rotations[view % len(rotations)]
        turn = torch.where(half[..., None, None], half_turned(turn), turn)
        pose = Pose(turn, level.shifts[shift])
        if known is None:
            return pose, component
        rotation = torch.cat((known.pose.rotation[:, None], pose.rotation), 1)
        both = Pose(rotation, torch.cat((known.pose.shift[:, None], pose.shift), 1))
        return both, torch.cat((known.component[:, None], component), 1)

    def _best(self, values: Tensor, rows: Tensor, pose: Pose, component: Tensor, tables: Sequence[Tensor]) -> Placed:
        """The likeliest of the images' candidates (images, candidates), after each was refined."""
        prior = PriorWidths(rotation=OFF_GRID, shift=OFF_SHIFT * self.level.resolution)
        score = torch.zeros(component.shape, dtype=torch.float64)
        rotation, shift = torch.empty_like(pose.rotation), torch.empty_like(pose.shift)
        optics = self.particles.optics
        for number, table in enumerate(tables):
            image, candidate = torch.nonzero(component == number, as_tuple=True)
            if len(image) == 0:
                continue
            whose = rows[image]
            found = refine_poses(
                values[image, : self.plane.count] * (self.used * 2**0.5)[:, None], pose[image, candidate][:, None],
                None if optics is None else optics[whose], self.level.search.grid, self.plane, self.gain,
                self.particles.group[whose], table, self.level.low.layout, prior,
            )  # fmt: skip
            score[image, candidate] = found.log_likelihood[:, 0]
            rotation[image, candidate] = found.pose.rotation[:, 0].float()
            shift[image, candidate] = found.pose.shift[:, 0].float()
        best, row = score.argmax(dim=1), torch.arange(len(rows))
        return Placed(Pose(rotation[row, best], shift[row, best]), component[row, best], score[row, best].float())
