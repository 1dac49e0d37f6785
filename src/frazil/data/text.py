"""Lists of stacks: a `.txt` file with one image stack per line, paths relative to the list; `#` begins a comment."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from frazil.data.listing import ImageFiles, Listing, OpticsGroup, stable_uids
from frazil.data.mrc import states_pixel_size
from frazil.data.table import Block, Table
from frazil.errors import InputError


def list_stacks(path: Path, images: Path | None = None, pixel_size: float | None = None) -> Listing:
    """Every image of every stack in a list. Raises InputError when the list is empty or a stack is missing."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError("no such file", where=path, remedy="check the path") from None
    except UnicodeDecodeError:
        raise InputError("not a text file", where=path, remedy="give a list with one image stack per line") from None
    names = []
    for number, line in enumerate(lines, 1):
        name = line.split("#")[0].strip()
        if name and not name.endswith((".mrc", ".mrcs", ".mrc.gz", ".mrcs.gz", ".mrcs.bz2", ".st")):
            raise InputError(
                f"{name[:60]!r} is no image stack", where=f"{path}:{number}", remedy="list one .mrcs file per line"
            )
        if name:
            names.append(name)
    if not names:
        raise InputError("the list names no stack", where=path, remedy="list one .mrcs file per line")
    return _all_images(names, Path(path), images, pixel_size)


def list_stack(path: Path, pixel_size: float | None = None) -> Listing:
    """Every image of one stack."""
    return _all_images([Path(path).name], Path(path), None, pixel_size)


def _all_images(names: list[str], path: Path, images: Path | None, pixel_size: float | None) -> Listing:
    files = ImageFiles(names, path, images)
    files.check()
    stacks = [files.open(number) for number in range(len(names))]
    counts = [stack.count for stack in stacks]
    file = np.repeat(np.arange(len(names)), counts)
    index = np.concatenate([np.arange(count) for count in counts])
    sampling = [(stack.pixel_size if pixel_size is None else pixel_size, stack.box[0]) for stack in stacks]
    known = sorted(set(sampling))
    groups = tuple(OpticsGroup(f"opticsGroup{number}", size, box) for number, (size, box) in enumerate(known, 1))
    group = np.repeat([known.index(pair) for pair in sampling], counts)
    image_names = [f"{i + 1:06d}@{names[f]}" for i, f in zip(index.tolist(), file.tolist(), strict=True)]
    block = Block("particles", {"rlnImageName": image_names}, len(image_names), path=path)
    unsure = pixel_size is None and any(
        group.pixel_size > 0 and not states_pixel_size(group.pixel_size) for group in groups
    )
    notes = (
        (f"the header's pixel size of {groups[0].pixel_size:g} Å is probably not meant: give --pixel-size",)
        if unsure
        else ()
    )
    return Listing(
        table=Table((block,), path),
        block=block,
        files=files,
        file=file,
        index=index,
        groups=groups,
        group=group,
        uid=stable_uids(image_names),
        warnings=notes,
    )
