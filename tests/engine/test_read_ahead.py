"""What is read ahead comes in order, one item before it is needed and no more."""

import time
from collections.abc import Iterator

import pytest

from frazil.engine.read_ahead import read_ahead


def test_items_come_in_their_order():
    assert list(read_ahead(iter(range(100)))) == list(range(100))


def test_one_item_is_made_while_another_is_used():
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    ahead = read_ahead(items())
    for number in range(5):
        assert next(ahead) == number
        limit = time.monotonic() + 10
        while len(made) < number + 2 and time.monotonic() < limit:
            time.sleep(0.001)
        time.sleep(0.01)  # room to make one too many
        assert len(made) == number + 2


def test_an_error_comes_when_its_item_is_due():
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no second item")

    ahead = read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="no second item"):
        next(ahead)


def test_whoever_stops_early_leaves_no_thread_behind():
    import threading

    ahead = read_ahead(iter(range(10)))
    assert next(ahead) == 0
    ahead.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]
