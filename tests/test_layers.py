"""The house keeps its storeys: who may import whom, who may speak, and what a file may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "frazil"
FILES = sorted(SOURCE.rglob("*.py"))

GROUND = {"errors", "config", "__version__"}
STAGES = {"simulate", "classify", "reconstruct", "analyze", "evaluate"}
BELOW_STAGES = {"numerics", "physics", "inference", "data", "figures", "engine"}
# what each room may import besides itself and the ground
MAY_IMPORT = {
    "numerics": set(),
    "physics": {"numerics"},
    "inference": {"numerics", "physics"},
    "data": {"numerics", "physics", "engine"},
    "figures": {"numerics", "physics"},
    "engine": set(),
    **dict.fromkeys(STAGES, BELOW_STAGES),
    "demo": BELOW_STAGES | {"cli"},  # the demo types commands, as a user would
    "flags": set(),
    "cli": {"flags", "engine"},
    "__main__": {"cli"},
    "config": set(),
    "errors": set(),
    "__init__": set(),
}
MAY_SPEAK = {"cli", "flags", "engine", "__main__"}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "old", "new", "v2"}


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def room_of(path: Path) -> str:
    """The folder of the house that a file stands in, or its own name at the top."""
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported_rooms(path: Path) -> Iterator[tuple[str, int]]:
    """The rooms a file imports from, with line numbers."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: write imports in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "frazil" and len(parts) > 1:
                yield parts[1], node.lineno


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_follow_the_arrows(path: Path) -> None:
    room = room_of(path)
    allowed = MAY_IMPORT[room] | GROUND | {room}
    wrong = [f"{name_of(path)}:{line} imports {other}" for other, line in imported_rooms(path) if other not in allowed]
    assert not wrong


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) not in MAY_SPEAK], ids=name_of)
def test_library_code_does_not_print_or_look_around(path: Path) -> None:
    wrong = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "input"):
            wrong.append((node.lineno, node.func.id))
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if text in ("sys.argv", "sys.stdout", "sys.stderr", "os.environ", "os.getenv", "torch.cuda.is_available"):
                wrong.append((node.lineno, text))
    assert not wrong, f"{name_of(path)}: only the command line and the engine may do this"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_one_idea_with_a_docstring(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    assert ast.get_docstring(tree(path)), "say in a docstring what this file is for"
    assert not FORBIDDEN_NAMES & set(path.stem.split("_"))


def test_classes_are_abstract_or_final() -> None:
    classes = {node.name: node for path in FILES for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)}
    # settings, errors and tensor values are families whose heads hold what all members share
    open_by_design = {"StageConfig", "JobConfig", "FrazilError", "TensorValue"}
    for name, node in classes.items():
        for base in node.bases:
            parent = classes.get(ast.unparse(base).split("[")[0])
            if parent is None or parent.name in open_by_design:
                continue
            above = {ast.unparse(b).split("[")[0] for b in parent.bases}
            if above & open_by_design:
                continue
            assert above & {"ABC", "Protocol"}, f"{name} extends {parent.name}, which is not abstract"


def test_no_verb_imports_anything_slow_for_its_help() -> None:
    slow = {"torch", "numpy", "scipy", "numba", "matplotlib", "sklearn", "pandas", "gemmi", "mrcfile", "umap"}
    for path in [p for p in FILES if p.name == "__init__.py"] + [SOURCE / "analyze" / "decode.py"]:
        for node in tree(path).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                assert not slow & {name.split(".")[0] for name in names}, f"{name_of(path)}:{node.lineno}"
