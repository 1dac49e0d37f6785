"""Tables as files know them: named blocks of columns, kept in order and complete.

A `Block` keeps each column the way it came (text as text, numbers as numbers) and turns it into what is asked for only
when it is asked for. So an untouched column is written back letter for letter, and a table of 200,000 rows opens in the
time its text takes to parse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from frazil.errors import InputError


@final
@dataclass(frozen=True)
class LazyText:
    """Text that is fetched when it is asked for. `plain` promises that no value holds blanks or needs quotes."""

    fetch: Callable[[], list[str]]
    plain: bool = False


Values = np.ndarray | Sequence[str] | LazyText

_ABSENT = "column {name} is missing"


@final
@dataclass(frozen=True)
class Block:
    """A named list of rows with named columns; a list of name-value pairs is a block of one row.

    Args:
        name: the block's name, "" when the file gives none.
        values: column name to its values: an array with one entry per row (numbers, or vectors from cryoSPARC), text,
            or text that is fetched when needed.
        count: number of rows.
        is_loop: False when the file writes name-value pairs rather than a table.
        path: the file it came from, for messages.
    """

    name: str
    values: Mapping[str, Values]
    count: int
    is_loop: bool = True
    path: Path | None = None
    rows: np.ndarray | None = None  # rows of `values` that this block shows; None for all

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names in the file's order."""
        return tuple(self.values)

    def __contains__(self, column: str) -> bool:
        return column in self.values

    def raw(self, column: str) -> np.ndarray | list[str]:
        """The column as it came: text as a list, anything else as an array. Raises InputError when it is missing."""
        if column not in self.values:
            raise InputError(
                _ABSENT.format(name=column), where=self.where(), remedy=f"the columns are: {shown(self.columns)}"
            )
        values = self.values[column]
        if isinstance(values, np.ndarray):
            return values if self.rows is None else values[self.rows]
        text = values.fetch() if isinstance(values, LazyText) else list(values)
        return text if self.rows is None else [text[row] for row in self.rows.tolist()]

    def text(self, column: str) -> list[str]:
        """The column as strings."""
        values = self.raw(column)
        return as_text(values) if isinstance(values, np.ndarray) else values

    def numbers(self, column: str) -> np.ndarray:
        """The column as float64, one number (or vector) per row. Raises InputError naming the first row that is none."""
        values = self.raw(column)
        if isinstance(values, np.ndarray):
            if values.dtype.kind in "fiub":
                return values.astype(np.float64)
            values = as_text(values)
        try:
            # most columns repeat a few values: each of those needs to be understood only once
            distinct = set(values)
            if len(distinct) * 8 < len(values):
                known = {value: float(value) for value in distinct}
                return np.fromiter(map(known.__getitem__, values), np.float64, len(values))
            return np.array(values, dtype=np.float64)
        except ValueError:
            row = next(row for row, value in enumerate(values) if not _is_number(value))
            raise InputError(
                f"column {column} holds {values[row]!r} where a number is needed",
                where=self.where(row),
                remedy="correct that value or delete the row",
            ) from None

    def integers(self, column: str) -> np.ndarray:
        """The column as int64; "3.000000" counts as 3. Raises InputError naming the first row that is no whole number."""
        values = self.raw(column)
        if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
            return values.astype(np.int64)
        numbers = self.numbers(column)
        whole = np.isfinite(numbers) & (numbers == np.round(numbers))
        if not whole.all():
            row = int(np.argmin(whole))
            raise InputError(
                f"column {column} holds {numbers[row]:g} where a whole number is needed",
                where=self.where(row),
                remedy="correct that value or delete the row",
            )
        return numbers.astype(np.int64)

    def where(self, row: int | None = None) -> str:
        """The place to name in a message: file, block and, when given, the 1-based row."""
        name = f" (block {self.name})" if self.name else ""
        if row is None:
            return f"{self.path or 'table'}{name}"
        original = row if self.rows is None else int(self.rows[row])
        return f"{self.path or 'table'}:{original + 1}{name}"

    def select(self, rows: np.ndarray) -> Block:
        """The rows asked for (indices), in that order, without copying any column."""
        rows = np.asarray(rows)
        if len(rows) == self.count and np.array_equal(rows, np.arange(self.count)):
            return self
        chosen = rows if self.rows is None else self.rows[rows]
        return replace(self, rows=chosen, count=len(chosen))

    def with_columns(self, columns: Mapping[str, np.ndarray | Sequence[str]]) -> Block:
        """The block with these columns replaced in place, or added at the end."""
        merged: dict[str, Values] = {name: self._fetcher(name) for name in self.values}
        for name, values in columns.items():
            if len(values) != self.count:
                raise ValueError(f"column {name} has {len(values)} values, the block has {self.count} rows")
            merged[name] = values
        return replace(self, values=merged, rows=None)

    def _fetcher(self, column: str) -> Values:
        values = self.values[column]
        if self.rows is None:
            return values
        if isinstance(values, np.ndarray):
            return values[self.rows]
        return LazyText(lambda: list(self.raw(column)), isinstance(values, LazyText) and values.plain)


@final
@dataclass(frozen=True)
class Table:
    """The blocks of one file, in order."""

    blocks: tuple[Block, ...]
    path: Path | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Block names in the file's order."""
        return tuple(block.name for block in self.blocks)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Block:
        for block in self.blocks:
            if block.name == name:
                return block
        raise InputError(
            f"block {name or '(nameless)'} is missing", where=self.path, remedy=f"it has: {shown(self.names)}"
        )

    def with_block(self, block: Block, instead_of: Block | None = None) -> Table:
        """The table with a block added, or put in another's place."""
        if instead_of is None:
            return replace(self, blocks=(*self.blocks, block))
        return replace(self, blocks=tuple(block if known is instead_of else known for known in self.blocks))


def as_text(values: np.ndarray) -> list[str]:
    """Numbers as the shortest text that reads back as the same number; vectors as `[a,b,c]`.

    >>> as_text(np.array([0.1, 3.0]))
    ['0.1', '3.0']
    """
    if values.ndim > 1:
        return ["[" + ",".join(as_text(row)) + "]" for row in values.reshape(len(values), -1)]
    if values.dtype.kind == "S":
        return [value.decode("utf-8", "replace") for value in values.tolist()]
    if values.dtype.kind == "b":
        return [str(int(value)) for value in values.tolist()]
    if values.dtype == np.float64 or values.dtype.kind in "iu":
        return list(map(repr, values.tolist()))
    return [str(value) for value in values.astype(str).tolist()]


def shown(names: Iterable[str], limit: int = 12) -> str:
    """Names for a message, the first few of them."""
    listed = [name or "(nameless)" for name in names]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more if listed else "none"


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|nan|inf(inity)?)", re.IGNORECASE)


def _is_number(value: Any) -> bool:
    return bool(_NUMBER.fullmatch(str(value).strip()))
