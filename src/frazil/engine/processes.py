"""The processes that work on one job together; a process alone is the smallest group.

A launcher such as `torchrun` starts the same command several times and tells each process its place. Every process takes a
share of the work, and what they find is summed or gathered between them: over gloo for tensors in memory, over NCCL for
tensors on GPUs. The first process speaks and writes for all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar, final

from frazil.engine.machine import choose_device, take_gpu
from frazil.errors import FrazilError, InputError

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")

TO_FIND_EACH_OTHER = timedelta(minutes=10)
# the first process may be at work alone for a while. One that ends is noticed at once: this is for lost machines
LONGEST_WAIT = timedelta(hours=2)
TO_TELL = timedelta(seconds=10)
TO_SPEAK = 3.0
INTERRUPTED = 130
NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


class PeerLost(FrazilError):
    """Another process of the group has ended before its work was done."""

    def __init__(self) -> None:
        super().__init__("Another process of this job has ended. The same command goes on where it stopped.")


class ToldElsewhere(FrazilError):
    """This process has to end, and another one says why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("Another process says why.")
        self.exit_code = exit_code


@final
@dataclass(frozen=True)
class Place:
    """Where a process stands: its number of ``count``, and its number of ``local_count`` on this machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @staticmethod
    def told_by(environment: Mapping[str, str]) -> Place:
        """The place that a launcher has written into the environment; alone when it has not.

        Raises:
            InputError: when it says that there are several processes but not which one this is.
        """
        if environment.get("WORLD_SIZE", "1") == "1":
            return Place()
        remedy = "start it with torchrun, or unset WORLD_SIZE"
        missing = [name for name in (*NUMBERS, *ADDRESS) if not environment.get(name)]
        if missing:
            raise InputError(f"WORLD_SIZE is set but {missing[0]} is not", where="environment", remedy=remedy)
        wrong = [name for name in NUMBERS if not environment[name].isdigit()]
        if wrong:
            raise InputError(f"{wrong[0]} = {environment[wrong[0]]} is no number", where="environment", remedy=remedy)
        rank, count, local_rank, local_count = (int(environment[name]) for name in NUMBERS)
        if not (rank < count and local_rank < local_count <= count):
            raise InputError(f"process {rank} of {count} cannot be", where="environment", remedy=remedy)
        return Place(rank, count, local_rank, local_count)


@final
@dataclass(frozen=True)
class Processes:
    """A group of processes. Every method but `share` is a meeting: all must call it, in the same order.

    Attributes:
        rank: the number of this process. count: of all. local_count: of those on this machine.

    Raises:
        PeerLost: from each meeting that another process does not come to.
    """

    rank: int = 0
    count: int = 1
    local_count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.rank == 0

    def share(self, rows: range) -> range:
        """This process's share of some rows. Shares are contiguous, in order, and differ by one row at most."""
        start, stop = (len(rows) * rank // self.count for rank in (self.rank, self.rank + 1))
        return rows[start:stop]

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Puts the sum over all processes in the place of each tensor; all get the same bits."""
        if self.count == 1:
            return
        import torch.distributed as distributed

        with _meeting():
            for tensor in tensors:
                distributed.all_reduce(tensor)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, one after the other."""
        if self.count == 1:
            return rows
        import torch
        import torch.distributed as distributed

        with _meeting():
            counts = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
            distributed.all_gather(counts, torch.tensor([len(rows)]))
            padded = rows.new_zeros((int(max(counts)), *rows.shape[1:]))
            padded[: len(rows)] = rows
            parts = [torch.empty_like(padded) for _ in counts]
            distributed.all_gather(parts, padded)
        return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What the first process makes, in all of them. The others wait for it."""
        if self.count == 1:
            return make()
        import torch
        import torch.distributed as distributed

        made: list[Any] = [make() if self.first else None]
        with _meeting():
            distributed.broadcast_object_list(made, device=torch.device("cpu"))
        return made[0]

    def same(self, value: Value) -> Value:
        """The first process's value, in all of them: where other machines may round otherwise, none goes its own way."""
        return self.from_first(lambda: value)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self.least(not flag) == 0

    def least(self, number: float) -> float:
        """The least of the numbers that the processes give."""
        if self.count == 1:
            return number
        import torch
        import torch.distributed as distributed

        least = torch.tensor(number, dtype=torch.float64)
        with _meeting():
            distributed.all_reduce(least, distributed.ReduceOp.MIN)
        return float(least)


ALONE = Processes()


@contextmanager
def _meeting() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # a closed connection, or too long a wait
        raise PeerLost from error


@contextmanager
def alike(place: Place) -> Iterator[None]:
    """Within the block every process does the same: the first one tells what goes wrong."""
    try:
        yield
    except FrazilError as error:
        if place.rank > 0:
            time.sleep(TO_SPEAK)  # a launcher stops all processes as soon as one has ended
            raise ToldElsewhere(error.exit_code) from error
        raise


@contextmanager
def joined(place: Place, device: Literal["auto", "cpu", "cuda"]) -> Iterator[Processes]:
    """Within the block this process is one of the group; an error in one of them ends them all with one message.

    Args:
        device: where tensors will be. Every process takes a GPU of its own.

    Raises:
        InputError: when there are fewer GPUs than processes on this machine, or none where one is wanted.
        FrazilError: when the processes do not find each other.
        ToldElsewhere: in place of an error that another process tells.
    """
    if place.count == 1:
        yield ALONE
        return
    # read when torch is loaded: a lost connection is told in one line, here, and not by every library on the way
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with alike(place):
        on_gpus = choose_device(device) == "cuda"
        if on_gpus:
            take_gpu(place.local_rank, place.local_count)
    store = _meet(place, "cpu:gloo,cuda:nccl" if on_gpus else "gloo")
    import torch.distributed as distributed

    processes = Processes(place.rank, place.count, place.local_count)
    try:
        yield processes
        processes.any(False)  # an error in the last moments of another process is an error here too
    except (Exception, KeyboardInterrupt) as error:
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
        told = _told_already(store, code)
        if told is not None:
            raise ToldElsewhere(told) from error
        raise
    distributed.destroy_process_group()


def _meet(place: Place, backend: str) -> Any:
    """Makes the group. Returns the store that all processes can write to."""
    import torch.distributed as distributed
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", place.rank, place.count, timeout=TO_FIND_EACH_OTHER))
        distributed.init_process_group(
            backend, store=store, rank=place.rank, world_size=place.count, timeout=LONGEST_WAIT
        )
    except (RuntimeError, ValueError) as error:
        raise FrazilError(f"The {place.count} processes do not find each other: {error}") from error
    return store


def _told_already(store: Any, code: int) -> int | None:
    """The exit code of the error that another process has told; None if this one is the first to fail."""
    try:
        if store.add("frazil/failed", 1) == 1:
            store.set("frazil/exit_code", str(code))
            return None
        store.wait(["frazil/exit_code"], TO_TELL)
        return int(store.get("frazil/exit_code"))
    except RuntimeError:  # the process that keeps the store has ended, and nobody can be asked
        return None
