"""Plans of generated molecules: which lobes there are, how they hang together, and what moves.

The sets of the cryoDRGN paper (Zhong et al. 2020) are planned in fractions of the molecule's diameter: one hinge, two
hinges, a domain that goes round a full circle, ten discrete states. After CryoBench (Jeon et al. 2024), planned in Å: an
antibody one of whose Fab lobes turns about its hinge, a ribosomal subunit in sixteen states of its assembly, and a
mixture of different molecules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from frazil.numerics.rotations import from_rotation_vector
from frazil.physics.jointed import Joint

Point = tuple[float, float, float]

IGG_LINKER = 15
# particles of each of the 16 assembly states in CryoBench's Ribosembly (335,240 in all), which the states keep
ASSEMBLY_SHARES = (
    9076, 14378, 23547, 44366, 30647, 38500, 3915, 3980, 12740, 11975, 17988, 5001, 35367, 37448, 40540, 5772,
)  # fmt: skip
ASSEMBLY_BLOBS = 60
ASSEMBLY_CORE = 20
# molecules of a mixture are less like themselves when turned
MOST_ALIKE = 0.92


@dataclass(frozen=True)
class Lobe:
    """An ellipsoid full of rods of beads that belongs to a domain."""

    domain: int
    centre: Point
    radii: Point


@dataclass(frozen=True)
class Linker:
    """A line of beads, slightly wavy, from one point to another."""

    domain: int
    start: Point
    end: Point
    beads: int


@dataclass(frozen=True)
class Plan:
    """A molecule before it is filled with beads; lengths are in diameters or in Å.

    Attributes:
        lobes, linkers, joints: what it is made of. rod_spacing: between neighbouring rods. bead_spacing: along a rod.
        states: for a discrete set, its states as rows (present domains, latent of the joints).
        shares: how many particles are in each state, relative to each other; equal unless given.
        in_angstrom: whether lengths are in Å. seed: of the beads' places.
    """

    lobes: tuple[Lobe, ...]
    joints: tuple[Joint, ...] = ()
    linkers: tuple[Linker, ...] = ()
    rod_spacing: float = 0.062
    bead_spacing: float = 0.034
    states: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...] = ()
    shares: tuple[float, ...] = ()
    in_angstrom: bool = False
    seed: int = 20201


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

# assembly (which domains are there) and conformation (where the joints stand) both differ
_TEN_STATES = (
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


def _arm(low: float, high: float) -> Joint:
    return Joint(1, (0.04, 0.0, -0.02), (0.0, 0.28, 0.96), low, high)


_SECOND_JOINT = Joint(2, (0.19, -0.15, -0.05), (0.6, 0.8, 0.0), -35, 35)


def plan_of(name: str) -> Plan:
    """The plan of a set, other than the mixture."""
    return {
        "rigid": lambda: Plan(_BODY + _ARM),
        "linear-1d": lambda: Plan(_BODY + _ARM, (_arm(-40, 40),)),
        "linear-2d": lambda: Plan(_BODY + _ARM + _SECOND_ARM, (_arm(-35, 35), _SECOND_JOINT)),
        "circular-1d": _circle,
        "discrete-10": lambda: Plan(
            _BODY + _ARM + _SECOND_ARM + _KNOB, (_arm(-40, 40), _SECOND_JOINT), states=_TEN_STATES
        ),
        "igg1d": antibody,
        "ribo16": assembly,
    }[name]()


def _circle() -> Plan:
    lobes = (Lobe(1, (0.05, 0.04, -0.01), (0.08, 0.12, 0.08)), Lobe(1, (0.17, 0.20, 0.07), (0.16, 0.08, 0.09)))
    return Plan(_BODY + lobes, (Joint(1, (0.04, 0.0, -0.02), (0.0, 1.0, 0.0), 0, 360, circular=True),))


def antibody() -> Plan:
    """An immunoglobulin G of Cα-like beads: Fc below, one Fab at rest, one that turns about its linker.

    Each lobe has four domains of about 110 beads at the density of protein (a residue in 135 Å^3). The linker that is
    the axis lies on it and does not move, so that a full turn comes back to where it began.
    """
    hinge, axis = torch.tensor([3.0, 2.0, 0.0]), torch.nn.functional.normalize(torch.tensor([0.35, 0.1, 0.93]), dim=0)
    length = 26.0
    base = hinge + length * axis
    moving = _fab(1, base, torch.tensor([0.85, 0.25, 0.46]), torch.tensor([-0.2, 1.0, 0.2]))
    second = torch.tensor([-4.0, -3.0, -2.0])
    along = torch.tensor([-0.90, 0.35, -0.25])
    far = second + 20 * torch.nn.functional.normalize(along, dim=0)
    resting = _fab(0, far, along, torch.tensor([0.1, 0.5, 1.0]))
    stem = (
        Lobe(0, (14.0, 3.0, -28.0), (12.5, 14.0, 18.5)),
        Lobe(0, (-14.0, -3.0, -30.0), (13.0, 13.5, 18.0)),
        Lobe(0, (12.5, -3.0, -63.0), (14.0, 13.5, 17.0)),
        Lobe(0, (-12.5, 3.0, -65.0), (13.5, 14.0, 17.0)),
    )
    linkers = (
        Linker(0, _point(hinge), _point(base), IGG_LINKER),
        Linker(0, _point(second), _point(far), IGG_LINKER),
    )
    joint = Joint(1, _point(hinge), _point(axis), 0, 360, circular=True)
    return Plan(stem + resting + moving, (joint,), linkers, rod_spacing=6.7, bead_spacing=3.5, in_angstrom=True)


def _fab(domain: int, base: Tensor, along: Tensor, across: Tensor) -> tuple[Lobe, ...]:
    """Two constant and two variable domains in a row of pairs, the second pair at an elbow."""
    along = torch.nn.functional.normalize(along, dim=0)
    across = torch.nn.functional.normalize(across - (across @ along) * along, dim=0)
    third = torch.linalg.cross(along, across)
    constant, variable = base + 12 * along, base + 46 * along + 7 * third
    tilted = torch.nn.functional.normalize(across + 0.4 * third, dim=0)
    return (
        Lobe(domain, _point(constant + 12.5 * across), (14.5, 15.0, 15.5)),
        Lobe(domain, _point(constant - 12.5 * across), (15.5, 14.0, 15.5)),
        Lobe(domain, _point(variable + 12.5 * tilted), (15.0, 15.5, 14.0)),
        Lobe(domain, _point(variable - 12.5 * tilted), (15.5, 15.0, 15.0)),
    )


def _point(vector: Tensor) -> Point:
    x, y, z = vector.tolist()
    return x, y, z


def assembly() -> Plan:
    """A ribosomal subunit of 60 blobs that grows from a core of 20 in 15 steps: each state holds the one before it."""
    generator = torch.Generator().manual_seed(50_16)
    crown = torch.tensor([104.0, 92.0, 70.0])
    places: list[Tensor] = []
    apart = 34.0
    while len(places) < ASSEMBLY_BLOBS:
        for place in (torch.rand(4000, 3, generator=generator) * 2 - 1) * crown:
            # a crown: flat where the other subunit would be
            inside = float((place / crown).norm()) < 1 and float(place[2]) > -42
            if inside and all(float((place - other).norm()) > apart for other in places):
                places.append(place)
            if len(places) == ASSEMBLY_BLOBS:
                break
        apart *= 0.97
    # the subunit grows from its back to its front, unevenly
    start = torch.tensor([-45.0, 15.0, 40.0])
    remoteness = torch.tensor([float((place - start).norm()) for place in places])
    order = (remoteness + 12 * torch.randn(ASSEMBLY_BLOBS, generator=generator)).argsort().tolist()
    radii = 17.5 + 7 * torch.rand(ASSEMBLY_BLOBS, 3, generator=generator)
    steps = len(ASSEMBLY_SHARES) - 1
    lobes = tuple(
        Lobe(_step(rank, steps), _point(places[blob]), _point(radii[blob])) for rank, blob in enumerate(order)
    )
    states = tuple((tuple(range(last + 1)), ()) for last in range(steps + 1))
    return Plan(lobes, (), (), 12.0, 6.5, states, ASSEMBLY_SHARES, in_angstrom=True)


def _step(rank: int, steps: int) -> int:
    """In which step the blob of a rank joins: the core in none, the rest in even steps."""
    if rank < ASSEMBLY_CORE:
        return 0
    return 1 + (rank - ASSEMBLY_CORE) * steps // (ASSEMBLY_BLOBS - ASSEMBLY_CORE)


def mixture(count: int) -> Iterator[Plan]:
    """Different molecules of three to seven lobes, each lobe touching an earlier one; the first N are always the same.

    One that looks nearly like itself after a turn is drawn again: its poses would not be determined.
    """
    for index in range(count):
        generator = torch.Generator().manual_seed(45_000 + index)
        lobes = _touching_lobes(generator)
        while likeness_when_turned(lobes) > MOST_ALIKE:
            lobes = _touching_lobes(generator)
        yield Plan(lobes, rod_spacing=10.0, bead_spacing=5.0, in_angstrom=True, seed=45_000 + index)


def _touching_lobes(generator: torch.Generator) -> tuple[Lobe, ...]:
    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    wanted = 3 + int(torch.randint(5, (), generator=generator))
    centres, sizes, radii = [torch.zeros(3)], [float(uniform(20, 36, 1))], [uniform(0.75, 1.3, 3)]
    while len(centres) < wanted:
        neighbour = int(torch.randint(len(centres), (), generator=generator))
        size = float(uniform(16, 34, 1))
        direction = torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0)
        place = centres[neighbour] + 0.9 * (size + sizes[neighbour]) * direction
        crowded = any(math.dist(place, old) < 0.8 * (size + other) for old, other in zip(centres, sizes, strict=True))
        if not crowded and float(place.norm()) < 100:
            centres.append(place)
            sizes.append(size)
            radii.append(uniform(0.75, 1.3, 3))
    return tuple(
        Lobe(0, _point(place), _point(size * shape)) for place, size, shape in zip(centres, sizes, radii, strict=True)
    )


def likeness_when_turned(lobes: tuple[Lobe, ...]) -> float:
    """The largest overlap of a molecule with itself turned by 60 degrees or more about a principal axis, 1 for a symmetry.

    Each lobe counts as a Gaussian of its volume and mean radius. A symmetry of any order has one of these axes, and a
    molecule nearly round about an axis is like itself after any turn about it.
    """
    centres = torch.tensor([lobe.centre for lobe in lobes], dtype=torch.float64)
    radii = torch.tensor([lobe.radii for lobe in lobes], dtype=torch.float64)
    volume, variance = radii.prod(1), radii.square().mean(1) / 5
    centres = centres - (volume[:, None] * centres).sum(0) / volume.sum()
    _, axes = torch.linalg.eigh((centres * volume[:, None]).T @ centres)
    both = variance[:, None] + variance
    weight = volume[:, None] * volume * both**-1.5

    def overlap(other: Tensor) -> Tensor:
        return (weight * torch.exp(-0.5 * torch.cdist(centres, other).square() / both)).sum()

    angles = torch.deg2rad(torch.arange(60.0, 301.0, 30.0, dtype=torch.float64))
    turns = from_rotation_vector((angles[:, None, None] * axes.T).reshape(-1, 3))
    return float(torch.stack([overlap(centres @ turn.T) for turn in turns]).max() / overlap(centres))
