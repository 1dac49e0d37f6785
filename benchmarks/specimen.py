"""A molecule made of atoms for the benchmarks: a seeded chain, written as PDB, so that nothing has to be downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

BOND = 3.8  # Å between neighbouring Cα atoms


def write_chain(path: Path, *, diameter: float, atoms: int = 1500, seed: int = 7) -> Path:
    """A chain of Cα-like atoms that wanders inside three touching lobes, with no symmetry and one hand.

    Args:
        diameter: of the sphere around all lobes, Å.
    """
    random = np.random.default_rng(seed)
    lobes = np.array([[-0.22, 0.0, 0.05], [0.20, 0.12, -0.10], [0.08, -0.22, 0.16]]) * diameter
    radii = np.array([0.27, 0.20, 0.16]) * diameter
    position, walk = lobes[0], []
    while len(walk) < atoms:
        # the chain visits one lobe after the other
        lobe = min(len(walk) * 3 // atoms, 2)
        step = random.normal(size=3)
        trial = position + BOND * step / np.linalg.norm(step)
        if np.linalg.norm(trial - lobes[lobe]) > radii[lobe]:
            trial = position + BOND * (lobes[lobe] - position) / np.linalg.norm(lobes[lobe] - position)
        position = trial
        walk.append(position)
    lines = [
        f"ATOM  {i % 100_000:5d}  CA  ALA A{i % 10_000:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C"
        for i, (x, y, z) in enumerate(np.array(walk) - np.mean(walk, axis=0), start=1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\nEND\n")
    return path
