"""Particles chosen by a rule, such as ``pc1 > 0.5 and state in 1, 3``, or by a polygon drawn over two coordinates.

A rule is written in a small part of Python's syntax and evaluated here, node by node: numbers, names of columns,
comparisons, `and`, `or`, `not`, sums and products. Nothing of it is executed as code.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from frazil.errors import InputError

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_EXAMPLE = "write for example  pc1 > 0.5 and state in 1, 3"
# longer than any rule a person types; keeps the depth of the tree within bounds
_LONGEST = 2000
# `in 1, 3` would be read as a pair by Python's grammar: the list gets its brackets
_BARE_LIST = re.compile(r"\bin\s+(-?\d[\d.]*(?:\s*,\s*-?\d[\d.]*)*)")


def select(rule: str, columns: Mapping[str, np.ndarray]) -> Bool[np.ndarray, " particles"]:
    """Which particles a rule keeps.

    A comparison with a value that is not a number (NaN) is false, so such particles are kept by no comparison.

    Args:
        columns: one value per particle, by the names that a rule may use.

    Raises:
        InputError: if the rule is no such expression, or names a column that is not there.
    """
    if len(rule) > _LONGEST:
        raise InputError(f"a rule of {len(rule)} characters is too long", where="--keep", remedy=_EXAMPLE)
    try:
        tree = ast.parse(_BARE_LIST.sub(r"in (\1,)", rule.strip()), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"{rule!r} is no rule", where="--keep", remedy=_EXAMPLE) from None
    with np.errstate(all="ignore"):
        kept = _value(tree.body, columns)
    if not isinstance(kept, np.ndarray) or kept.dtype != bool or kept.ndim != 1:
        raise InputError(f"{rule!r} compares nothing", where="--keep", remedy=_EXAMPLE)
    return kept


def _value(node: ast.expr, columns: Mapping[str, np.ndarray]) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return float(node.value)
    if isinstance(node, ast.Name):
        return _column(node.id, columns)
    if isinstance(node, ast.BoolOp):
        parts = [_truth(part, columns) for part in node.values]
        return (np.logical_and if isinstance(node.op, ast.And) else np.logical_or).reduce(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_truth(node.operand, columns)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _number(node.operand, columns)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _ARITHMETIC[type(node.op)](_number(node.left, columns), _number(node.right, columns))
    if isinstance(node, ast.Compare):
        return _comparison(node, columns)
    raise InputError(
        f"{ast.unparse(node)!r} has no place in a rule",
        where="--keep",
        remedy="a rule is made of columns, numbers, comparisons, in, and, or, not, + - * /",
    )


def _comparison(node: ast.Compare, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    result: Any = True
    left = _number(node.left, columns)
    for sign, right in zip(node.ops, node.comparators, strict=True):
        if isinstance(sign, ast.In | ast.NotIn):
            if not isinstance(right, ast.Tuple | ast.List | ast.Set):
                raise InputError("a list of numbers follows the word in", where="--keep", remedy=_EXAMPLE)
            listed = [_number(item, columns) for item in right.elts]
            found = np.isin(left, listed)
            result = result & (found if isinstance(sign, ast.In) else ~found & ~np.isnan(left))
        elif type(sign) in _COMPARE:
            value = _number(right, columns)
            # NaN != 1 is true in floating point, but says nothing of a particle
            result = result & _COMPARE[type(sign)](left, value) & ~np.isnan(left) & ~np.isnan(value)
            left = value
        else:
            raise InputError(f"{ast.unparse(node)!r} is no comparison of numbers", where="--keep", remedy=_EXAMPLE)
    return np.asarray(result)


def _truth(node: ast.expr, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    value = np.asarray(_value(node, columns))
    if value.dtype != bool:
        raise InputError(f"{ast.unparse(node)!r} is a number, not a comparison", where="--keep", remedy=_EXAMPLE)
    return value


def _number(node: ast.expr, columns: Mapping[str, np.ndarray]) -> Any:
    value = _value(node, columns)
    if isinstance(value, np.ndarray) and value.dtype == bool:
        raise InputError(f"{ast.unparse(node)!r} is a comparison, not a number", where="--keep", remedy=_EXAMPLE)
    return value


def _column(name: str, columns: Mapping[str, np.ndarray], where: str | Path = "--keep") -> np.ndarray:
    if name not in columns:
        near = get_close_matches(name, list(columns), 1)
        shown = ", ".join(sorted(columns)[:40])
        raise InputError(
            f"there is no column {name!r}",
            where=where,
            remedy=f"did you mean {near[0]}?" if near else f"there are {shown}",
        )
    return columns[name].astype(np.float64)


def lasso(path: Path, columns: Mapping[str, np.ndarray]) -> Bool[np.ndarray, " particles"]:
    """Which particles lie inside the polygon of a file ``{"x": "pc1", "y": "pc2", "polygon": [[0, 0], [1, 0], [1, 1]]}``.

    Raises:
        InputError: if the file is no such object, or names a column that is not there.
    """
    from matplotlib.path import Path as Polygon

    remedy = 'it is {"x": "pc1", "y": "pc2", "polygon": [[x, y], ...]}'
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        names, corners = (str(said["x"]), str(said["y"])), np.asarray(said["polygon"], dtype=np.float64)
    except FileNotFoundError:
        raise InputError("there is no such file", where=path, remedy=remedy) from None
    except (ValueError, KeyError, TypeError):
        raise InputError("this is no lasso", where=path, remedy=remedy) from None
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise InputError(
            f"a polygon of shape {corners.shape}: at least three corners of two numbers are needed",
            where=path,
            remedy=remedy,
        )
    points = np.stack([_column(name, columns, path) for name in names], axis=1)
    known = np.isfinite(points).all(axis=1)
    inside = np.zeros(len(points), dtype=bool)
    inside[known] = Polygon(corners).contains_points(points[known])
    return inside
