"""The order in which training sees the rows of a stack: random, repeatable, and known from a few integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

WINDOW = 16  # blocks that are mixed with one another


@dataclass
class Sampler:
    """Batches of rows, epoch after epoch; every epoch has each row once, in an order of its own.

    The order of an epoch depends on `seed` and the number of the epoch only, so the whole state is where we are:
    (`epoch`, `position`) and the rows left out.

    With `block` > 1, blocks of consecutive rows are put in random order and rows are mixed within windows of 16 blocks:
    nearly as random, and a stack on disk is read in runs rather than row by row.
    """

    count: int
    batch_size: int
    seed: int = 0
    block: int = 1
    epoch: int = 0
    position: int = 0
    left_out: set[int] = field(default_factory=set)

    def order(self, epoch: int) -> Tensor:
        """All rows in the order of an epoch, shape (count,)."""
        generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        if self.block == 1:
            return torch.from_numpy(generator.permutation(self.count))
        starts = generator.permutation(np.arange(0, self.count, self.block))
        windows = []
        for first in range(0, len(starts), WINDOW):
            chosen = starts[first : first + WINDOW]
            rows = np.concatenate([np.arange(s, min(s + self.block, self.count)) for s in chosen])
            windows.append(generator.permutation(rows))
        return torch.from_numpy(np.concatenate(windows))

    def rest_of_epoch(self) -> Iterator[Tensor]:
        """The batches from here to the end of the epoch. `position` moves on before a batch is given out."""
        order = self.order(self.epoch)
        while self.position < self.count:
            rows = order[self.position : self.position + self.batch_size]
            self.position += len(rows)
            if self.left_out:
                rows = rows[[int(row) not in self.left_out for row in rows]]
            yield rows
        self.epoch, self.position = self.epoch + 1, 0

    def generator(self) -> torch.Generator:
        """Random numbers for the batch that was given out last. They depend on the seed and on where we are, no more."""
        number = np.random.SeedSequence((self.seed, self.epoch, self.position)).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(number[0]))

    def state(self) -> dict[str, Any]:
        """Where we are, for a checkpoint."""
        return {"epoch": self.epoch, "position": self.position, "left_out": sorted(self.left_out)}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to where `state` was."""
        self.epoch, self.position = state["epoch"], state["position"]
        self.left_out = set(state["left_out"])
