"""A file is whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from frazil.engine.files import atomic_write, write_json, write_npy, write_text


def test_a_file_that_could_not_be_finished_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "map.mrc"
    write_text(path, "before")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert [p.name for p in path.parent.iterdir()] == ["map.mrc"]


def test_the_temporary_file_keeps_the_suffix_and_stands_beside_its_place(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "map.mrc") as temporary:
        assert temporary.suffix == ".mrc" and temporary.parent == tmp_path
        temporary.write_text("whole")
        assert not (tmp_path / "map.mrc").exists()
    assert (tmp_path / "map.mrc").read_text() == "whole"


def test_arrays_and_json_come_back(tmp_path: Path) -> None:
    write_npy(tmp_path / "a.npy", np.arange(3.0))
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.arange(3.0))
    write_json(tmp_path / "a.json", {"one": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"one": [1, None]}


def test_no_pickle_and_no_nan_is_ever_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_npy(tmp_path / "a.npy", np.array([{}], dtype=object))
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", float("nan"))
    assert list(tmp_path.iterdir()) == []
