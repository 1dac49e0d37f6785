"""What the tilts that a table tells of mean for a reconstruction: what must hold of them, and what is made of them."""

from __future__ import annotations

import torch

from frazil.data.stack import Particles
from frazil.errors import InputError
from frazil.reconstruct import Config


def check_half_sets(particles: Particles) -> None:
    """Refuse half-sets that divide the views of a particle: the halves of what is learnt would know of each other.

    Raises:
        InputError: with the first row whose half-set is not that of its particle.
    """
    if particles.tilts is None or particles.half_set is None:
        return
    wrong = torch.nonzero(particles.half_set != particles.half_set[particles.tilts.first_rows()])[:, 0]
    if len(wrong):
        raise InputError(
            "the views of a particle at several tilts are in different half-sets",
            where=particles.listing.block.where(int(particles.rows[int(wrong[0])])),
            remedy="leave rlnRandomSubset out, or give all rows of a rlnGroupName the same",
        )


def notes_on_tilts(particles: Particles, config: Config) -> list[str]:
    """What becomes of the table's tilts: which views share what, and which are strangers to each other."""
    if particles.tilts is None:
        return []
    notes = []
    if particles.pose is None or config.ignore_poses or config.poses in ("search", "amortised"):
        notes.append("poses are looked for in every image by itself: the known tilts between views are not used")
    if config.made_of == "basis":
        notes.append("the views of a particle share one latent")
    if config.made_of == "field":
        notes.append("an encoder looks at every image by itself: each view of a particle gets a latent of its own")
    return notes
