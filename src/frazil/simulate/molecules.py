"""Generated molecules whose motion is known: helix bundles on joints.

Four molecules, after the synthetic sets of the cryoDRGN paper (Zhong et al. 2020): one hinge, two hinges, a domain that
goes round a full circle, and ten discrete states. Each is made of lobes, each lobe an ellipsoid packed with parallel
rods of beads (helices at about 10 Å from each other), so that a map shows something at every resolution down to the
spacing of the rods. No molecule has a symmetry or a mirror plane: poses and handedness are well determined.

Lengths in this file are fractions of the molecule's diameter until `generate` scales them to Å.
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

SetName = Literal["linear-1d", "linear-2d", "circular-1d", "discrete-10"]

ROD_SPACING = 0.062
BEAD_SPACING = 0.034


@final
@dataclass(frozen=True)
class Molecule:
    """A generated molecule: continuous when it has no states.

    Attributes:
        body: beads in domains on joints.
        states: for a discrete set, its states as rows (present domains, latent of the joints).
    """

    body: JointedGaussians
    states: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...] = ()

    @property
    def circular(self) -> tuple[bool, ...]:
        """For each latent coordinate, whether 1 is the same conformation as 0."""
        return () if self.states else tuple(joint.circular for joint in self.body.joints)

    def conformers(self, latent: Float[Tensor, "batch latent"]) -> Gaussians:
        """The molecule in a batch of conformations of a continuous set."""
        rest, centres = self.body.rest, self.body.centres(latent)
        return Gaussians(centres, *(part.expand(centres.shape[:-1]) for part in (rest.amplitudes, rest.sigmas)))

    def state(self, index: int) -> Gaussians:
        """The molecule in one state of a discrete set; absent domains have amplitude 0."""
        present, latent = self.states[index]
        there = torch.isin(self.body.domain, torch.tensor(present))
        found = self.body.density(torch.tensor(latent))
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


@dataclass(frozen=True)
class Lobe:
    """An ellipsoid of helices that belongs to a domain; lengths in molecule diameters."""

    domain: int
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]


def _fill(lobe: Lobe, generator: torch.Generator) -> Tensor:
    """Rods of beads, packed hexagonally but not in a crystal: each is displaced and slid along its axis."""
    steps = torch.arange(-12, 13, dtype=torch.float64)
    column, row, along = torch.meshgrid(steps, steps, torch.arange(-24, 25, dtype=torch.float64), indexing="ij")
    slide = torch.rand(25, 25, 1, generator=generator, dtype=torch.float64)
    rods = torch.stack(
        [(column + 0.5 * (row % 2)) * ROD_SPACING, row * ROD_SPACING * 3**0.5 / 2, (along + slide) * BEAD_SPACING], -1
    ).reshape(-1, 3)
    displaced = (
        torch.randn(25, 25, 1, 3, generator=generator, dtype=torch.float64).expand(-1, -1, 49, -1).reshape(-1, 3)
    )
    rods = rods + 0.2 * ROD_SPACING * displaced
    rods = rods + 0.2 * BEAD_SPACING * torch.randn(rods.shape, generator=generator, dtype=torch.float64)
    # helices of neighbouring lobes lie at an angle, as in most proteins
    beads = rods @ random_rotations(1, generator, torch.float64)[0]
    inside = (beads / torch.tensor(lobe.radii, dtype=torch.float64)).norm(dim=1) < 1
    return beads[inside] + torch.tensor(lobe.centre, dtype=torch.float64)


_BODY = (
    Lobe(0, (0.0, -0.16, -0.05), (0.20, 0.13, 0.13)),
    Lobe(0, (-0.17, -0.05, 0.10), (0.11, 0.12, 0.10)),
    Lobe(0, (0.10, -0.27, 0.11), (0.08, 0.09, 0.10)),
)
_ARM = (
    Lobe(1, (0.05, 0.12, -0.01), (0.11, 0.16, 0.10)),
    Lobe(1, (0.11, 0.26, 0.08), (0.12, 0.10, 0.12)),
)
_SECOND_ARM = (Lobe(2, (0.27, -0.12, -0.06), (0.13, 0.09, 0.07)), Lobe(2, (0.37, -0.03, -0.12), (0.07, 0.09, 0.09)))
_KNOB = (Lobe(3, (-0.22, -0.24, -0.14), (0.09, 0.08, 0.09)),)

# (lobes, joints with pivots in diameters)
_PLANS: dict[str, tuple[tuple[Lobe, ...], tuple[Joint, ...]]] = {
    "linear-1d": (_BODY + _ARM, (Joint(1, (0.04, 0.0, -0.02), (0.0, 0.28, 0.96), -40, 40),)),
    "linear-2d": (
        _BODY + _ARM + _SECOND_ARM,
        (
            Joint(1, (0.04, 0.0, -0.02), (0.0, 0.28, 0.96), -35, 35),
            Joint(2, (0.19, -0.15, -0.05), (0.6, 0.8, 0.0), -35, 35),
        ),
    ),
    "circular-1d": (
        _BODY + (Lobe(1, (0.05, 0.04, -0.01), (0.08, 0.12, 0.08)), Lobe(1, (0.17, 0.20, 0.07), (0.16, 0.08, 0.09))),
        (Joint(1, (0.04, 0.0, -0.02), (0.0, 1.0, 0.0), 0, 360, circular=True),),
    ),
    "discrete-10": (
        _BODY + _ARM + _SECOND_ARM + _KNOB,
        (
            Joint(1, (0.04, 0.0, -0.02), (0.0, 0.28, 0.96), -40, 40),
            Joint(2, (0.19, -0.15, -0.05), (0.6, 0.8, 0.0), -35, 35),
        ),
    ),
}

# assembly (which domains are there) and conformation (where the joints stand) both differ
_DISCRETE_STATES = (
    ((0, 1), (0.5, 0.5)),
    ((0, 2), (0.5, 0.5)),
    ((0, 1, 2), (0.5, 0.5)),
    ((0, 1, 3), (0.5, 0.5)),
    ((0, 2, 3), (0.5, 0.5)),
    ((0, 1, 2, 3), (0.5, 0.5)),
    ((0, 1, 2, 3), (0.0, 0.5)),
    ((0, 1, 2, 3), (1.0, 0.5)),
    ((0, 1, 2), (0.0, 0.0)),
    ((0, 1, 2), (1.0, 1.0)),
)


def generate(name: SetName, grid: Grid, diameter: float, sigma: float) -> Molecule:
    """The molecule of a generated set; the same one for every seed of the data.

    Args:
        grid: of the images. diameter: largest extent in any conformation, Å. sigma: standard deviation of a bead, Å.
    """
    lobes, joints = _PLANS[name]
    generator = torch.Generator().manual_seed(20201)
    pieces = [_fill(lobe, generator) for lobe in lobes]
    domain = torch.cat([torch.full((len(piece),), lobe.domain) for piece, lobe in zip(pieces, lobes, strict=True)])
    centres = torch.cat(pieces)
    raw = _jointed(centres, domain, joints, grid, sigma)
    # centre the mean conformation; the farthest bead of any conformation lies at half a diameter
    sweep = torch.linspace(0, 1, 13, dtype=torch.float64)[:, None].expand(-1, len(joints))
    shapes = raw.centres(sweep)
    middle = shapes[:-1].mean(dim=(0, 1))
    scale = diameter / 2 / float((shapes - middle).norm(dim=-1).max())
    moved = tuple(replace(joint, pivot=_moved(joint.pivot, middle, scale)) for joint in joints)
    body = _jointed((centres - middle) * scale, domain, moved, grid, sigma)
    return Molecule(body, _DISCRETE_STATES if name == "discrete-10" else ())


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
