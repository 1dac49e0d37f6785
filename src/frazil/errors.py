"""What can go wrong, told so that the reader can mend it: what, where, and what to do."""

from __future__ import annotations

from pathlib import Path


class FrazilError(Exception):
    """A failure that frazil can explain. The command line ends with exit code 1."""

    exit_code = 1


class InputError(FrazilError):
    """Something the user gave is wrong: a file, a row, a value. The command line ends with exit code 2.

    Args:
        what: what is wrong, in one sentence without a full stop.
        where: the file, or `file:row`, or the option that holds it.
        remedy: what to do about it, in one sentence without a full stop.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | Path | None = None, remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        place = f"{where}: " if where is not None else ""
        advice = f". {remedy[0].upper()}{remedy[1:]}" if remedy else ""
        super().__init__(f"{place}{what}{advice}".rstrip(".") + ("" if advice.endswith("?") else "."))
