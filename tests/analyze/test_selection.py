"""Rules and polygons keep the particles they describe, and run nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from frazil.analyze.selection import lasso, select
from frazil.errors import InputError

COLUMNS = {
    "pc1": np.array([0.0, 1.0, 2.0, np.nan]),
    "pc2": np.array([5.0, -5.0, 5.0, 0.0]),
    "state": np.array([0, 1, 3, -1]),
    "rlnDefocusU": np.array([1e4, 2e4, 3e4, 4e4]),
}


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("pc1 > 0.5", [0, 1, 1, 0]),
        ("pc1 > 0.5 and state in 1,3", [0, 1, 1, 0]),
        ("state in 1, 3 and pc2 > 0", [0, 0, 1, 0]),
        ("state in (0, 3) or pc2 == -5", [1, 1, 1, 0]),
        ("state not in 1, 3", [1, 0, 0, 1]),
        ("state in -1", [0, 0, 0, 1]),
        ("not pc1 > 0.5", [1, 0, 0, 1]),
        ("0 < pc1 < 2", [0, 1, 0, 0]),
        ("pc1 != 1", [1, 0, 1, 0]),
        ("pc1 * pc1 + pc2 * pc2 <= 25", [1, 0, 0, 0]),
        ("rlnDefocusU / 1e4 >= 2 and -pc2 < 0", [0, 0, 1, 0]),
        ("pc1 < 1 / 0 or pc1 >= 0", [1, 1, 1, 0]),
    ],
)
def test_a_rule_keeps_what_it_says(rule: str, kept: list[int]) -> None:
    if "/ 0" in rule:
        rule = rule.replace("1 / 0", "pc1 / 0")
    assert select(rule, COLUMNS).tolist() == [bool(k) for k in kept]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("pc9 > 0", "--keep: there is no column 'pc9'. Did you mean pc2?"),
        ("zebra > 0", "--keep: there is no column 'zebra'. There are pc1, pc2, rlnDefocusU, state."),
        ("pc1 >", "--keep: 'pc1 >' is no rule. Write for example"),
        ("pc1", "--keep: 'pc1' compares nothing"),
        ("1 < 2", "--keep: '1 < 2' compares nothing"),
        ("pc1 and pc2 > 0", "'pc1' is a number, not a comparison"),
        ("(pc1 > 0) + 1 > 0", "'pc1 > 0' is a comparison, not a number"),
        ("state in pc1", "a list of numbers follows the word in"),
        ("pc1 is 3", "'pc1 is 3' is no comparison of numbers"),
        ("__import__('os').system('touch harm') > 0", "has no place in a rule"),
        ("pc1.__class__ > 0", "'pc1.__class__' has no place in a rule"),
        ("pc1 ** 9999 > 0", "has no place in a rule"),
        ("pc1 > 'a'", "\"'a'\" has no place in a rule"),
        ("pc1 > True", "'True' has no place in a rule"),
        ("(" * 900 + "pc1 > 0" + ")" * 900, "is no rule"),
        ("pc1 > 0 or " * 300 + "pc1 > 0", "a rule of 3307 characters is too long"),
    ],
)
def test_what_is_no_rule_is_refused_in_one_line(rule: str, message: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        select(rule, COLUMNS)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def write_lasso(path: Path, **values: object) -> Path:
    path.write_text(json.dumps({"x": "pc1", "y": "pc2", "polygon": [[-1, 0], [3, 0], [3, 9], [-1, 9]], **values}))
    return path


def test_a_lasso_keeps_what_is_inside(tmp_path: Path) -> None:
    assert lasso(write_lasso(tmp_path / "l.json"), COLUMNS).tolist() == [True, False, True, False]
    bent = [[-1, 4], [1, 4], [1, 6], [-1, 6]]
    assert lasso(write_lasso(tmp_path / "l.json", polygon=bent), COLUMNS).tolist() == [True, False, False, False]


def test_what_is_no_lasso_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.json"
    with pytest.raises(InputError, match="l.json: there is no such file. It is {"):
        lasso(path, COLUMNS)
    for text in ("[", "{}", '{"x": "pc1", "y": "pc2", "polygon": "round"}'):
        path.write_text(text)
        with pytest.raises(InputError, match="l.json: this is no lasso"):
            lasso(path, COLUMNS)
    with pytest.raises(InputError, match=r"a polygon of shape \(2, 2\): at least three corners"):
        lasso(write_lasso(path, polygon=[[0, 0], [1, 1]]), COLUMNS)
    with pytest.raises(InputError, match=r"l.json: there is no column 'pc7'. Did you mean pc2\?"):
        lasso(write_lasso(path, y="pc7"), COLUMNS)
