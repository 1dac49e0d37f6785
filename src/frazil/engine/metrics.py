"""metrics.jsonl: one JSON object a line, whole lines only, the same bytes for the same run."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from frazil.engine.files import write_text
from frazil.errors import InputError

STEPS = ("step", "epoch")  # what may stand on the horizontal axis


class Metrics:
    """The metrics of one job. TensorBoard events are written beside them when asked for.

    A new `Metrics` starts an empty file: a job that goes on either does its work again, or takes back the lines that its
    checkpoint knows (`restore`). So lines that came after the checkpoint never stand there twice.

    Args:
        folder: of the job; without one nothing is written.

    Raises:
        InputError: when events are asked for and TensorBoard is not installed.
    """

    def __init__(self, folder: Path | None, *, tensorboard: bool = False) -> None:
        if tensorboard and find_spec("tensorboard") is None:
            raise InputError(
                "TensorBoard is not installed",
                where="--tensorboard",
                remedy="install it (pip install tensorboard), or leave the flag out: metrics.jsonl has the same numbers",
            )
        self.path = None if folder is None else folder / "metrics.jsonl"
        self._file = None
        self._tensorboard = tensorboard
        self._writer = None

    def add(self, values: dict[str, Any]) -> None:
        """Adds a line. A number that is not finite is written as null: JSON has no NaN."""
        if self.path is None:
            return
        if self._file is None:
            self._file = self.path.open("w", encoding="utf-8")
        plain = {name: _plain(value) for name, value in values.items()}
        self._file.write(json.dumps(plain) + "\n")
        self._file.flush()
        if self._tensorboard:
            self._write_event(self.path.parent, plain)

    def text(self) -> str:
        """All lines of this run so far."""
        return self.path.read_text(encoding="utf-8") if self.path and self._file is not None else ""

    def restore(self, text: str) -> None:
        """Takes the file back to an earlier `text`."""
        if self.path is None:
            return
        self.close()
        write_text(self.path, text)
        self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Closes the files."""
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write_event(self, folder: Path, values: dict[str, Any]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder))
        step = next((values[name] for name in STEPS if name in values), None)
        for name, value in values.items():
            if name not in STEPS and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, None if step is None else round(step))


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a job's ``metrics.jsonl``; none when there is no such file."""
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
