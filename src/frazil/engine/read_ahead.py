"""Reading the next while the present one is used, so that a disk and a processor work at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items in the same order, each made in a thread of its own while its predecessor is used.

    One item is held beside the one that is used, never more. What making an item raises is raised when it is due.
    """
    end = object()
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # pyright: ignore[reportReturnType]
