"""What lies under the beam: a generated molecule, an atomic model or a density map."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.errors import InputError
from frazil.physics.density import Density, Gaussians, Voxels
from frazil.physics.grid import Grid
from frazil.simulate.molecules import Molecule

if TYPE_CHECKING:
    import gemmi

# molmap's width of an atom at a given resolution: the transform falls to 1/e at that spacing
SIGMA_PER_RESOLUTION = 0.225
_POLYMER_ELEMENTS = frozenset({"H", "D", "C", "N", "O", "S", "P", "Se"})


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

    def __getitem__(self, rows: slice) -> Conformations:
        latent = None if self.latent is None else self.latent[rows]
        return Conformations(latent, self.state[rows], self.state_latents, self.count)


class Specimen(ABC):
    """Something to image, in one conformation or many."""

    @abstractmethod
    def draw(self, count: int, states: int, generator: torch.Generator) -> Conformations:
        """A conformation for each of ``count`` particles, uniform over what the specimen can do."""

    @abstractmethod
    def seen_by(self, conformations: Conformations) -> Density:
        """A density that `project` sees in these conformations, one for each pose."""

    @abstractmethod
    def state(self, conformations: Conformations, index: int) -> Density:
        """The density of one listed state."""


def _rigid(count: int) -> Conformations:
    return Conformations(None, torch.zeros(count, dtype=torch.int64), None, 1)


@final
@dataclass(frozen=True)
class MovingMolecule(Specimen):
    """A generated molecule."""

    molecule: Molecule

    def draw(self, count: int, states: int, generator: torch.Generator) -> Conformations:
        """Latents uniform over the unit interval or square; for a discrete set, states in equal shares."""
        molecule = self.molecule
        if molecule.states:
            state = torch.arange(count) % len(molecule.states)
            return Conformations(None, state[torch.randperm(count, generator=generator)], None, len(molecule.states))
        latent = torch.rand(count, len(molecule.circular), generator=generator, dtype=torch.float64)
        listed = molecule.even_latents(states)
        return Conformations(latent, molecule.nearest_state(latent, listed), listed, states)

    def seen_by(self, conformations: Conformations) -> Gaussians:
        """One conformer for each particle."""
        if conformations.latent is not None:
            return _single(self.molecule.conformers(conformations.latent))
        listed = [self.molecule.state(state) for state in range(len(self.molecule.states))]
        fields = ([getattr(known, name) for known in listed] for name in ("centres", "amplitudes", "sigmas"))
        return _single(Gaussians(*(torch.stack(field)[conformations.state] for field in fields)))

    def state(self, conformations: Conformations, index: int) -> Gaussians:
        """The conformer at one listed state."""
        if conformations.state_latents is None:
            return self.molecule.state(index)
        return self.molecule.body.density(conformations.state_latents[index])


def _single(gaussians: Gaussians) -> Gaussians:
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


def read_atoms(path: Path, resolution: float) -> Gaussians:
    """The atoms of a model as Gaussians, centred on their centre of mass.

    Each atom weighs its atomic number times its occupancy and has ``sigma = 0.225 resolution`` (the choice of ChimeraX
    molmap). Hydrogens and waters are left out; alternative conformations other than the first are too.

    Args:
        path: PDB or mmCIF, plain or gzip. resolution: Å.

    Raises:
        InputError: if the file is missing, cannot be read, or has no atoms.
    """
    import gemmi

    if not path.is_file():
        raise InputError("no such file", where=path, remedy="check the path")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"not a readable atomic model ({str(error).splitlines()[0]})",
            where=path,
            remedy="give a PDB or mmCIF file, plain or .gz",
        ) from None
    structure.setup_entities()
    _mend_elements(structure)
    structure.remove_hydrogens()
    structure.remove_waters()
    structure.remove_alternative_conformations()
    found = [
        (*atom.pos.tolist(), atom.element.atomic_number * atom.occ)
        for chain in (structure[0] if len(structure) else ())
        for residue in chain
        for atom in residue
    ]
    if not found:
        raise InputError("the model has no atoms", where=path, remedy="give a PDB or mmCIF file with coordinates")
    table = torch.tensor(found, dtype=torch.float64)
    centres, weights = table[:, :3], table[:, 3]
    centres = centres - (centres * weights[:, None]).sum(0) / weights.sum()
    sigma = torch.full_like(weights, SIGMA_PER_RESOLUTION * resolution)
    return Gaussians(centres.float(), weights.float(), sigma.float())


def _mend_elements(structure: gemmi.Structure) -> None:
    """Correct elements that were guessed from atom names which do not stand in their PDB columns.

    Simulation programs leave the element out and write every name from the first column, so that the C-alpha of a protein
    reads as calcium and a gamma hydrogen as mercury. Nothing in a polymer is either.
    """
    import gemmi

    for chain in (chain for model in structure for chain in model):
        for residue in chain:
            if residue.entity_type != gemmi.EntityType.Polymer:
                continue
            for atom in residue:
                if atom.element.name not in _POLYMER_ELEMENTS:
                    atom.element = gemmi.Element(atom.name.lstrip("0123456789'")[:1])


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


def diameter_of(gaussians: Gaussians) -> float:
    """Twice the distance of the farthest centre from the origin, Å."""
    return 2 * float(gaussians.centres.norm(dim=-1).max())


def check_fits(gaussians: Gaussians, grid: Grid, where: Path) -> None:
    """Raise InputError when atoms would stand outside the box in some pose."""
    diameter = diameter_of(gaussians)
    if diameter > grid.extent:
        raise InputError(
            f"the molecule is {diameter:.0f} Å wide and the box {grid.extent:.0f} Å",
            where=where,
            remedy=f"use --box {even_box(diameter, grid.pixel_size)} or more, or larger pixels",
        )
