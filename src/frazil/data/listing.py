"""What any particle table says, in one language: which image lies where, and what is known about it.

RELION, cryoSPARC, lists of stacks and bare stacks are each turned into a `Listing`; `Particles` knows nothing else.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np

from frazil.data.mrc import StackFile
from frazil.data.mrc_header import MrcHeader
from frazil.data.table import Block, Table
from frazil.data.tilts import TiltViews
from frazil.errors import InputError
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose

_OPEN_AT_ONCE = 64
_LOOKED_AT = 16  # stacks whose headers are checked before any work: what is wrong is mostly wrong in all of them


@final
@dataclass(frozen=True)
class OpticsGroup:
    """Images that share a sampling. `pixel_size` in Å and `box_size` in pixels are 0 where nothing states them."""

    name: str
    pixel_size: float
    box_size: int


@final
class ImageFiles:
    """The stacks a table names, found on disk when they are asked for, a few of them open at a time.

    Args:
        names: files as the table writes them. table: the table's path; relative names start at its folder, or at any folder
            above it (RELION writes them from the project's root). images: a folder to look in instead, or one stack that
            takes the place of all files.
    """

    def __init__(self, names: Sequence[str], table: Path, images: Path | None = None) -> None:
        self.names = tuple(names)
        self.table = Path(table)
        self.images = None if images is None else Path(images)
        if self.images is not None and not self.images.exists():
            raise InputError("no such file or folder of images", where=self.images, remedy="check --images")
        self._base: Path | None = None
        self._paths: dict[int, Path | None] = {}
        self._headers: dict[int, MrcHeader] = {}
        self._open: OrderedDict[int, StackFile] = OrderedDict()

    def find(self, number: int) -> Path | None:
        """Where a file is, or None."""
        if number not in self._paths:
            self._paths[number] = self._search(self.names[number])
        return self._paths[number]

    def path(self, number: int) -> Path:
        """Where a file is; raises InputError with what to do when it is nowhere."""
        found = self.find(number)
        if found is None:
            raise self._missing_error(number)
        return found

    def open(self, number: int) -> StackFile:
        """The stack, header read and checked."""
        stack = self._open.pop(number, None)
        if stack is None:
            stack = StackFile(self.path(number), self._headers.get(number))
            self._headers[number] = stack.header
            if len(self._open) >= _OPEN_AT_ONCE:
                # only let go of: it closes itself when nobody, in whatever thread, reads from it any more
                self._open.popitem(last=False)
        self._open[number] = stack
        return stack

    def check(self) -> None:
        """Raise InputError when a file is missing (names the first, counts the rest) or one of the first is damaged."""
        for number in range(len(self.names)):
            if self.find(number) is None:
                raise self._missing_error(number)
        for number in range(min(len(self.names), _LOOKED_AT)):
            self.open(number)

    def missing(self) -> list[str]:
        """The names that are nowhere on disk."""
        return [name for number, name in enumerate(self.names) if self.find(number) is None]

    def _search(self, name: str) -> Path | None:
        if self.images is not None:
            if self.images.is_file():
                return self.images
            candidates = [self.images / name.lstrip("/"), self.images / Path(name).name]
        elif Path(name).is_absolute():
            candidates = [Path(name)]
        else:
            known = [self._base] if self._base is not None else []
            bases = [*known, self.table.parent, *self.table.absolute().parent.parents]
            for base in bases:
                if (base / name).is_file():
                    self._base = base
                    return base / name
            return None
        return next((path for path in candidates if path.is_file()), None)

    def _missing_error(self, number: int) -> InputError:
        absent = len(self.missing())
        others = f" (and {absent - 1} more of {len(self.names)})" if absent > 1 else ""
        beside = sorted(Path(self.table).absolute().parent.glob(Path(self.table).name.split(".")[0] + "*.mrc*"))
        if self.images is None and len(self.names) == 1 and len(beside) == 1:
            advice = f"beside the table lies {beside[0].name}: if it holds the images, give --images {beside[0].name}"
        else:
            advice = "give the folder that holds the images with --images"
        return InputError(f"the image stack {self.names[number]} is not there{others}", where=self.table, remedy=advice)


@final
@dataclass(frozen=True)
class Listing:
    """A particle table in frazil's terms; N rows.

    Attributes:
        table, block: the input, and the block whose rows are the particles. files: the stacks. file, index: for each row
        the number of its stack and the 0-based image in it. groups, group: optics groups, and each row's. uid: (N,) uint64.
        pose, optics: None where the table has none. half_set: (N,) 0 or 1, or None. sign: (N,) -1 where the table says that
        particles are darker than the background, +1 where brighter; None when it says nothing. tilts: which rows are views of
        one particle at known tilts; None when none are. warnings: what frazil does not use or had to assume.
    """

    table: Table
    block: Block
    files: ImageFiles
    file: np.ndarray
    index: np.ndarray
    groups: tuple[OpticsGroup, ...]
    group: np.ndarray
    uid: np.ndarray
    pose: Pose | None = None
    optics: Optics | None = None
    half_set: np.ndarray | None = None
    sign: np.ndarray | None = None
    tilts: TiltViews | None = None
    warnings: tuple[str, ...] = field(default_factory=tuple)


def number_files(names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The distinct names in order of appearance, and for each entry the number of its name."""
    numbers: dict[str, int] = {}
    which = np.fromiter((numbers.setdefault(name, len(numbers)) for name in names), np.int64, len(names))
    return list(numbers), which


def stable_uids(names: Sequence[str]) -> np.ndarray:
    """A 64-bit name for each row, from its image name: the same on every machine and in every order.

    A name that appears again (symmetry expansion) counts its appearances, so that uids stay unique.
    """
    seen: dict[str, int] = {}
    uids = np.empty(len(names), np.uint64)
    for row, name in enumerate(names):
        repeat = seen.get(name, 0)
        seen[name] = repeat + 1
        text = name if repeat == 0 else f"{name}#{repeat}"
        uids[row] = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return uids
