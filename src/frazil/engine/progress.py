"""What a job says while it runs: a bar with rate and time left on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

SECONDS_BETWEEN_LINES = 30.0


class Terminal:
    """Where a job's lines go. On a terminal a bar may stand below them; a file or a pipe gets lines only."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._live = None

    @property
    def stream(self) -> TextIO:
        """The stream given, or whatever standard output is now."""
        return self._stream or sys.stdout

    def line(self, text: str) -> None:
        """Writes one line, above the bar if there is one."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self.stream.write(text + "\n")
            self.stream.flush()

    @contextmanager
    def progress(self, total: int, description: str, unit: str) -> Iterator[Progress]:
        """A bar for `total` units of work."""
        if self.stream.isatty() and self._live is None:
            with self._bar(total, description, unit) as shown:
                yield shown
            return
        lines = _Lines(self.line, total, description, unit)
        shown = Progress(total, lines.update)
        yield shown
        lines.end(shown.done)

    @contextmanager
    def _bar(self, total: int, description: str, unit: str) -> Iterator[Progress]:
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(compact=True),
        )
        with progress.Progress(*columns, console=Console(file=self.stream)) as bar:
            task = bar.add_task(description, total=total, rate="")
            self._live = bar

            def update(done: int) -> None:
                speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
                bar.update(task, completed=done, rate=f"{rate_text(speed)} {unit}/s" if speed else "")

            try:
                yield Progress(total, update)
            finally:
                self._live = None


class Progress:
    """How far a piece of work is. Call `advance` as it goes."""

    def __init__(self, total: int, show: Callable[[int], None]) -> None:
        self.total = total
        self.done = 0
        self._show = show
        self._lock = threading.Lock()

    def watch(self, show: Callable[[int], None]) -> None:
        """Has one more function told how much is done."""
        first = self._show

        def both(done: int) -> None:
            first(done)
            show(done)

        self._show = both

    def advance(self, count: int = 1) -> None:
        """Says that `count` more units are done. Any thread may say it."""
        with self._lock:
            self.done += count
            self._show(self.done)


class _Lines:
    """Progress as plain lines: one now and then, and one at the end of work that took long enough to wait for."""

    def __init__(self, write: Callable[[str], None], total: int, description: str, unit: str) -> None:
        self.write, self.total, self.description, self.unit = write, total, description, unit
        self.start = self.last = time.monotonic()

    def update(self, done: int) -> None:
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LINES and 0 < done < self.total:
            self.last = now
            left = (now - self.start) * (self.total - done) / done
            self.write(
                f"{self.description}: {done:,} of {self.total:,} {self._rate(done, now)}, {duration_text(left)} left"
            )

    def end(self, done: int) -> None:
        now = time.monotonic()
        took = now - self.start
        self.write(f"{self.description}: {done:,} {self._rate(done, now)} in {duration_text(took)}")

    def _rate(self, done: int, now: float) -> str:
        return f"{self.unit} ({rate_text(done / max(now - self.start, 1e-9))}/s)"


def rate_text(rate: float) -> str:
    """A rate with about three digits."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def duration_text(seconds: float) -> str:
    """A duration as people say it: 8 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
