"""Three processes that meet: what they get from each other, what they train, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from frazil.engine.metrics import read_metrics
from frazil.engine.processes import ALONE, Processes

SCRIPT = Path(__file__).with_name("group_of_three.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the three have left what they got."""
    folder = tmp_path_factory.mktemp("three")
    subprocess.run([sys.executable, SCRIPT, folder], check=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def got(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]


def test_all_get_the_same_sum(got: list[dict[str, Any]]) -> None:
    assert [one["sum"] for one in got] == [[[111.0, 111.0], 3.0]] * 3


def test_rows_are_gathered_in_order_however_many_each_has(got: list[dict[str, Any]]) -> None:
    assert [one["rows"] for one in got] == [[[10, 100], [20, 100], [21, 101]]] * 3


def test_what_the_first_makes_all_have(got: list[dict[str, Any]]) -> None:
    assert [(one["first"], one["same"]) for one in got] == [([1.0, 1.0], 0)] * 3


def test_one_flag_is_a_flag_for_all_and_the_least_number_is_known(got: list[dict[str, Any]]) -> None:
    assert [(one["any"], one["least"]) for one in got] == [([True, False], 3.0)] * 3


def test_three_train_as_one_with_shares_of_no_row_and_a_row_that_is_not_a_number(
    got: list[dict[str, Any]], folder: Path
) -> None:
    alone = json.loads((folder / "alone.json").read_text())
    for one in got:
        assert one["trained"]["weight"] == pytest.approx(alone["weight"], rel=1e-5)
        assert one["trained"]["table"] == pytest.approx(alone["table"], abs=1e-5)
    lines = [read_metrics(folder / name) for name in ("one", "three")]
    assert len(lines[0]) == len(lines[1]) > 4
    for before, after in zip(*lines, strict=True):
        assert after == pytest.approx(before, rel=1e-5)


def test_weights_are_the_same_bits_in_all_processes(got: list[dict[str, Any]]) -> None:
    assert got[0]["trained"] == got[1]["trained"] == got[2]["trained"]


def test_the_row_that_is_not_a_number_is_named_once(folder: Path) -> None:
    assert (folder / "three" / "log.txt").read_text().count("row 12 gives a loss that is not finite") == 1


def test_when_one_ends_without_a_word_one_of_the_others_tells(got: list[dict[str, Any]]) -> None:
    assert sorted((one["ended"], one["code"]) for one in got[:2]) == [("PeerLost", 1), ("ToldElsewhere", 1)]


@pytest.mark.parametrize(("count", "rows"), [(1, 7), (2, 7), (3, 7), (5, 3)])
def test_shares_cover_all_rows_once_and_differ_by_one_at_most(count: int, rows: int) -> None:
    shares = [Processes(rank, count).share(range(10, 10 + rows)) for rank in range(count)]
    assert [row for share in shares for row in share] == list(range(10, 10 + rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_alone_meets_itself() -> None:
    assert (ALONE.first, ALONE.same("x"), ALONE.any(True), ALONE.least(2.0)) == (True, "x", True, 2.0)
