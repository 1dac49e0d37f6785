"""The MolViewSpec file is the tree that its schema describes, and finds the maps beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from frazil.analyze.molstar import isosurface, scene

# kind of node → (kinds of its parents, parameters it must have, parameters it may have): MolViewSpec 1
SCHEMA: dict[str, tuple[set[str], dict[str, type], dict[str, type]]] = {
    "root": (set(), {}, {}),
    "download": ({"root"}, {"url": str}, {}),
    "parse": ({"download"}, {"format": str}, {}),
    "volume": ({"parse"}, {}, {"channel_id": str}),
    "volume_representation": (
        {"volume"},
        {"type": str},
        {"absolute_isovalue": float, "relative_isovalue": float, "show_faces": bool, "show_wireframe": bool},
    ),
    "color": ({"volume_representation"}, {"color": str}, {"selector": str}),
    "opacity": ({"volume_representation"}, {"opacity": float}, {}),
}


def check(node: dict[str, Any], parent: str | None) -> list[str]:
    """The kinds of nodes below and with this one, all of them as the schema wants them."""
    parents, must, may = SCHEMA[node["kind"]]
    assert set(node) <= {"kind", "params", "children"}
    assert parent in parents if parents else parent is None
    params = node.get("params", {})
    assert set(must) <= set(params) <= set(must) | set(may)
    for name, value in params.items():
        assert type(value) is {**must, **may}[name]
    return [node["kind"], *(kind for child in node.get("children", []) for kind in check(child, node["kind"]))]


def test_every_snapshot_is_a_tree_of_the_schema(tmp_path: Path) -> None:
    maps = [tmp_path / "outputs" / f"state_{k:03d}.mrc" for k in range(3)]
    said = json.loads(scene(maps, tmp_path, 0.25, ["#0072B2", "#D55E00"], "states"))
    assert said["kind"] == "multiple" and said["metadata"]["version"] == "1" and "timestamp" in said["metadata"]
    assert len(said["snapshots"]) == 3
    for snapshot in said["snapshots"]:
        kinds = check(snapshot["root"], None)
        assert kinds == ["root", "download", "parse", "volume", "volume_representation", "color"]
        assert type(snapshot["metadata"]["linger_duration_ms"]) is int
    assert len({snapshot["metadata"]["key"] for snapshot in said["snapshots"]}) == 3


def test_maps_are_found_beside_the_file_and_have_the_level_and_colour(tmp_path: Path) -> None:
    branch = isosurface(tmp_path / "job" / "outputs" / "a.mrc", tmp_path / "job", 0.25, "#0072B2", opacity=0.5)
    kinds = check({"kind": "root", "children": [branch]}, None)
    assert kinds[-2:] == ["color", "opacity"]
    assert branch["params"]["url"] == "outputs/a.mrc" and branch["children"][0]["params"]["format"] == "map"
    shown = branch["children"][0]["children"][0]["children"][0]
    assert shown["params"]["absolute_isovalue"] == 0.25
    assert shown["children"][0]["params"]["color"] == "#0072B2"
