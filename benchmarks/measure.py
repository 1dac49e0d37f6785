"""What a command costs: CPU time and peak memory of its whole process tree, and the part that is not start-up.

A benchmark times a command on stacks of several sizes, in turns with the programs it is compared with, and fits a straight
line to cost against the number of images. Its slope is the cost of one image; its height at no image is start-up: imports,
just-in-time compilation, the final Fourier transforms and everything else that does not grow with the stack. Large stacks
are made by listing the same images several times, so that start-up and its scatter are small beside what is measured. CPU
seconds (user + system, as the kernel accounts them to a finished child) do not count the time that other processes take,
but a processor whose caches are shared is slower: compare programs within a run.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FRAZIL = ROOT / ".venv" / "bin" / "frazil"
CRYODRGN = ROOT / ".peers" / "cryodrgn" / "bin" / "cryodrgn"
RELION = ROOT / ".peers" / "relion" / "bin"
REAL_DATA = Path(os.environ.get("FRAZIL_DATA", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True)
class Cost:
    """CPU seconds (user + system) and wall seconds of a command with its children; peak_memory in GiB.

    peak_memory is the high-water mark of resident memory (VmHWM) of the command's own process."""

    cpu: float
    wall: float
    peak_memory: float

    def minus(self, other: Cost) -> Cost:
        """What remains after `other`, the cost of starting up, is taken off (memory is not additive and stays)."""
        return Cost(self.cpu - other.cpu, self.wall - other.wall, self.peak_memory)


def run(command: Sequence[str | Path], folder: Path, log: Path) -> Cost:
    """Run one command in `folder`, its output to `log`; raises RuntimeError with the end of the log if it fails."""
    arguments = [str(word) for word in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            arguments, cwd=folder, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        memory = 0.0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            # Not ru_maxrss: a child inherits its parent's high-water mark through exec.
            memory = max(memory, _high_water_mark(process.pid))
            time.sleep(0.02)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(arguments)}\n{tail}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, memory)


def _high_water_mark(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    except OSError:
        pass  # the process has just ended
    return 0.0


def median_cost(action: Callable[[int], Cost], repeats: int) -> Cost:
    """The median of each figure over `repeats` calls of action(repeat)."""
    costs = [action(repeat) for repeat in range(repeats)]
    return Cost(
        statistics.median(cost.cpu for cost in costs),
        statistics.median(cost.wall for cost in costs),
        max(cost.peak_memory for cost in costs),
    )


@dataclass(frozen=True)
class Line:
    """CPU seconds against images: ``start_up + images * per_image``; the error is the standard error of per_image."""

    start_up: float
    per_image: float
    error: float

    @property
    def rate(self) -> float:
        """Images per CPU second."""
        return 1 / self.per_image

    @property
    def rate_text(self) -> str:
        """The rate with its standard error, or a lower bound where the slope is within two errors of zero."""
        if self.per_image < 2 * self.error:
            return f"> {1 / (self.per_image + 2 * self.error):,.0f}"
        return f"{self.rate:,.0f} ± {self.rate * self.error / self.per_image:,.0f}"


def fit_line(images: Sequence[int], costs: Sequence[Cost]) -> Line:
    """Least squares through the CPU seconds of runs on stacks of at least two sizes."""
    count = len(images)
    mean_images, mean_cpu = statistics.fmean(images), statistics.fmean(cost.cpu for cost in costs)
    spread = sum((n - mean_images) ** 2 for n in images)
    slope = sum((n - mean_images) * cost.cpu for n, cost in zip(images, costs, strict=True)) / spread
    start_up = mean_cpu - slope * mean_images
    left = sum((cost.cpu - start_up - slope * n) ** 2 for n, cost in zip(images, costs, strict=True))
    return Line(start_up, slope, (left / max(count - 2, 1) / spread) ** 0.5)


def median(costs: Sequence[Cost]) -> Cost:
    """The median of each figure of several runs, and the largest peak memory."""
    return median_cost(lambda repeat: costs[repeat], len(costs))


def require_peers() -> None:
    """Stop with one clear line when the programs to compare with are not installed."""
    missing = [str(path) for path in (CRYODRGN, RELION / "relion_reconstruct") if not path.exists()]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}; run `make peers` first")


def first_rows(star: Path, count: int, target: Path) -> Path:
    """Write a copy of a STAR file that keeps the first `count` particles; image paths stay as they are."""
    header, rows = _parts(star)
    target.write_text("\n".join(header + rows[:count]) + "\n\n")
    return target


def repeated_rows(star: Path, times: int, target: Path) -> Path:
    """Write a copy of a STAR file that lists all its particles several times over: a stack as large as one likes."""
    header, rows = _parts(star)
    target.write_text("\n".join(header + rows * times) + "\n\n")
    return target


def _parts(star: Path) -> tuple[list[str], list[str]]:
    """The lines of a STAR file up to the first particle, and those of the particles."""
    lines = star.read_text().splitlines()
    start = lines.index("data_particles")
    end = max(i for i, line in enumerate(lines) if i > start and line.startswith("_")) + 1
    return lines[:end], [line for line in lines[end:] if line.strip()]


def fresh(folder: Path) -> Path:
    """An empty folder of that name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def machine() -> dict[str, str | int | float]:
    """Where a figure was measured: processor, cores, operating system, load, versions."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count() or 1,
        "system": platform.platform(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "cryodrgn": "4.3.1",
        "relion": "3.1.3",
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table aligned for reading in a terminal as well."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def report(name: str, title: str, text: str, record: dict[str, object]) -> None:
    """Print a result and keep it: benchmarks/results/NAME.md and NAME.json."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    where = machine()
    footer = f"{where['processor']}, {where['cores']} cores; cryodrgn {where['cryodrgn']}, RELION {where['relion']}."
    print(f"\n{text}\n\n{footer}")
    (RESULTS / f"{name}.md").write_text(f"# {title}\n\n{text}\n\n{footer}\n")
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": where, **record}, indent=2, default=_plain) + "\n")


def _plain(value: object) -> object:
    if isinstance(value, Cost | Line):
        return asdict(value)
    raise TypeError(type(value).__name__)
