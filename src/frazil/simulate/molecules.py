"""Generated molecules whose motion or composition is known: ellipsoids full of rods of beads, on joints.

Each lobe of a plan is packed with parallel rods of beads (helices at about 10 Å from each other, or strands), so that a
map shows something at every resolution down to the spacing of the rods. No molecule has a symmetry or a mirror plane:
poses and handedness are well determined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.numerics.rotations import random_rotations
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.jointed import Joint, JointedGaussians
from frazil.physics.moving import MovingGaussians
from frazil.simulate.plans import Linker, Lobe, Plan, mixture, plan_of

SetName = Literal["rigid", "linear-1d", "linear-2d", "circular-1d", "discrete-10", "igg1d", "ribo16"]


@final
@dataclass(frozen=True)
class Molecule:
    """A molecule that moves; one with states takes those and nothing between.

    Attributes:
        body: beads, and how they move.
        domain: the domain each bead belongs to, where states need it.
        states: for a discrete set, its states as rows (present domains, latent).
        shares: how many particles are in each state, relative to each other; equal unless given.
    """

    body: MovingGaussians
    domain: Int[Tensor, " gaussians"] | None = None
    states: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...] = ()
    shares: tuple[float, ...] = ()

    @property
    def circular(self) -> tuple[bool, ...]:
        """For each latent coordinate, whether 1 is the same conformation as 0."""
        return () if self.states else self.body.circular

    def state(self, index: int) -> Gaussians:
        """The molecule in one state of a discrete set; absent domains have amplitude 0."""
        present, latent = self.states[index]
        found = self.body.density(torch.tensor(latent))
        if self.domain is None:
            return found
        there = torch.isin(self.domain, torch.tensor(present))
        return Gaussians(found.centres, found.amplitudes * there, found.sigmas)

    def even_latents(self, count: int) -> Float[Tensor, "count latent"]:
        """``count`` latents spread evenly: the middles of equal bins in 1-D, a Fibonacci lattice in 2-D."""
        index = torch.arange(count, dtype=torch.float64)
        golden = (math.sqrt(5) - 1) / 2
        first = index / count if self.circular[0] else (index + 0.5) / count
        columns = [first, ((index + 0.5) * golden) % 1][: len(self.circular)]
        return torch.stack(columns, dim=1)

    def nearest_state(
        self, latent: Float[Tensor, "batch latent"], states: Float[Tensor, "count latent"]
    ) -> Int[Tensor, " batch"]:
        """The state nearest to each latent, with the ends of a circular coordinate joined."""
        gap = (latent[:, None] - states).abs()
        gap = torch.where(torch.tensor(self.circular), torch.minimum(gap, 1 - gap), gap)
        return gap.square().sum(-1).argmin(1)


def _fill(lobe: Lobe, plan: Plan, generator: torch.Generator) -> Tensor:
    """Rods of beads, packed hexagonally but not in a crystal: each is displaced and slid along its axis."""
    across, along_rod = plan.rod_spacing, plan.bead_spacing
    steps = torch.arange(-12, 13, dtype=torch.float64)
    column, row, along = torch.meshgrid(steps, steps, torch.arange(-24, 25, dtype=torch.float64), indexing="ij")
    slide = torch.rand(25, 25, 1, generator=generator, dtype=torch.float64)
    rods = torch.stack(
        [(column + 0.5 * (row % 2)) * across, row * across * 3**0.5 / 2, (along + slide) * along_rod], -1
    ).reshape(-1, 3)
    displaced = (
        torch.randn(25, 25, 1, 3, generator=generator, dtype=torch.float64).expand(-1, -1, 49, -1).reshape(-1, 3)
    )
    rods = rods + 0.2 * across * displaced
    rods = rods + 0.2 * along_rod * torch.randn(rods.shape, generator=generator, dtype=torch.float64)
    # helices of neighbouring lobes lie at an angle, as in most proteins
    beads = rods @ random_rotations(1, generator, torch.float64)[0]
    inside = (beads / torch.tensor(lobe.radii, dtype=torch.float64)).norm(dim=1) < 1
    return beads[inside] + torch.tensor(lobe.centre, dtype=torch.float64)


def _draw_linker(linker: Linker, generator: torch.Generator) -> Tensor:
    """Beads evenly from start to end, displaced by a tenth of its length per square root of their number."""
    start, end = torch.tensor(linker.start, dtype=torch.float64), torch.tensor(linker.end, dtype=torch.float64)
    step = (torch.arange(linker.beads, dtype=torch.float64)[:, None] + 0.5) / linker.beads
    waver = 0.1 * (end - start).norm() / linker.beads**0.5
    return torch.lerp(start, end, step) + waver * torch.randn(linker.beads, 3, generator=generator, dtype=torch.float64)


def generate(name: SetName, grid: Grid, diameter: float | None, sigma: float) -> Molecule:
    """The molecule of a generated set; the same one for every seed of the data.

    Args:
        grid: of the images. diameter: largest extent in any conformation, Å; None for that of the plan, where it is in Å.
        sigma: standard deviation of a bead, Å.
    """
    return build(plan_of(name), grid, diameter, sigma)


def build(plan: Plan, grid: Grid, diameter: float | None, sigma: float) -> Molecule:
    """A plan filled with beads: see `generate`."""
    if diameter is None and not plan.in_angstrom:
        raise ValueError("the plan is in fractions of a diameter: give one")
    generator = torch.Generator().manual_seed(plan.seed)
    parts = [*plan.lobes, *plan.linkers]
    pieces = [
        _fill(part, plan, generator) if isinstance(part, Lobe) else _draw_linker(part, generator) for part in parts
    ]
    domain = torch.cat([torch.full((len(piece),), part.domain) for piece, part in zip(pieces, parts, strict=True)])
    centres = torch.cat(pieces)
    raw = _jointed(centres, domain, plan.joints, grid, sigma)
    # centre the mean conformation; the farthest bead of any conformation lies at half a diameter
    sweep = torch.linspace(0, 1, 13, dtype=torch.float64)[:, None].expand(-1, len(plan.joints))
    shapes = raw.centres(sweep)
    middle = shapes[:-1].mean(dim=(0, 1))
    scale = 1.0 if diameter is None else diameter / 2 / float((shapes - middle).norm(dim=-1).max())
    moved = tuple(replace(joint, pivot=_moved(joint.pivot, middle, scale)) for joint in plan.joints)
    body = _jointed((centres - middle) * scale, domain, moved, grid, sigma)
    return Molecule(body, domain, plan.states, plan.shares)


def generate_mixture(count: int, grid: Grid, diameter: float | None, sigma: float) -> list[Gaussians]:
    """Different rigid molecules.

    Args:
        diameter: of the largest one, Å: all are scaled alike; None for as they are.
    """
    found = [build(plan, grid, None, sigma).body.rest for plan in mixture(count)]
    largest = 2 * max(float(molecule.centres.norm(dim=-1).max()) for molecule in found)
    scale = 1.0 if diameter is None else diameter / largest
    return [Gaussians(one.centres * scale, one.amplitudes, one.sigmas) for one in found]


def _jointed(centres: Tensor, domain: Tensor, joints: tuple[Joint, ...], grid: Grid, sigma: float) -> JointedGaussians:
    ones = torch.ones(len(centres), dtype=torch.float64)
    unit = tuple(replace(joint, axis=_unit(joint.axis)) for joint in joints)
    return JointedGaussians(Gaussians(centres, ones, ones * sigma), domain, unit, grid)


def _unit(axis: tuple[float, float, float]) -> tuple[float, float, float]:
    length = math.dist((0, 0, 0), axis)
    x, y, z = (component / length for component in axis)
    return x, y, z


def _moved(point: tuple[float, float, float], middle: Tensor, scale: float) -> tuple[float, float, float]:
    x, y, z = ((torch.tensor(point, dtype=torch.float64) - middle) * scale).tolist()
    return x, y, z
