"""The command file that shows a job's maps in ChimeraX, ready to present."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

# pictures between two maps of a morph
FRAMES = 10


def chimerax_script(
    maps: Sequence[Path],
    folder: Path,
    level: float,
    *,
    colours: Sequence[str],
    series: Mapping[str, Sequence[Path]] | None = None,
    heading: str = "maps of a frazil job",
) -> str:
    """The text of an `open.cxc`.

    ChimeraX runs a command file in the file's own folder, so paths are written relative to `folder` and the job may be
    moved or copied as a whole.

    Args:
        maps: maps shown side by side in the model list; the first is visible.
        folder: where the file will lie.
        level: contour level of all of them, in map units.
        colours: one colour per map; they repeat.
        series: name → maps that form a film (`vseries`), hidden until played; a comment says how to morph through them.
        heading: first line of the file, a comment.
    """
    lines = [
        f"# {heading}",
        "set bgColor white",
        "lighting soft",
        "graphics silhouettes true",
    ]
    for i, path in enumerate(maps, start=1):
        lines.append(f"open {_quoted(path, folder)} id {i}")
        lines.append(f"volume #{i} style surface step 1 level {level:.6g} color {colours[(i - 1) % len(colours)]}")
    if len(maps) > 1:
        lines.append(f"hide #2-{len(maps)} models")
    for i, (name, paths) in enumerate((series or {}).items(), start=len(maps) + 1):
        play = f"hide #* models; show #{i} models; vseries play #{i} direction oscillate loop true"
        lines.append(f"# {name}: to play it, type   {play}")
        morph = f"hide #* models; open {' '.join(_quoted(path, folder) for path in paths)} id 1000; volume morph #1000"
        lines.append(f"# smoothly, with maps in between:   {morph} frames {FRAMES * (len(paths) - 1)} slider true")
        lines.append(f"open {' '.join(_quoted(path, folder) for path in paths)} vseries true id {i}")
        lines.append(f"volume #{i} style surface step 1 level {level:.6g} color {colours[0]}")
        lines.append(f"hide #{i} models")
    lines.append("view")
    return "\n".join(lines) + "\n"


def _quoted(path: Path, folder: Path) -> str:
    relative = Path(os.path.relpath(path, folder)).as_posix()
    return f'"{relative}"' if " " in relative else relative
