"""Pictures of cryo-EM things: maps, curves, latent spaces, viewing directions.

Every function takes data and returns `(spec, figure)`: a JSON-able dict that holds all the numbers drawn, and a
`matplotlib.figure.Figure` on the Agg canvas. Nothing here opens a window, touches `pyplot` or writes a file.
"""

from __future__ import annotations

import importlib
from types import ModuleType

_ROOMS = ("curves", "evidence", "film", "latent", "maps", "poses", "raymarch", "strips", "style")


def __getattr__(name: str) -> ModuleType:
    # loaded on first use, so that `import frazil.figures` costs nothing
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*_ROOMS]
