"""One part of a report, before it is written: words, tables and figures under a heading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from frazil.figures.style import Spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Section:
    """A heading and what stands below it.

    Attributes:
        heading: of the section. text: a paragraph. tables: rows of cells, the first row of each table its header.
        figures: file name without suffix → what a function of this package returned.
        films: caption → an animated GIF.
    """

    heading: str
    text: str = ""
    tables: list[list[Sequence[object]]] = field(default_factory=list)
    figures: dict[str, tuple[Spec, Figure]] = field(default_factory=dict)
    films: dict[str, bytes] = field(default_factory=dict)
