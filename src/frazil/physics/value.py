"""Batched values: frozen dataclasses of tensors that are indexed, moved and cast as one."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Self

import torch
from torch import Tensor


class TensorValue:
    """A frozen dataclass whose fields are tensors with the same leading batch dimensions.

    Subclasses are final dataclasses. ``value[rows]`` indexes every field; ``value.to(...)`` moves or casts every field.
    """

    def _map(self, function: Any) -> Self:
        changes = {f.name: function(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        return replace(self, **changes)  # type: ignore[type-var]

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        """The same value on another device or in another precision."""
        return self._map(lambda tensor: tensor.to(target))

    def __getitem__(self, rows: Any) -> Self:
        return self._map(lambda tensor: tensor[rows])

    def __len__(self) -> int:
        first: Tensor = getattr(self, fields(self)[0].name)  # type: ignore[arg-type]
        return first.shape[0]

    def detach(self) -> Self:
        """The same value cut from the graph."""
        return self._map(lambda tensor: tensor.detach())

    def replaced(self, rows: Tensor, other: Self) -> Self:
        """The same value with those of another batch in some rows."""
        changes = {}
        for field in fields(self):  # type: ignore[arg-type]
            changes[field.name] = getattr(self, field.name).clone()
            changes[field.name][rows] = getattr(other, field.name)
        return replace(self, **changes)  # type: ignore[type-var]
