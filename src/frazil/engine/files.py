"""Files that are either whole or absent: each is written beside its place and then renamed."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@contextmanager
def atomic_write(path: Path | str, *, durable: bool = True) -> Iterator[Path]:
    """Gives the path of a temporary file in the same folder; renames it to `path` when the block ends well.

    The folder is made when it is missing. When the block raises, the temporary file is removed and what was at `path`
    before is still there. The temporary name keeps the suffix, so that writers which look at it are not misled.

    Args:
        durable: wait until the disk has it, so that it outlives a power failure too. What is rewritten every second
            does without: being killed harms neither.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path | str, text: str, *, durable: bool = True) -> None:
    """Writes text atomically, as UTF-8."""
    with atomic_write(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any, *, durable: bool = True) -> None:
    """Writes JSON atomically, indented, with keys in the order given. NaN and infinity are errors: JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", durable=durable)


def without_nan(value: Any) -> Any:
    """The same value for JSON, with `None` for numbers that are not finite."""
    if isinstance(value, dict):
        return {name: without_nan(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_npy(path: Path | str, array: np.ndarray) -> None:
    """Writes an array as .npy atomically; never as a pickle."""
    import numpy as np

    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
