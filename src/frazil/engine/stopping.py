"""Stopping between steps rather than within them, when Ctrl-C or a cluster's time limit asks for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Whether somebody has asked to stop."""

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def stop_between_steps() -> Iterator[StopRequest]:
    """Within the block the first SIGINT or SIGTERM only sets `asked`; the second one interrupts at once.

    Outside the main thread signals cannot be caught and nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: object) -> None:
        if request.asked:
            raise KeyboardInterrupt
        request.asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
