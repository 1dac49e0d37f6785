"""STAR files (Hall 1991), as RELION, Warp, topaz and others write them, read into a `Table` and written from one.

Reading stands on gemmi. Quoted strings, blocks in any order and without a name, columns with or without `#n`, name-value
pairs beside loops, empty loops and gzip are all plain STAR here; what a column means is the business of `relion.py`.
"""

from __future__ import annotations

import gzip
import re
import shlex
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from gemmi import cif

from frazil.data.table import Block, LazyText, Table, Values, as_text
from frazil.engine.files import atomic_write
from frazil.errors import InputError

_QUOTES = "\"';"
_SUSPECT = re.compile(r"[^\S\n]|^$|^[_#$'\";dlsgDLSG]", re.MULTILINE)
_NEEDS_QUOTES = re.compile(r"^$|\s|^[_#$'\";]|^(data_|loop_|save_|stop_|global_)", re.IGNORECASE)


def read_star(path: Path) -> Table:
    """Read every block of a STAR file (gzip too); columns lose their leading underscore and keep their text.

    Raises InputError when the file is missing, no STAR file, or has a row with too few or too many values.
    """
    text = _read_utf8(path)
    try:
        document = cif.read_string(text, 0)
    except ValueError as error:
        raise _explained(error, text.decode(), path) from None
    plain = not any(mark in text for mark in (b'"', b"'", b"\n;"))
    blocks = [block for parsed in document for block in _blocks(parsed, path, plain)]
    if not blocks:
        raise InputError(
            "no data block in this STAR file", where=path, remedy="check that the file was written completely"
        )
    return Table(tuple(blocks), path)


def write_star(path: Path, table: Table, comment: str = "") -> None:
    """Write a table as STAR, atomically. Text columns are written as they are, numbers as the shortest exact text."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        if comment:
            file.write(f"# {comment}\n")
        for block in table.blocks:
            file.write(f"\ndata_{block.name}\n\n")
            file.writelines(_lines(block))
            file.write("\n")


def _read_utf8(path: Path) -> bytes:
    """The file's text as UTF-8 with lines that end in a line feed, unpacked when it is gzip."""
    try:
        data = Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise InputError("no such file", where=path, remedy="check the path") from None
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"damaged gzip file ({error})", where=path, remedy="copy it again") from None
    if b"\0" in data[:4096]:
        raise InputError("this is a binary file, not a STAR file", where=path, remedy="try frazil inspect")
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        if not data.isascii():
            data.decode("utf-8")
    except UnicodeDecodeError:
        # old programs wrote names in their own code page: latin-1 keeps every byte
        return data.decode("latin-1").encode("utf-8")
    return data


def _blocks(parsed: cif.Block, path: Path, plain: bool) -> Iterator[Block]:
    """One block for the pairs and one for each loop: STAR allows several in a block, RELION writes one."""
    name = parsed.name.strip()  # gemmi calls a nameless block " "
    pairs: dict[str, Values] = {}
    loops: list[cif.Loop] = []
    known: set[str] = set()
    for item in cast(Iterable[Any], parsed):  # gemmi's stub forgets Block.__iter__
        if item.pair is not None:
            tag, value = item.pair
            pairs[_column(tag, known, path, item.line_number)] = [_unquoted(value)]
        elif item.loop is not None:
            loops.append(item.loop)
    if pairs:
        yield Block(name, pairs, 1, is_loop=False, path=path)
    for loop in loops:
        columns: dict[str, Values] = {}
        for tag in loop.tags:
            columns[_column(tag, known, path, None)] = _fetch(parsed, tag, plain)
        yield Block(name, columns, loop.length(), path=path)
    if not pairs and not loops:
        yield Block(name, {}, 0, path=path)


def _column(tag: str, known: set[str], path: Path, line: int | None) -> str:
    """The column's name. A data block may have it once only, in whichever of its loops."""
    column = tag.removeprefix("_")
    if column in known:
        place = path if line is None else f"{path}:{line}"
        raise InputError(
            f"column {column} appears twice", where=place, remedy="delete one, or add the data_ line between"
        )
    known.add(column)
    return column


def _fetch(parsed: cif.Block, tag: str, plain: bool) -> LazyText:
    """A column that stays in gemmi's memory until it is wanted. In a `plain` file there is no quote to take off."""
    if plain:
        return LazyText(lambda: list(parsed.find_loop(tag)), plain=True)
    return LazyText(lambda: [_unquoted(value) for value in parsed.find_loop(tag)])


def _unquoted(value: str) -> str:
    return cif.as_string(value) if value[:1] in _QUOTES and len(value) > 1 else value


def _explained(error: Exception, text: str, path: Path) -> InputError:
    """gemmi's message with the file's own row: it names the loop, we look for the row inside it."""
    message = str(error)
    found = re.match(r"(?:string|data):(\d+):\d+(?:\(\d+\))?:?\s*(.*)", message)
    line, what = (int(found[1]), found[2]) if found else (1, message)
    if "header" in what and not text.strip().lower().startswith(("data_", "#")):
        return InputError(
            "not a STAR file: it has no data_ line", where=path, remedy="give a STAR file, or try frazil inspect"
        )
    if "Wrong number of values" in what:
        return _ragged(text, line, path)
    if "header" in what:
        return InputError(
            "a table before the first data_ line", where=f"{path}:{line}", remedy="add a line 'data_' above it"
        )
    return InputError(f"not valid STAR: {what}", where=f"{path}:{line}", remedy="correct that line")


def _ragged(text: str, start: int, path: Path) -> InputError:
    lines = text.splitlines()
    width = 0
    for number in range(start - 1, len(lines)):
        content = lines[number].strip()
        if content.startswith("_"):
            width += 1
        elif content and width and not content.startswith(("#", "loop_")):
            if content.lower().startswith("data_"):
                break
            values = len(_words(content))
            if values != width:
                return InputError(
                    f"this row has {values} values, the table has {width} columns",
                    where=f"{path}:{number + 1}",
                    remedy="the file may be cut short: write it again, or delete that row",
                )
    return InputError(
        f"the table that starts here does not fill its {width} columns",
        where=f"{path}:{start}",
        remedy="look for a row with a missing value",
    )


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=False, posix=False)
    except ValueError:
        return line.split()


def _lines(block: Block) -> Iterator[str]:
    texts = [_quoted(block, name) for name in block.columns]
    if not block.is_loop:
        width = max((len(name) for name in block.columns), default=0) + 2
        for name, values in zip(block.columns, texts, strict=True):
            yield f"_{name:<{width}} {values[0]}\n"
        return
    if not block.columns:
        return
    yield "loop_\n"
    for number, name in enumerate(block.columns, 1):
        yield f"_{name} #{number}\n"
    for row in zip(*texts, strict=True):
        yield " ".join(row) + "\n"


def _quoted(block: Block, column: str) -> list[str]:
    values = block.raw(column)
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return as_text(values)
    texts = as_text(values) if isinstance(values, np.ndarray) else values
    source = block.values[column]
    if isinstance(source, LazyText) and source.plain:
        return texts
    # one scan of the whole column tells whether any value needs a closer look
    if not _SUSPECT.search("\n".join(texts)):
        return texts
    return [_quote(value) if _NEEDS_QUOTES.search(value) else value for value in texts]


def _quote(value: str) -> str:
    value = value.replace("\n", " ")
    mark = "'" if '"' in value and "'" not in value else '"'
    return f"{mark}{value}{mark}"
