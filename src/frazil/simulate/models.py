"""Atomic models as Gaussians: one model, or two conformations of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.errors import InputError
from frazil.physics.density import Gaussians

if TYPE_CHECKING:
    import gemmi

# molmap's width of an atom at a given resolution: the transform falls to 1/e at that spacing
SIGMA_PER_RESOLUTION = 0.225
_POLYMER_ELEMENTS = frozenset({"H", "D", "C", "N", "O", "S", "P", "Se"})
# two models of one molecule share at least this part of the atoms of the smaller one
_LEAST_SHARED = 0.5

# chain, residue number with insertion code, atom name
AtomName = tuple[str, str, str]


def read_atoms(path: Path, resolution: float) -> Gaussians:
    """The atoms of a model as Gaussians, centred on their centre of mass.

    Each atom weighs its atomic number times its occupancy and has ``sigma = 0.225 resolution`` (the choice of ChimeraX
    molmap). Hydrogens and waters are left out; alternative conformations other than the first are too.

    Args:
        path: PDB or mmCIF, plain or gzip. resolution: Å.

    Raises:
        InputError: if the file is missing, cannot be read, or has no atoms.
    """
    _, places, weights = _named_atoms(path)
    sigma = torch.full_like(weights, SIGMA_PER_RESOLUTION * resolution)
    return Gaussians(_centred(places, weights).float(), weights.float(), sigma.float())


def read_two_conformations(first: Path, last: Path, resolution: float) -> tuple[Gaussians, Gaussians]:
    """Two conformations of one molecule, atom by atom, the second superposed on the first with all atoms alike.

    Atoms are those that both models have, by chain, residue number and name; chains are matched by order where their names
    differ. Weights are those of the first model.

    Args:
        resolution: Å.

    Raises:
        InputError: if a file cannot be read, or the two are not the same molecule.
    """
    names_a, places_a, weights = _named_atoms(first)
    names_b, places_b, _ = _named_atoms(last)
    rows = _shared_rows(names_a, names_b) or _shared_rows(_by_order(names_a), _by_order(names_b))
    if rows is None:
        raise InputError(
            f"fewer than half of its atoms are those of {first.name}",
            where=last,
            remedy="give two conformations of one molecule, with the same chains, residue numbers and atom names",
        )
    rows_a, rows_b = rows
    weights = weights[rows_a]
    start = _centred(places_a[rows_a], weights)
    end = superposed(_centred(places_b[rows_b], weights), start, weights)
    sigma = torch.full_like(weights, SIGMA_PER_RESOLUTION * resolution)
    return Gaussians(start, weights, sigma), Gaussians(end, weights, sigma)


def superposed(
    points: Float[Tensor, "atoms 3"], onto: Float[Tensor, "atoms 3"], weights: Float[Tensor, " atoms"]
) -> Float[Tensor, "atoms 3"]:
    """Points turned so that their weighted square distance from others is least; both are centred (Kabsch 1976)."""
    left, _, right = torch.linalg.svd((onto * weights[:, None]).T @ points)
    hand = torch.eye(3, dtype=points.dtype)
    hand[2, 2] = torch.sign(torch.det(left @ right))
    return points @ (left @ hand @ right).T


def _centred(places: Tensor, weights: Tensor) -> Tensor:
    return places - (places * weights[:, None]).sum(0) / weights.sum()


def _shared_rows(first: list[AtomName], second: list[AtomName]) -> tuple[list[int], list[int]] | None:
    """Rows of the atoms that two lists share, in the order of the first; None when these are too few."""
    where = {name: row for row, name in enumerate(second)}
    pairs = [(row, where[name]) for row, name in enumerate(first) if name in where]
    if len(pairs) < max(3, _LEAST_SHARED * min(len(first), len(second))):
        return None
    return [row for row, _ in pairs], [row for _, row in pairs]


def _by_order(names: list[AtomName]) -> list[AtomName]:
    """Names with chains called by their number."""
    order = {chain: str(rank) for rank, chain in enumerate(dict.fromkeys(name[0] for name in names))}
    return [(order[chain], residue, atom) for chain, residue, atom in names]


def _named_atoms(path: Path) -> tuple[list[AtomName], Float[Tensor, "atoms 3"], Float[Tensor, " atoms"]]:
    """Name, place (Å) and weight of every atom of a model that is imaged."""
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
        ((chain.name, str(residue.seqid), atom.name), atom.pos.tolist(), atom.element.atomic_number * atom.occ)
        for chain in (structure[0] if len(structure) else ())
        for residue in chain
        for atom in residue
    ]
    if not found:
        raise InputError("the model has no atoms", where=path, remedy="give a PDB or mmCIF file with coordinates")
    names, places, weights = zip(*found, strict=True)
    return list(names), torch.tensor(places, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)


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
