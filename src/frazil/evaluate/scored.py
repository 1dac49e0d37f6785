"""Which particles of a result are judged, and what is true of each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Int

from frazil.data.npy import read_npy
from frazil.data.stack import Particles, read_particles
from frazil.data.truth import Truth
from frazil.data.views import ParticleViews
from frazil.errors import InputError
from frazil.physics.pose import Pose

_KINDS = {"latent": "latents", "latent_covariance": "covariances", "component": "components"}
_REMEDY = "give the truth of these particles"


@final
@dataclass(frozen=True)
class Scored:
    """Particles of a result that are judged.

    Attributes:
        truth: of those, row by row. rows: which rows of the result's arrays they are. count: of the result's particles.
        pose: the result's, of those; None when it has none. views: which of them show one particle.
    """

    truth: Truth
    rows: Int[np.ndarray, " judged"]
    count: int
    pose: Pose | None
    views: ParticleViews

    @property
    def true_pose(self) -> Pose:
        """The true poses."""
        return Pose(torch.from_numpy(self.truth.rotation), torch.from_numpy(self.truth.shift))

    def select(self, some: Bool[np.ndarray, " judged"]) -> Scored:
        """Some of these."""
        rows = np.flatnonzero(some)
        pose = None if self.pose is None else self.pose[torch.from_numpy(rows)]
        return replace(
            self,
            truth=self.truth.select(rows),
            rows=self.rows[rows],
            pose=pose,
            views=self.views[torch.from_numpy(rows)],
        )

    def read(self, path: Path, dimensions: int) -> np.ndarray | None:
        """An array of the result with one row per particle, the judged rows; None when there is none.

        Raises:
            InputError: if it is of other particles, or a row is not a number.
        """
        if not path.exists():
            return None
        values = read_npy(path, "reconstruct again")
        if values.ndim != dimensions or len(values) != self.count:
            raise InputError(
                f"{_KINDS[path.stem]} of shape {values.shape} for {self.count} particles", where=path, remedy=_REMEDY
            )
        there = np.isfinite(values).reshape(self.count, -1).all(1)
        if not there.all():
            raise InputError(f"row {int(np.argmin(there)) + 1} is not a number", where=path)
        return values[self.rows]


def scored_particles(outputs: Path, truth: Truth, listed: Path | None) -> Scored:
    """The particles of a result that are the molecule and, where a list is given, are listed.

    A result of fewer particles than were simulated is of those that its particles.star names.

    Raises:
        InputError: if the result is of other particles, or nothing is left to judge.
    """
    path = outputs / "particles.star"
    found = read_particles(path, need_images=False) if path.exists() else None
    rows = np.arange(truth.count)
    if found is not None and found.count != truth.count:
        rows = _rows_in_truth(found, truth, path)
    kept = np.ones(len(rows), bool) if truth.junk is None else ~truth.junk[rows]
    if listed is not None:
        kept &= listed_rows(listed, simulated_particles(truth))[rows]
    if not kept.any():
        raise InputError("no particle is left to judge", where=listed or path, remedy="list particles of the result")
    judged = np.flatnonzero(kept)
    pose = None if found is None or found.pose is None else found.pose[torch.from_numpy(judged)]
    views = ParticleViews(torch.arange(len(rows))) if found is None else found.views
    return Scored(truth.select(rows[judged]), judged, len(rows), pose, views[torch.from_numpy(judged)])


def _rows_in_truth(found: Particles, truth: Truth, path: Path) -> Int[np.ndarray, " rows"]:
    simulated = truth.folder.parent / "particles.star"
    if simulated.exists():
        rows = matching_rows(found, read_particles(simulated, need_images=False))
        if (rows >= 0).all():
            return rows
    raise InputError(f"{found.count} particles, but the truth is of {truth.count}", where=path, remedy=_REMEDY)


def simulated_particles(truth: Truth) -> Particles:
    """The simulated particles beside a truth.

    Raises:
        InputError: if they are no longer there.
    """
    path = truth.folder.parent / "particles.star"
    if not path.exists():
        raise InputError("a list of particles needs the simulated ones", where=path, remedy="leave out --particles")
    return read_particles(path, need_images=False)


def matching_rows(found: Particles, among: Particles) -> Int[np.ndarray, " rows"]:
    """For each particle the row of the same one among others, -1 where there is none.

    Particles are the same when their uids are; where files tell of none in common, when the number and the file name of
    their images are.
    """
    rows = _places(found.uid.tolist(), among.uid.tolist())
    return rows if (rows >= 0).any() else _places(image_names(found), image_names(among))


def _places(wanted: Sequence[Any], among: Sequence[Any]) -> Int[np.ndarray, " rows"]:
    where = {name: row for row, name in enumerate(among)}
    return np.array([where.get(name, -1) for name in wanted], np.int64)


def image_names(particles: Particles) -> list[str]:
    """`12@stack.mrcs` of each particle, without folders and leading zeros: they change when tables move."""
    listing, at = particles.listing, particles.rows
    files = [Path(name).name for name in listing.files.names]
    pairs = zip(listing.index[at].tolist(), listing.file[at].tolist(), strict=True)
    return [f"{index + 1}@{files[file]}" for index, file in pairs]


def listed_rows(path: Path, particles: Particles) -> Bool[np.ndarray, " particles"]:
    """Which particles a file lists: a STAR file of them, or text with one row number (from 1) or image name on each line.

    Raises:
        InputError: if a line is neither, or lists no particle of these.
    """
    if not path.exists():
        raise InputError("no such file", where=path, remedy="check --particles")
    chosen = np.zeros(particles.count, bool)
    if path.name.lower().endswith((".star", ".star.gz", ".cs")):
        rows = matching_rows(read_particles(path, need_images=False), particles)
        chosen[rows[rows >= 0]] = True
        return chosen
    names = {name: row for row, name in enumerate(image_names(particles))}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        text = line.strip()
        if text:
            chosen[_row_of(text, names, f"{path}:{number}")] = True
    return chosen


def _row_of(text: str, names: dict[str, int], where: str) -> int:
    index, at, file = text.partition("@")
    if not at and text.isdigit() and 1 <= int(text) <= len(names):
        return int(text) - 1
    name = f"{int(index)}@{Path(file).name}" if at and index.isdigit() else ""
    if name in names:
        return names[name]
    raise InputError(
        f"{text!r} is no particle of the {len(names)} that are compared",
        where=where,
        remedy="give row numbers from 1, or image names such as 000001@particles.mrcs, one per line",
    )
