"""Tables of the particles of each state, and of those that a rule or a lasso chose.

Every table keeps all columns of the input and the order of its rows. Where the job was given a cryoSPARC table, the same
rows of it are written beside, found by their uid.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from frazil.analyze.clustering import States
from frazil.errors import InputError

if TYPE_CHECKING:
    from frazil.analyze.reconstruction import Reconstruction
    from frazil.data.stack import Particles

STATE_COLUMN = "frazilState"


def checked_particles(reconstruction: Reconstruction, count: int) -> Particles | None:
    """The particles of a job; None where those of an imported run are no longer there.

    Raises:
        InputError: the latents are not as many as the particles.
    """
    try:
        particles = reconstruction.particles()
    except InputError:
        if reconstruction.run is None:
            raise
        return None
    if particles.count != count:
        raise InputError(
            f"{particles.count} particles, but latent.npy has {count} rows",
            where=particles.path,
            remedy="run frazil reconstruct again with --again",
        )
    return particles


def write_states(particles: Particles, source: Particles | None, states: States, outputs: Path) -> None:
    """Write `states.star` with every input column and the state of each particle, and one table per state.

    A particle without a finite latent has state -1 and is in no single file.
    """
    from frazil.data.stack import write_particles_star

    write_particles_star(particles, outputs / "states.star", extra={STATE_COLUMN: states.state})
    folder = outputs / "states"
    folder.mkdir(exist_ok=True)
    for k in range(len(states.rows)):
        _write_subset(particles, source, states.state == k, states.state, folder / f"state_{k:03d}.star")


def write_selection(
    particles: Particles,
    source: Particles | None,
    kept: Bool[np.ndarray, " particles"],
    state: np.ndarray,
    outputs: Path,
) -> None:
    """Write `selected.star` and `rejected.star`.

    Raises:
        InputError: no particle, or every one, is kept: there is nothing to separate.
    """
    if not kept.any() or kept.all():
        raise InputError(
            f"the selection keeps {'every one' if kept.all() else 'none'} of {len(kept)} particles",
            where="--keep",
            remedy="see the ranges in figures/latent_pca.png",
        )
    _write_subset(particles, source, kept, state, outputs / "selected.star")
    _write_subset(particles, source, ~kept, state, outputs / "rejected.star")


def _write_subset(
    particles: Particles, source: Particles | None, chosen: np.ndarray, state: np.ndarray, path: Path
) -> None:
    from frazil.data.conversion import write_particles_cs
    from frazil.data.stack import write_particles_star

    rows = np.flatnonzero(chosen)
    if not len(rows):
        return
    write_particles_star(particles[rows], path, extra={STATE_COLUMN: state[rows]})
    if source is not None:
        same = np.flatnonzero(np.isin(source.uid, particles.uid[rows]))
        if len(same) == len(rows):
            write_particles_cs(source[same], path.with_suffix(".cs"))


def columns_of(
    particles: Particles | None,
    latent: np.ndarray,
    tables: Mapping[str, np.ndarray | None],
) -> dict[str, np.ndarray]:
    """The columns that a rule may name: z1, z2, ... of the latent; ``tables`` by name, the columns of a table counted
    from 1; and every column of numbers in the particles' table."""
    found: dict[str, np.ndarray] = {}
    if particles is not None:
        block = particles.table["particles"] if "particles" in {b.name for b in particles.table.blocks} else None
        for name in block.columns if block is not None else ():
            try:
                values = block.numbers(name) if block is not None else np.zeros(0)
            except InputError:
                continue
            if values.ndim == 1:
                found[name.replace("/", "_")] = values
    found |= {f"z{i + 1}": latent[:, i] for i in range(latent.shape[1])}
    for name, table in tables.items():
        if table is not None and table.ndim == 1:
            found[name] = table
        elif table is not None:
            found |= {f"{name}{i + 1}": table[:, i] for i in range(table.shape[1])}
    return found
