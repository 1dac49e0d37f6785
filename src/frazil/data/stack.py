"""Particles: images that stay on disk until they are asked for, with everything their table says.

particles = read_particles(Path("particles.star"))
particles.count, particles.grid, particles.pose, particles.optics
for rows, images in particles.chunks(100):
    ...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from frazil.data.cs import list_particles_cs, read_cs
from frazil.data.listing import Listing
from frazil.data.mrc import SMALLEST_BOX
from frazil.data.particle_star import write_new_particles_star, write_particles_star
from frazil.data.relion import list_particles
from frazil.data.star import read_star
from frazil.data.table import Table
from frazil.data.text import list_stack, list_stacks
from frazil.data.tilts import TiltViews
from frazil.data.views import ParticleViews
from frazil.errors import InputError
from frazil.physics.grid import Grid
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose

__all__ = ["Particles", "read_particles", "write_new_particles_star", "write_particles_star"]


@final
@dataclass(frozen=True)
class Particles:
    """A particle stack, lazy: N rows of one table and the images behind them.

    `particles[rows]` is the subset, in the order of `rows`, still lazy. Images are handed out as they are on disk: neither
    inverted nor normalised.

    Attributes:
        path: the file that was read. listing: what its table says, all rows. rows: (N,) rows of it that these particles
            are. pose, optics: of the N rows, float32; None where nothing is known. half_set: (N,) 0 or 1, or None.
        changed: which of pose, optics and half_set are not what the table says.
    """

    path: Path
    listing: Listing
    rows: np.ndarray
    pose: Pose | None
    optics: Optics | None
    half_set: Int64[Tensor, " particles"] | None
    changed: frozenset[str] = frozenset()

    @property
    def count(self) -> int:
        """Number of particles."""
        return len(self.rows)

    def __len__(self) -> int:
        return self.count

    @property
    def uid(self) -> np.ndarray:
        """(N,) uint64: a name for each particle that stays with it through every file frazil writes."""
        return self.listing.uid[self.rows]

    @property
    def group(self) -> Int64[Tensor, " particles"]:
        """Each particle's optics group: an index into `grids`."""
        return torch.from_numpy(self.listing.group[self.rows])

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Box and pixel size of every optics group. Raises InputError when a group's are not known."""
        return tuple(_grid(group.box_size, group.pixel_size, self.path) for group in self.listing.groups)

    @property
    def grid(self) -> Grid:
        """The one grid of these particles. Raises InputError when they have several."""
        grids = self.grids
        used = {grids[number] for number in self.group.unique().tolist()} or set(grids)
        if len(used) > 1:
            sizes = ", ".join(
                f"{grid.box_size} px of {grid.pixel_size:g} Å" for grid in sorted(used, key=lambda g: g.extent)
            )
            raise InputError(
                f"the particles have different boxes or pixel sizes ({sizes})",
                where=self.path,
                remedy="rescale them to one, or select one optics group",
            )
        return used.pop()

    @property
    def sign(self) -> Int64[Tensor, " particles"] | None:
        """-1 where the table says particles are darker than the background, +1 where brighter; None if silent."""
        return None if self.listing.sign is None else torch.from_numpy(self.listing.sign[self.rows])

    @property
    def tilts(self) -> TiltViews | None:
        """Which rows are views of one particle, and their known tilts; None when the table tells of none."""
        return None if self.listing.tilts is None else self.listing.tilts[torch.from_numpy(self.rows)]

    @property
    def views(self) -> ParticleViews:
        """Which rows show one particle: each a particle of its own where the table tells of no tilts."""
        tilts = self.tilts
        return ParticleViews(torch.arange(self.count) if tilts is None else tilts.particle)

    @property
    def table(self) -> Table:
        """The input table with the rows of these particles; every column is there."""
        listing = self.listing
        return listing.table.with_block(listing.block.select(self.rows), instead_of=listing.block)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What frazil does not use of this table, or had to assume."""
        return self.listing.warnings

    @property
    def image_files(self) -> list[Path]:
        """The stacks these particles lie in. Raises InputError when one is missing."""
        return [self.listing.files.path(number) for number in np.unique(self.listing.file[self.rows]).tolist()]

    def name(self, row: int) -> str:
        """`index@file` of a row, for messages."""
        at = int(self.rows[row])
        return f"{self.listing.index[at] + 1:06d}@{self.listing.files.names[int(self.listing.file[at])]}"

    def __getitem__(self, rows: Any) -> Particles:
        """A subset by slice, index array (NumPy or torch) or mask."""
        rows = rows.cpu().numpy() if isinstance(rows, Tensor) else rows
        chosen = np.arange(self.count)[rows].reshape(-1)
        where = torch.from_numpy(chosen)
        return replace(
            self,
            rows=self.rows[chosen],
            pose=None if self.pose is None else self.pose[where],
            optics=None if self.optics is None else self.optics[where],
            half_set=None if self.half_set is None else self.half_set[where],
        )

    def given(self, pose: Pose | None = None, optics: Optics | None = None) -> Particles:
        """The same particles with other poses or optics (those of a cryoDRGN pickle, say), one per row.

        Raises InputError when the counts differ.
        """
        new = {name: value for name, value in (("pose", pose), ("optics", optics)) if value is not None}
        for name, value in new.items():
            if len(value) != self.count:
                raise InputError(
                    f"{len(value)} rows of {name} for {self.count} particles",
                    where=self.path,
                    remedy="give the files of one data set",
                )
        return replace(self, **new, changed=self.changed | set(new))

    def with_half_set(self, half_set: Int64[Tensor, " particles"]) -> Particles:
        """The same particles divided otherwise into two halves, 0 and 1."""
        if len(half_set) != self.count:
            raise ValueError(f"{len(half_set)} half-sets for {self.count} particles")
        return replace(self, half_set=half_set, changed=self.changed | {"half_set"})

    def images(self, rows: Tensor | np.ndarray | slice, check: bool = True) -> Float[Tensor, "rows box box"]:
        """The images of these rows as float32, all of one box size.

        Raises InputError when a stack is missing, cut short, or of another box, and, with `check`, when an image holds a
        NaN or infinity: the message names `index@file` and row.
        """
        rows = rows.cpu().numpy() if isinstance(rows, Tensor) else rows
        chosen = np.arange(self.count)[rows].reshape(-1)
        at = self.rows[chosen]
        file, index = self.listing.file[at], self.listing.index[at]
        if len(at) == 0:
            side = self.listing.groups[0].box_size
            return torch.empty(0, side, side)
        first = self._stack_of(int(file[0]), int(at[0])).box[0]
        out = np.empty((len(at), first, first), np.float32)
        order = np.lexsort((index, file))
        for places in np.split(order, np.flatnonzero(np.diff(file[order])) + 1):
            stack = self._stack_of(int(file[places[0]]), int(at[places[0]]))
            if stack.box[0] != first:
                raise InputError(
                    f"images of {first} and of {stack.box[0]} pixels are asked for together",
                    where=self.path,
                    remedy="take one optics group at a time",
                )
            in_order = bool((np.diff(places) == 1).all())
            if in_order:
                stack.read(index[places], out[places[0] : places[-1] + 1])
            else:
                out[places] = stack.read(index[places])
        if check:
            self._refuse_nan(out, chosen)
        return torch.from_numpy(out)

    def chunks(
        self, size: int, rows: Tensor | np.ndarray | None = None, check: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows, images) in order, at most `size` at a time and never two box sizes together: memory stays bounded."""
        chosen = np.arange(self.count) if rows is None else np.arange(self.count)[_numpy(rows)]
        if len(chosen) == 0:
            return
        boxes = np.array([group.box_size for group in self.listing.groups])[self.listing.group[self.rows[chosen]]]
        for run in np.split(chosen, np.flatnonzero(np.diff(boxes)) + 1):
            for start in range(0, len(run), size):
                part = run[start : start + size]
                yield torch.from_numpy(part), self.images(part, check)

    def _stack_of(self, number: int, row: int) -> Any:
        stack = self.listing.files.open(number)
        rows, columns = stack.box
        if rows != columns:
            raise InputError(
                f"images of {columns} × {rows} pixels are not square",
                where=stack.path,
                remedy="extract them in square boxes",
            )
        group = self.listing.groups[int(self.listing.group[row])]
        if group.box_size not in (0, rows):
            raise InputError(
                f"the table says {group.box_size} pixels, the images in {stack.path.name} have {rows}",
                where=self.listing.block.where(row),
                remedy="correct rlnImageSize, or give the stack that belongs to this table",
            )
        return stack

    def _refuse_nan(self, images: np.ndarray, chosen: np.ndarray) -> None:
        # a sum is finite only if every term is: one pass, and only a suspect is looked at closely
        with np.errstate(over="ignore", invalid="ignore"):
            suspects = np.flatnonzero(~np.isfinite(images.sum(axis=(1, 2))))
        for place in suspects:
            bad = int((~np.isfinite(images[place])).sum())
            if bad:
                row = int(chosen[place])
                raise InputError(
                    f"image {self.name(row)} holds {bad} pixels that are not numbers (NaN or infinite)",
                    where=self.listing.block.where(int(self.rows[row])),
                    remedy="delete that row, or write the image again",
                )


def read_particles(
    path: Path,
    images_folder: Path | None = None,
    *,
    pixel_size: float | None = None,
    box_size: int | None = None,
    need_images: bool = True,
) -> Particles:
    """Open particles: a RELION `.star`, cryoSPARC `.cs`, `.txt` list of stacks, `.mrcs` stack, or a job's folder.

    Args:
        path: the file, or a folder with `outputs/particles.star`.
        images_folder: where to look for the stacks instead of beside the table (and above it), or the one stack to use.
        pixel_size, box_size: in place of what the file says, Å and pixels.
        need_images: False to read the table alone, when the images may be elsewhere.

    Raises:
        InputError: when anything the file says cannot be read or its images are missing, with file, row and remedy.
    """
    path = Path(path)
    listing = _listing(_table_in(path), images_folder, pixel_size, box_size)
    if need_images:
        listing.files.check()
    half_set = None if listing.half_set is None else torch.from_numpy(listing.half_set)
    return Particles(path, listing, np.arange(len(listing.uid)), listing.pose, listing.optics, half_set)


def _listing(path: Path, images: Path | None, pixel_size: float | None, box_size: int | None) -> Listing:
    name = path.name.lower()
    if name.endswith((".star", ".star.gz")):
        return list_particles(read_star(path), images, pixel_size, box_size)
    if name.endswith(".cs"):
        return list_particles_cs(read_cs(path), images, pixel_size, box_size)
    if name.endswith((".txt", ".lst")):
        return list_stacks(path, images, pixel_size)
    if name.endswith((".mrcs", ".mrc", ".st", ".mrcs.gz", ".mrc.gz", ".mrcs.bz2", ".map")):
        return list_stack(path, pixel_size)
    if not path.exists():
        raise InputError("no such file", where=path, remedy="check the path")
    raise InputError(
        "particles are read from .star, .cs, .txt and .mrcs files",
        where=path,
        remedy="frazil inspect says what this file is",
    )


def _table_in(path: Path) -> Path:
    """The particle table of a job's folder; a file stands for itself."""
    if not path.is_dir():
        return path
    for inside in (path / "outputs" / "particles.star", path / "particles.star"):
        if inside.exists():
            return inside
    raise InputError(
        "this folder has no outputs/particles.star",
        where=path,
        remedy="give a particle file, or a job that has finished",
    )


def _grid(box_size: int, pixel_size: float, path: Path) -> Grid:
    if box_size <= 0:
        raise InputError(
            "nothing states the box size: the table has no rlnImageSize and the images are not there",
            where=path,
            remedy="give the folder of the images with --images, or --box-size in pixels",
        )
    if box_size < SMALLEST_BOX:
        raise InputError(
            f"images of {box_size} pixels are too small", where=path, remedy=f"{SMALLEST_BOX} pixels are the least"
        )
    if pixel_size <= 0:
        raise InputError(
            "neither the table nor the image header states the pixel size", where=path, remedy="give --pixel-size, in Å"
        )
    return Grid(box_size, pixel_size)


def _numpy(rows: Tensor | np.ndarray) -> np.ndarray:
    return rows.cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
