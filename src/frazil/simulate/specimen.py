"""What lies under the beam: a generated molecule, an atomic model or a density map."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from frazil.errors import InputError
from frazil.physics.density import Density, Gaussians, Voxels
from frazil.physics.grid import Grid
from frazil.simulate.molecules import Molecule


@dataclass(frozen=True)
class Conformations:
    """Which conformation every particle has.

    Attributes:
        latent: coordinates from 0 to 1, one per degree of freedom; None where there is none.
        state: the nearest of the listed states.
        state_latents: the latent of each listed state; None where there is none.
        count: number of listed states.
    """

    latent: Float[Tensor, "particles latent"] | None
    state: Int[Tensor, " particles"]
    state_latents: Float[Tensor, "states latent"] | None
    count: int

    def __getitem__(self, rows: slice | Tensor) -> Conformations:
        latent = None if self.latent is None else self.latent[rows]
        return Conformations(latent, self.state[rows], self.state_latents, self.count)


class Specimen(ABC):
    """Something to image, in one conformation or many."""

    @abstractmethod
    def draw(self, count: int, states: int, generator: torch.Generator) -> Conformations:
        """A conformation for each of ``count`` particles, over what the specimen can do.

        Args:
            states: number of conformations to list, where the specimen does not list its own.
        """

    @abstractmethod
    def seen_by(self, conformations: Conformations) -> Density:
        """A density that `project` sees in these conformations, one for each pose."""

    @abstractmethod
    def state(self, conformations: Conformations, index: int) -> Density:
        """The density of one listed state."""

    @abstractmethod
    def diameter(self) -> float:
        """Of the sphere round all Gaussians in all conformations, Å; 0 for a map, which has a box of its own."""


def _rigid(count: int) -> Conformations:
    return Conformations(None, torch.zeros(count, dtype=torch.int64), None, 1)


@final
@dataclass(frozen=True)
class MovingMolecule(Specimen):
    """A molecule with a continuous motion.

    Attributes:
        molecule: without states. stepped: whether particles are only in the listed conformations, in equal shares.
    """

    molecule: Molecule
    stepped: bool = False

    def draw(self, count: int, states: int, generator: torch.Generator) -> Conformations:
        """Latents uniform over the unit interval or square, or at the listed steps."""
        listed = self.molecule.even_latents(states)
        if self.stepped:
            state = _in_shares(count, (1.0,) * states, generator)
            return Conformations(listed[state], state, listed, states)
        latent = torch.rand(count, len(self.molecule.circular), generator=generator, dtype=torch.float64)
        return Conformations(latent, self.molecule.nearest_state(latent, listed), listed, states)

    def seen_by(self, conformations: Conformations) -> Gaussians:
        """One conformer for each particle."""
        assert conformations.latent is not None
        return single(self.molecule.body.conformers(conformations.latent))

    def state(self, conformations: Conformations, index: int) -> Gaussians:
        """The conformer at one listed state."""
        assert conformations.state_latents is not None
        return self.molecule.body.density(conformations.state_latents[index])

    def diameter(self) -> float:
        """At 13 places along every coordinate."""
        sweep = torch.linspace(0, 1, 13, dtype=torch.float64)[:, None].expand(-1, len(self.molecule.circular))
        return 2 * float(self.molecule.body.centres(sweep).norm(dim=-1).max())


@final
@dataclass(frozen=True)
class ListedStates(Specimen):
    """Discrete states: assemblies of one molecule, or different molecules.

    Attributes:
        listed: the Gaussians of every state. shares: of the particles, relative to each other; equal unless given.
    """

    listed: tuple[Gaussians, ...]
    shares: tuple[float, ...] = ()

    @staticmethod
    def of(molecule: Molecule) -> ListedStates:
        """The states of a molecule that has some."""
        states = range(len(molecule.states))
        return ListedStates(tuple(molecule.state(index) for index in states), molecule.shares)

    def draw(self, count: int, states: int, generator: torch.Generator) -> Conformations:
        """States in their shares, to the nearest particle, in random order."""
        shares = self.shares or (1.0,) * len(self.listed)
        return Conformations(None, _in_shares(count, shares, generator), None, len(self.listed))

    def seen_by(self, conformations: Conformations) -> Gaussians:
        """The state of each particle, filled up to the same number with Gaussians of amplitude 0."""
        centres, amplitudes, sigmas = self._table
        state = conformations.state
        return Gaussians(centres[state], amplitudes[state], sigmas[state])

    def state(self, conformations: Conformations, index: int) -> Gaussians:
        """One state."""
        return self.listed[index]

    def diameter(self) -> float:
        """Of the widest state."""
        return max(2 * float(_present(state).centres.norm(dim=-1).max()) for state in self.listed)

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor, Tensor]:
        """Centres, amplitudes and widths of all states, one row each, without the Gaussians that are not there."""
        there = [single(one) for one in (_present(state) for state in self.listed)]
        most = max(len(one.amplitudes) for one in there)
        rows = [
            (pad(one.centres, (0, 0, 0, gap)), pad(one.amplitudes, (0, gap)), pad(one.sigmas, (0, gap), value=1.0))
            for one in there
            for gap in (most - len(one.amplitudes),)
        ]
        centres, amplitudes, sigmas = (torch.stack(column) for column in zip(*rows, strict=True))
        return centres, amplitudes, sigmas


def _in_shares(count: int, shares: tuple[float, ...], generator: torch.Generator) -> Int[Tensor, " count"]:
    """The state of each of ``count`` particles: as near to the shares as whole numbers can be, in random order."""
    exact = torch.tensor(shares, dtype=torch.float64) * (count / sum(shares))
    number = exact.floor().long()
    # those that lost most in rounding get what is left
    number[(number - exact).argsort(stable=True)[: count - int(number.sum())]] += 1
    state = torch.arange(len(shares)).repeat_interleave(number)
    return state[torch.randperm(count, generator=generator)]


def _present(gaussians: Gaussians) -> Gaussians:
    there = gaussians.amplitudes != 0
    return Gaussians(gaussians.centres[there], gaussians.amplitudes[there], gaussians.sigmas[there])


def single(gaussians: Gaussians) -> Gaussians:
    """In single precision: images need no more."""
    return Gaussians(gaussians.centres.float(), gaussians.amplitudes.float(), gaussians.sigmas.float())


@final
@dataclass(frozen=True)
class RigidDensity(Specimen):
    """One density that does not move: atoms or a map."""

    density: Density

    def draw(self, count: int, states: int, generator: torch.Generator) -> Conformations:
        """Every particle in the one state."""
        return _rigid(count)

    def seen_by(self, conformations: Conformations) -> Density:
        """The density itself."""
        return self.density

    def state(self, conformations: Conformations, index: int) -> Density:
        """The density itself."""
        return self.density

    def diameter(self) -> float:
        """Of the atoms."""
        return 2 * float(self.density.centres.norm(dim=-1).max()) if isinstance(self.density, Gaussians) else 0.0


def even_box(diameter: float, pixel_size: float) -> int:
    """An even box half as wide again as a molecule."""
    return 2 * math.ceil(0.75 * diameter / pixel_size)


def read_map(path: Path) -> Voxels:
    """A density map to project, its spectrum sampled finely.

    A map is known on voxels only, so its slices must be interpolated. The spectrum is padded four times (twice above
    160 voxels, for memory) where the reconstruction pads less: their errors differ.
    """
    from frazil.data.mrc import read_volume

    values, grid = read_volume(path)
    return Voxels(values, grid, padding=4 if grid.box_size <= 160 else 2)


def check_fits(specimen: Specimen, grid: Grid, where: Path | str) -> None:
    """Raise InputError when a specimen would stand outside the box in some pose."""
    diameter = specimen.diameter()
    if diameter > grid.extent:
        raise InputError(
            f"the molecule is {diameter:.0f} Å wide and does not fit a box of {grid.extent:.0f} Å",
            where=where,
            remedy=f"use --box {even_box(diameter, grid.pixel_size)} or more, or larger pixels",
        )
