"""Poses against those of another particle table: real data have no truth, but another program's opinion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frazil.data.stack import Particles, read_particles
from frazil.errors import InputError
from frazil.evaluate.poses import pose_errors, pose_figures
from frazil.evaluate.scored import listed_rows, matching_rows
from frazil.physics.pose import Pose

_TABLES = (".star", ".star.gz", ".cs")


def is_table(path: Path) -> bool:
    """Whether a path is meant as a particle table."""
    return path.name.lower().endswith(_TABLES)


def evaluate_against_reference(result: Path, reference: Path, symmetry: Tensor, listed: Path | None) -> dict[str, Any]:
    """Figures of poses against those of a reference table, for the particles that both have.

    Args:
        result: a table, or a folder with one. symmetry: operations of the object's point group. listed: names the particles
            of the reference that count; all unless given.

    Raises:
        InputError: if a table has no poses, or the two have no particle in common.
    """
    found = read_particles(result, need_images=False)
    other = read_particles(reference, need_images=False)
    pose, true = _poses_of(found, result), _poses_of(other, reference)
    rows = matching_rows(found, other)
    wanted = np.ones(other.count, bool) if listed is None else listed_rows(listed, other)
    common = rows >= 0
    judged = np.flatnonzero(common & wanted[rows])
    if len(judged) == 0:
        raise InputError(
            "no listed particle is in the result" if common.any() else f"no image of it is in {reference.name}",
            where=listed if common.any() else found.path,
            remedy="give tables of the same images: they are matched by their number and file name",
        )
    here, there = torch.from_numpy(judged), torch.from_numpy(rows[judged])
    errors = pose_errors(pose[here], true[there], symmetry)
    counts = {"count": len(judged), "in_result": found.count, "in_reference": other.count, "in_both": int(common.sum())}
    return {"particles": counts, "poses": pose_figures(errors, other.grid.pixel_size)}


def _poses_of(particles: Particles, path: Path) -> Pose:
    if particles.pose is None:
        raise InputError(
            "these particles have no poses", where=path, remedy="give a table with rlnAngleRot, Tilt and Psi"
        )
    return particles.pose
