"""A MolViewSpec file (`.mvsj`): the maps of a job as surfaces in Mol*, one scene or a series of them.

A file is a tree: download, parse, volume, representation, colour. Of several states (snapshots) Mol* shows one after the
other. Addresses are relative to the file, so the folder can be served or moved as a whole. Schema: MolViewSpec 1.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

VERSION = "1"
# time for which Mol* shows one map of a series before the next, and that it takes to change, milliseconds
LINGER, TRANSITION = 700, 150


def isosurface(path: Path, folder: Path, level: float, colour: str, opacity: float = 1.0) -> dict[str, Any]:
    """The branch of the tree that shows a map as a surface at a level in map units."""
    address = Path(os.path.relpath(path, folder)).as_posix()
    surface = {"type": "isosurface", "absolute_isovalue": float(level), "show_faces": True, "show_wireframe": False}
    paint: list[dict[str, Any]] = [{"kind": "color", "params": {"color": colour}}]
    if opacity < 1:
        paint.append({"kind": "opacity", "params": {"opacity": opacity}})
    shown = {"kind": "volume_representation", "params": surface, "children": paint}
    parsed = {"kind": "parse", "params": {"format": "map"}, "children": [{"kind": "volume", "children": [shown]}]}
    return {"kind": "download", "params": {"url": address}, "children": [parsed]}


def scene(maps: Sequence[Path], folder: Path, level: float, colours: Sequence[str], title: str) -> str:
    """The text of a file that shows one map after the other, as a series of snapshots.

    Args:
        maps: in the order in which they are shown. folder: where the file will lie.
        level: contour level of all of them. colours: one per map; they repeat.
    """
    snapshots = []
    for i, path in enumerate(maps):
        branch = isosurface(path, folder, level, colours[i % len(colours)])
        said = {
            "key": f"map_{i:03d}",
            "title": path.stem,
            "linger_duration_ms": LINGER,
            "transition_duration_ms": TRANSITION,
        }
        snapshots.append({"root": {"kind": "root", "children": [branch]}, "metadata": said})
    metadata = {"version": VERSION, "title": title, "timestamp": datetime.now(UTC).isoformat()}
    return json.dumps({"kind": "multiple", "metadata": metadata, "snapshots": snapshots}, indent=1) + "\n"
