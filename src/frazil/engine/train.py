"""A training loop that can be killed at any moment and ends bit for bit as if it had not been.

What is trained is a `Task`; the loop knows nothing of images. It owns what every training shares: the order of rows,
accumulation of gradients, checkpoints, metrics, progress, and what to do when a number is not finite.

Several processes share out every batch (see `gradient`) and make the same step each. They are in the same state at all times,
and the first one writes it down.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from frazil.engine.checkpoint import (
    flatten_optimizer,
    load_checkpoint,
    part,
    random_state,
    restore_optimizer,
    restore_random_state,
    save_checkpoint,
    under,
)
from frazil.engine.gradient import BatchGradient
from frazil.engine.progress import rate_text
from frazil.engine.sampler import Sampler
from frazil.engine.stopping import stop_between_steps
from frazil.errors import FrazilError

if TYPE_CHECKING:
    from frazil.engine.job import Job

PATIENCE = 50  # batches in a row without a finite loss before training is given up


class Task(ABC):
    """Something that can be trained: modules, optimizers, and the loss of some rows."""

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """All that is learnt or kept from step to step, by name. It goes into checkpoints."""

    @abstractmethod
    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizers, by name. Each makes a step after every batch (or `accumulate` batches)."""

    def prepare(self, rows: Tensor, generator: torch.Generator) -> Any:
        """What belongs to a batch as a whole, so that it does not matter how its rows are shared out: random numbers, and
        means over all of it. A slice of it belongs to the same slice of `rows`; nothing by default.

        Args:
            rows: int64 (batch,), on the CPU.
            generator: where random numbers come from, on the CPU; the same in all processes.
        """
        return torch.empty(len(rows), 0)

    def before(self, rows: Tensor, epoch: float) -> None:
        """What is to be done before a stretch of rows is trained on: see ``stretch`` of `train`; nothing by default.

        Whatever of it outlives the stretch must be in `modules`. All processes are called, with the same rows.

        Args:
            rows: int64 (rows,), on the CPU, in the order they will be seen in. epoch: epochs done, with the fraction.
        """
        return None

    @abstractmethod
    def step(self, rows: Tensor, epoch: float, prepared: Any) -> dict[str, Tensor]:
        """The values of neighbours in a batch, each a scalar mean over them; ``loss`` is minimised, the others reported.

        Other random numbers than the prepared ones must come from torch's default generator on the CPU, whose state is in
        the checkpoint; with several processes there should be none.

        Args:
            rows: int64 (rows,), on the CPU.
            epoch: epochs done, with the fraction: 2.5 is the middle of the third.
            prepared: what `prepare` has given, for these rows.
        """

    def blame(self, rows: Tensor) -> Tensor:
        """Those of `rows` whose own loss is not finite. Tries them one by one, which is slow and rare."""
        with torch.no_grad():
            bad = [not bool(torch.isfinite(self._alone(row[None])["loss"])) for row in rows]
        return rows[torch.tensor(bad, dtype=torch.bool)]

    def _alone(self, row: Tensor) -> dict[str, Tensor]:
        return self.step(row, 0.0, self.prepare(row, torch.Generator()))

    def name_of(self, row: int) -> str:
        """How a message calls a row."""
        return f"row {row + 1}"

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """What else to report when an epoch (counted from 1) has ended; nothing by default."""
        return {}


def train(
    task: Task,
    *,
    count: int,
    batch_size: int,
    epochs: int,
    job: Job,
    accumulate: int = 1,
    seed: int = 0,
    block: int = 1,
    stretch: int | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 60.0,
    metric_every: int | None = None,
    name: str = "train",
) -> dict[str, float]:
    """Trains a task for `epochs` passes over `count` rows.

    Writes ``checkpoints/NAME.safetensors`` and, per epoch, a line of metrics: means over the rows. A job that was
    interrupted goes on from its checkpoint. On the same machine with the same number of threads the result is the same to
    the bit, wherever it was interrupted, as long as the operations of the task are repeatable themselves.

    A batch whose loss is not finite is tried again without the rows that `Task.blame` names; they are reported and
    left out from then on. Weights never see a gradient that is not finite. When memory is out, half as many rows go through
    at once from then on, and gradients are accumulated over twice as many parts of the batch.

    Args:
        batch_size: rows of a batch in all processes of the job together.
        accumulate: batches per optimizer step.
        block: consecutive rows that stay near each other in the shuffled order, for stacks read from disk.
        stretch: rows between calls of `Task.before`, a multiple of `batch_size`; it is never called when not given.
        checkpoint_every: optimizer steps between checkpoints (by time alone when not given).
        checkpoint_seconds: time between checkpoints when `checkpoint_every` is not given.
        metric_every: optimizer steps between lines of metrics within an epoch; none when not given.

    Returns:
        The means of the last epoch.

    Raises:
        FrazilError: when the loss stays without a finite value for 50 batches.
        KeyboardInterrupt: after a checkpoint, when Ctrl-C or SIGTERM asked to stop.
    """
    loop = _Loop(task, Sampler(count, batch_size, seed, block), accumulate, epochs, job, name, stretch)
    torch.manual_seed(seed)
    loop.start()
    due = _Clock(checkpoint_every, checkpoint_seconds)
    with stop_between_steps() as request, job.progress(epochs * count, "training") as progress:
        progress.advance(loop.sampler.epoch * count + loop.sampler.position)
        for rows in loop.steps():
            progress.advance(rows)
            if metric_every and loop.seen and loop.step_count % metric_every == 0:
                job.metric(epoch=round(loop.epochs_done, 6), step=loop.step_count, **loop.means())
            asked = job.processes.any(request.asked)
            if asked or due.now(loop.step_count):
                loop.save()
            if asked:
                raise KeyboardInterrupt
    loop.save()
    return loop.last_means


class _Clock:
    """When the next checkpoint is due."""

    def __init__(self, steps: int | None, seconds: float) -> None:
        self.steps, self.seconds, self.last = steps, seconds, time.monotonic()

    def now(self, step: int) -> bool:
        if self.steps is not None:
            return step % self.steps == 0
        if time.monotonic() - self.last < self.seconds:
            return False
        self.last = time.monotonic()
        return True


class _Loop:
    """The state of a training run and how it moves by one step."""

    def __init__(
        self, task: Task, sampler: Sampler, accumulate: int, epochs: int, job: Job, name: str, stretch: int | None
    ) -> None:
        self.task, self.sampler, self.accumulate, self.epochs, self.job = task, sampler, accumulate, epochs, job
        self.stretch = stretch
        self.path = job.checkpoints / f"{name}.safetensors"
        self.modules, self.optimizers = task.modules(), task.optimizers()
        self.parameters = [p for o in self.optimizers.values() for group in o.param_groups for p in group["params"]]
        self.gradient = BatchGradient(task, self.parameters, accumulate, job)
        self.step_count = 0
        self.failures = 0
        self.sums: dict[str, float] = {}
        self.seen = 0
        self.last_means: dict[str, float] = {}

    @property
    def epochs_done(self) -> float:
        return self.sampler.epoch + self.sampler.position / self.sampler.count

    def means(self) -> dict[str, float]:
        """Means over the rows of this epoch so far."""
        return {name: value / max(self.seen, 1) for name, value in self.sums.items()}

    def steps(self) -> Iterator[int]:
        """Makes optimizer steps to the end; yields the number of rows that each took, when all is consistent."""
        for module in self.modules.values():
            module.train()
        while self.sampler.epoch < self.epochs:
            started, first = time.monotonic(), self.sampler.position
            pending, taken = 0, 0
            begin = here = self.sampler.position
            for rows in self.sampler.rest_of_epoch():
                self._before(here)
                here = self.sampler.position
                self._batch(rows)
                pending, taken = pending + 1, self.sampler.position - begin
                if pending == self.accumulate and self.sampler.position < self.sampler.count:
                    self._optimize()
                    yield taken
                    pending, begin = 0, self.sampler.position
            if pending:
                self._optimize()
            self._end_epoch((self.sampler.count - first) / max(time.monotonic() - started, 1e-9))
            yield self.sampler.count - begin

    def _before(self, position: int) -> None:
        """Lets the task prepare for the stretch of rows that begins at a position, if one does."""
        if self.stretch and position % self.stretch == 0:
            rows = self.sampler.order(self.sampler.epoch)[position : position + self.stretch]
            self.task.before(rows, self.sampler.epoch + position / self.sampler.count)

    def _batch(self, rows: Tensor) -> None:
        """Adds the gradient of a batch, without the rows that spoil it."""
        if len(rows) == 0:
            return
        values = self.gradient.add(rows, self.epochs_done, self.sampler.generator())
        if values is None:
            bad = self.gradient.blame(rows)
            self._report(rows, bad)
            self.sampler.left_out |= set(bad.tolist())
            good = rows[~torch.isin(rows, bad)]
            if 0 < len(good) < len(rows):
                values = self.gradient.add(good, self.epochs_done, self.sampler.generator())
            rows = good
        if values is None:
            return
        self.failures = 0
        self.seen += len(rows)
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * len(rows)

    def _report(self, rows: Tensor, bad: Tensor) -> None:
        if len(bad):
            self.failures = 0
            for row in bad.tolist():
                self.job.log(
                    f"warning: {self.task.name_of(row)} gives a loss that is not finite; it is left out from here on"
                )
            return
        self.failures += 1
        first = self.task.name_of(int(rows[0]))
        self.job.log(
            f"warning: the loss of a batch of {len(rows)} (first: {first}) is not finite; the batch is skipped"
        )
        if self.failures >= PATIENCE:
            raise FrazilError(
                f"Training fell apart: {PATIENCE} batches in a row had no finite loss. Use a lower learning rate."
            )

    def _optimize(self) -> None:
        """One step of all optimizers, unless the gradient is not finite."""
        self.gradient.sum_over_processes()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        dense = [g.coalesce().values() if g.is_sparse else g for g in gradients]
        if gradients and bool(torch.isfinite(nn.utils.get_total_norm(dense))):
            for optimizer in self.optimizers.values():
                optimizer.step()
        elif gradients:
            self.job.log(f"warning: the gradient of step {self.step_count + 1} is not finite; the step is skipped")
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        self.step_count += 1

    def _end_epoch(self, rate: float) -> None:
        self.last_means = self.means()
        done = self.sampler.epoch
        more = self.task.end_epoch(done)
        self.job.metric(epoch=done, step=self.step_count, **self.last_means, **more)
        said = "  ".join(f"{name} {value:.5g}" for name, value in (self.last_means | more).items())
        self.job.log(f"epoch {done}/{self.epochs}  {said}  ({rate_text(rate)}/s)")
        self.sums, self.seen = {}, 0
        for module in self.modules.values():  # end_epoch may have looked at them in evaluation mode
            module.train()

    # ------------------------------------------------------------------------------------------------ checkpoints

    def start(self) -> None:
        """Goes back to the checkpoint of an interrupted job, if there is one."""
        found = self.job.processes.from_first(self._last_checkpoint)
        if found is None:
            return
        tensors, state = found
        for name, module in self.modules.items():
            module.load_state_dict(part(f"module/{name}", tensors))
        for name, optimizer in self.optimizers.items():
            restore_optimizer(optimizer, part(f"optimizer/{name}", tensors), state["optimizers"][name])
        restore_random_state(part("random", tensors), state["random"])
        self.sampler.restore(state["sampler"])
        self.step_count, self.failures = state["step_count"], state["failures"]
        self.gradient.parts = state["parts"]
        self.sums, self.seen, self.last_means = state["sums"], state["seen"], state["last_means"]
        self.job.metrics.restore(state["metrics"])
        self.job.log(f"going on after {self.epochs_done:.2f} of {self.epochs} epochs")

    def _last_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return load_checkpoint(self.path) if self.job.resumed and self.path.is_file() else None

    def save(self) -> None:
        """Writes the checkpoint: all processes are in the same state."""
        if not self.job.processes.first:
            return
        tensors: dict[str, Tensor] = {}
        optimizers = {}
        for name, module in self.modules.items():
            tensors |= under(f"module/{name}", module.state_dict())
        for name, optimizer in self.optimizers.items():
            flat, optimizers[name] = flatten_optimizer(optimizer)
            tensors |= under(f"optimizer/{name}", flat)
        generators, random = random_state()
        tensors |= under("random", generators)
        state = {
            "optimizers": optimizers,
            "random": random,
            "sampler": self.sampler.state(),
            "step_count": self.step_count,
            "failures": self.failures,
            "parts": self.gradient.parts,
            "sums": self.sums,
            "seen": self.seen,
            "last_means": self.last_means,
            "metrics": self.job.metrics.text(),
        }
        save_checkpoint(self.path, tensors, state)
