"""Progress is a bar on a terminal and plain lines anywhere else."""

from __future__ import annotations

import io
import threading

import pytest

from frazil.engine import progress
from frazil.engine.machine import available_memory, check_memory
from frazil.engine.progress import Terminal, duration_text, rate_text


def test_a_pipe_gets_one_line_at_the_end_and_one_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    with Terminal(stream).progress(100, "drawing", "images") as shown:
        for _ in range(4):
            shown.advance(25)
    assert stream.getvalue().splitlines() == [
        "drawing: 50 of 100 images (1.25/s), 40 s left",
        "drawing: 100 images (1/s) in 1 min 40 s",
    ]


def test_a_terminal_gets_a_bar_and_lines_above_it() -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Screen()
    terminal = Terminal(stream)
    with terminal.progress(2000, "training", "images") as shown:
        shown.advance(1000)
        terminal.line("epoch 1 [of] 2")
        shown.advance(1000)
    terminal.line("done")
    text = stream.getvalue()
    assert "training" in text and "2,000/2,000 images" in text and "epoch 1 [of] 2" in text and text.endswith("done\n")


def test_any_thread_may_advance() -> None:
    with Terminal(io.StringIO()).progress(4000, "x", "images") as shown:
        threads = [threading.Thread(target=lambda: [shown.advance() for _ in range(1000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert shown.done == 4000


def test_durations_and_rates_are_said_as_people_say_them() -> None:
    assert [duration_text(t) for t in (0.04, 8.2, 42, 185, 7800)] == [
        "0.0 s",
        "8.2 s",
        "42 s",
        "3 min 5 s",
        "2 h 10 min",
    ]
    assert [rate_text(r) for r in (0.1234, 12.34, 34900)] == ["0.123", "12.3", "34,900"]


def test_memory_that_is_not_limited_is_only_stated() -> None:
    assert check_memory(1.5e9, "x", None, None) == "needs about 1.5 GB of memory at the peak (x)"
    free = available_memory()
    assert free is None or free > 1e7
