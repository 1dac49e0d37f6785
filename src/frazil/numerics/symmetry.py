"""Point groups C, D, T, O and I as sets of rotation matrices, on the axes of RELION and XMIPP.

C: n-fold on z. D: n-fold on z, 2-fold on x. T: 3-fold on z. O: 4-folds on x, y, z.
I1, I2, I3, I4: the four settings of the icosahedral group (I means I1): 2-folds on x, y, z, then turned.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.numerics.rotations import from_rotation_vector

GOLDEN_RATIO = (1 + 5**0.5) / 2


def _turn(axis: tuple[float, float, float], fold: int) -> Tensor:
    direction = torch.tensor(axis, dtype=torch.float64)
    return from_rotation_vector(direction / direction.norm() * (2 * math.pi / fold))


def _close(generators: list[Tensor]) -> Tensor:
    """All products of the generators. Every group here is finite, so this ends."""
    elements = torch.eye(3, dtype=torch.float64)[None]
    while True:
        grown = torch.cat([elements] + [generator @ elements for generator in generators])
        distinct = [grown[0]]
        for candidate in grown[1:]:
            if all((candidate - known).abs().max() > 1e-6 for known in distinct):
                distinct.append(candidate)
        if len(distinct) == len(elements):
            return elements
        elements = torch.stack(distinct)


def _icosahedral(setting: str) -> list[Tensor]:
    two_fold = _turn((0, 0, 1), 2)
    # 2-folds on the axes leave two choices for the 5-folds, a quarter turn about z apart: I2 and I1
    first = [two_fold, _turn((1, 0, GOLDEN_RATIO), 5), _turn((GOLDEN_RATIO, 1, 0), 5)]
    quarter = _turn((0, 0, 1), 4)
    if setting == "2":
        return first
    if setting == "1":
        return [quarter @ g @ quarter.T for g in first]
    # I3 and I4: a 5-fold on z, reached from I2 by turning about y
    angle = math.atan2(1, GOLDEN_RATIO) * (-1 if setting == "3" else 1)
    turned = from_rotation_vector(torch.tensor([0.0, angle, 0.0], dtype=torch.float64))
    base = first if setting == "3" else [quarter @ quarter @ g @ quarter.T @ quarter.T for g in first]
    return [turned @ g @ turned.T for g in base]


@lru_cache(maxsize=32)
def point_group(name: str) -> Float[Tensor, "operations 3 3"]:
    """The rotations of a point group, the identity first, float64.

    Raises:
        ValueError: if the name is not one of C1, C2, ..., D1, D2, ..., T, O, I, I1, I2, I3, I4.
    """
    match = re.fullmatch(r"(?:([CD])(\d+)|([TO])|I([1-4])?)", name.strip().upper())
    if match is None or match[2] == "0":
        raise ValueError(f"{name!r} is not a point group: C1, C2, ..., D2, ..., T, O and I1 to I4 are")
    if match[1]:
        fold = int(match[2])
        turns = [_turn((0, 0, 1), fold)] if fold > 1 else []
        return _close(
            [*turns, _turn((1, 0, 0), 2)] if match[1] == "D" else turns or [torch.eye(3, dtype=torch.float64)]
        )
    if match[3] == "T":
        # 3-fold on z; a 2-fold where RELION has it, in the plane of x and z
        return _close([_turn((0, 0, 1), 3), _turn((0, 2**0.5, 1), 2)])
    if match[3] == "O":
        return _close([_turn((0, 0, 1), 4), _turn((1, 1, 1), 3)]).round()
    return _close(_icosahedral(match[4] or "1"))
