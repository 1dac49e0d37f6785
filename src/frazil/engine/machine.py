"""What this machine offers: threads, a device, memory. Only the engine asks; the rest of the program is told."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

from frazil.errors import InputError

GIGABYTE = 1e9


def use_threads(count: int | None) -> None:
    """Limits torch, numba and BLAS to this many CPU threads. `None` leaves their own choice: all cores.

    Threads that have nothing to do sleep (unless the user has set OMP_WAIT_POLICY otherwise). OpenMP's own way is to spin
    for a while: over the many small operations of a short job that is more processor time than the work itself, and it is
    taken from whoever shares the machine.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded
    if count is None:
        return
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)  # read when the libraries are loaded
    if "numba" in sys.modules:
        import numba

        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    else:
        os.environ["NUMBA_NUM_THREADS"] = str(count)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(count)


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    """`"cpu"` or `"cuda"`.

    Raises:
        InputError: when a GPU is asked for and torch sees none.
    """
    if wanted == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise InputError(
            "torch sees no GPU here", where="--device cuda", remedy="use --device cpu, or a CUDA build of torch"
        )
    return "cpu"


def take_gpu(number: int, processes: int) -> None:
    """Makes the GPU of that number the one that ``cuda`` means in this process.

    Raises:
        InputError: when this machine has fewer GPUs than processes.
    """
    import torch

    count = torch.cuda.device_count()
    if processes > count:
        raise InputError(
            f"{processes} processes on a machine with {count} GPU{'' if count == 1 else 's'}",
            where="--nproc-per-node",
            remedy=f"start at most {count}, or use --device cpu",
        )
    torch.cuda.set_device(number)


def threads_for_each(processes: int) -> int:
    """The share of this machine's cores that each of its processes gets."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the machine or of a GPU, is used up."""
    import torch

    # torch has no error of its own for the machine's memory, nor for that of the libraries it calls
    words = ("can't allocate memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)


def free_memory() -> None:
    """Gives memory back that torch keeps on a GPU for later."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def available_memory() -> int | None:
    """Bytes of memory that can still be used: what the system has free, or the control group's limit when lower."""
    free: int | None = None
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        free = int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None
    elif "SC_PHYS_PAGES" in os.sysconf_names:  # macOS tells the total only: count on half of it
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    limit = _control_group_room(Path("/sys/fs/cgroup"))
    return min((v for v in (free, limit) if v is not None), default=None)


def _control_group_room(folder: Path) -> int | None:
    """Bytes left in a container or batch job: limit - use + page cache that can be dropped. `None` without a limit."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((folder / "memory.current").read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(limit) - used + int(statistics.get("inactive_file", 0))
    except (OSError, ValueError):
        return None


def check_memory(size: float, purpose: str, limit: float | None, available: float | None, processes: int = 1) -> str:
    """The line that states the memory at the peak.

    Args:
        size: bytes at the peak.
        purpose: what takes most of them.
        limit: what the user allows, in GB.
        available: what the machine has, in bytes; where several processes share it, for each of them.
        processes: how many do.

    Raises:
        InputError: when the work does not fit.
    """
    needed = f"about {_gigabytes(size)} GB of memory at the peak ({purpose})"
    allowed = limit * GIGABYTE if limit is not None else available
    if allowed is None:
        return f"needs {needed}"
    room = f"{_gigabytes(allowed)} GB" + (f" for each of {processes} processes" if processes > 1 else "")
    if size > allowed:
        whose = "--memory allows" if limit is not None else "this machine has"
        remedy = "use a smaller box, fewer particles or smaller batches, or allow more with --memory GB"
        raise InputError(f"this needs {needed}, {whose} {room}", remedy=remedy)
    return f"needs {needed}; {room} to be had"


def _gigabytes(size: float) -> str:
    return f"{size / GIGABYTE:.2g}" if size < 10 * GIGABYTE else f"{size / GIGABYTE:.0f}"
