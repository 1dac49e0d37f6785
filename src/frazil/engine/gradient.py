"""The gradient of a batch, whoever computes it: in shares of several processes, each in parts that fit into memory.

Every process takes a contiguous share of the rows of a batch and weighs it by its size; the sum over parts and processes is
the gradient of the mean over the batch. So the batch is what was asked for, and the curve the same to rounding, on one
process or many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from frazil.engine.machine import free_memory, is_out_of_memory
from frazil.errors import FrazilError

if TYPE_CHECKING:
    from frazil.engine.job import Job
    from frazil.engine.train import Task


@final
class BatchGradient:
    """Adds the gradients of batches to the parameters of a task.

    Args:
        parameters: all that is trained. accumulate: batches whose mean is wanted.
    """

    def __init__(self, task: Task, parameters: Sequence[Tensor], accumulate: int, job: Job) -> None:
        self.task, self.parameters, self.accumulate = task, parameters, accumulate
        self.job, self.processes = job, job.processes
        self.parts = 1  # in which each process takes its share of a batch

    def add(self, rows: Tensor, epoch: float, generator: torch.Generator) -> dict[str, float] | None:
        """Adds the gradient of a batch; if its loss is not finite, the parameters keep the gradient they had.

        Returns:
            The means of all values over the batch; None when the loss is not finite.

        Raises:
            FrazilError: when not even a single row fits into memory.
        """
        earlier = [parameter.grad for parameter in self.parameters]
        self._forget()
        before = self.parts
        own = self._own_values(rows, epoch, self.task.prepare(rows, generator))
        found = self.processes.gather(torch.tensor([[*own.values(), self.parts]], dtype=torch.float64))
        self.parts = int(found[:, -1].max())
        if self.parts > before:
            at_once = math.ceil(len(rows) / (self.processes.count * self.parts))
            self.job.log(f"out of memory: from here on {at_once} at once, in {self.parts} parts of a batch")
        values = dict(zip(own, found[:, :-1].sum(0).tolist(), strict=True))
        finite = math.isfinite(values["loss"])
        if not finite:
            self._forget()
        for parameter, gradient in zip(self.parameters, earlier, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else gradient + parameter.grad
        return values if finite else None

    def blame(self, rows: Tensor) -> Tensor:
        """Those of `rows` whose own loss is not finite; every process looks at its share."""
        own = self.processes.share(range(len(rows)))
        return self.processes.gather(self.task.blame(rows[own.start : own.stop]))

    def sum_over_processes(self) -> None:
        """Gives every process the gradient of whole batches. To be called once before a step."""
        if self.processes.count == 1:
            return
        dense = [p.grad for p in self.parameters if p.grad is not None and not p.grad.is_sparse]
        if dense:
            # in one message: many small ones take longer
            together = torch.cat([gradient.flatten() for gradient in dense])
            self.processes.sum([together])
            for gradient, total in zip(dense, together.split([g.numel() for g in dense]), strict=True):
                gradient.copy_(total.view_as(gradient))
        for parameter in self.parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                own = parameter.grad.coalesce()
                places, values = self.processes.gather(own.indices().T), self.processes.gather(own.values())
                parameter.grad = torch.sparse_coo_tensor(places.T, values, own.shape, check_invariants=False).coalesce()

    def _own_values(self, rows: Tensor, epoch: float, prepared: Any) -> dict[str, float]:
        """This process's summands of the means, in as many parts as memory asks for."""
        own = self.processes.share(range(len(rows)))
        while True:
            try:
                return self._in_parts(rows, own, epoch, prepared)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.parts >= len(own):
                    raise FrazilError("Not even one row at a time fits into memory. Use a smaller network.") from error
            # only here has what the failed attempt held been let go
            self._forget()
            self.parts *= 2
            free_memory()

    def _in_parts(self, rows: Tensor, own: range, epoch: float, prepared: Any) -> dict[str, float]:
        # a process without a row of its own takes the first one for nothing: it must know what values there are
        share, worth = (own, 1.0) if own else (range(1), 0.0)
        size = math.ceil(len(share) / self.parts)
        sums: dict[str, float] = {}
        for first in range(share.start, share.stop, size):
            part = slice(first, min(first + size, share.stop))
            values = self.task.step(rows[part], epoch, prepared[part])
            weight = worth * (part.stop - part.start) / len(rows)
            if bool(torch.isfinite(values["loss"])):
                (values["loss"] * (weight / self.accumulate)).backward()
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) * weight
        return sums

    def _forget(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
