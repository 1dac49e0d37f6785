"""NumPy's own files, read without running anything."""

from __future__ import annotations

from pathlib import Path
from tokenize import TokenError

import numpy as np

from frazil.errors import InputError


def read_npy(path: Path, remedy: str = "save it again") -> np.ndarray:
    """The array of a `.npy` file (of any name). Raises InputError when it is missing, damaged, or holds Python objects."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError("no such file", where=path, remedy="check the path") from None
    # the header is Python text: damaged, it fails as text can fail
    except (ValueError, SyntaxError, TokenError, TypeError, KeyError, OSError, EOFError, MemoryError) as error:
        what = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise InputError(f"this array cannot be read safely ({what})", where=path, remedy=remedy) from None
    if not isinstance(loaded, np.ndarray):
        raise InputError("an archive of several arrays where one is needed", where=path, remedy=remedy)
    return loaded
