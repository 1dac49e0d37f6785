"""STAR files of the states."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from frazil.analyze.conformations import States

if TYPE_CHECKING:
    from frazil.data.stack import Particles

STATE_COLUMN = "frazilState"


def write_states(particles: Particles, states: States, outputs: Path) -> None:
    """Write `states.star` with every input column and the state of each particle, and one star per state.

    Rows keep the order of the input. A particle without a finite latent has state -1 and is in no single file.

    Raises:
        InputError: the latents are not as many as the particles.
    """
    from frazil.data.stack import write_particles_star
    from frazil.errors import InputError

    if particles.count != len(states.state):
        raise InputError(
            f"{particles.count} particles, but latent.npy has {len(states.state)} rows",
            where=particles.path,
            remedy="run frazil reconstruct again with --again",
        )
    write_particles_star(particles, outputs / "states.star", extra={STATE_COLUMN: states.state})
    folder = outputs / "states"
    folder.mkdir(exist_ok=True)
    for k in range(len(states.rows)):
        rows = (torch.from_numpy(states.state) == k).nonzero().ravel()
        write_particles_star(
            particles[rows], folder / f"state_{k:03d}.star", extra={STATE_COLUMN: states.state[states.state == k]}
        )
