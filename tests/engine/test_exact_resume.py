"""A training run that is killed ends as if it had not been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest
import torch

SCRIPT = Path(__file__).with_name("small_training.py")
PAUSE = 0.02  # seconds added to each step, so that there is time to kill it


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    """The process that starts training runs."""
    with subprocess.Popen([sys.executable, SCRIPT], stdin=PIPE, stdout=PIPE, text=True) as process:
        yield process
        assert process.stdin
        process.stdin.close()


class Run:
    """A training run in `folder`, from its start to its end."""

    def __init__(self, server: subprocess.Popen[str], folder: Path, pause: float = 0.0) -> None:
        assert server.stdin and server.stdout
        self.folder, self.server = folder, server
        server.stdin.write(f"{folder} {pause}\n")
        server.stdin.flush()
        self.process = int(server.stdout.readline())

    def wait(self) -> int:
        """The exit code, negative for the signal that killed it."""
        assert self.server.stdout
        return int(self.server.stdout.readline())

    def signal_after(self, lines: int, delay: float, number: signal.Signals) -> int:
        """Sends a signal a little after so many lines of metrics were written. Returns how the run ended."""
        deadline = time.monotonic() + 60
        while steps_in(self.folder) < lines and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay)
        os.kill(self.process, number)
        return self.wait()


def steps_in(folder: Path) -> int:
    """How many lines of metrics a running job has written."""
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def test_killed_job_resumes_bitwise(tmp_path: Path, server: subprocess.Popen[str]) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert Run(server, whole).wait() == 0
    chance = random.Random()  # other moments in every run of the test: any of them must do
    for lines in (2, 6, 9):
        ended = Run(server, broken, PAUSE).signal_after(lines, 0.1 * chance.random(), signal.SIGKILL)
        assert ended == -signal.SIGKILL
    assert Run(server, broken).wait() == 0

    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    expected, found = (torch.load(f / "outputs" / "weights.pt", weights_only=True) for f in (whole, broken))
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(expected[name], found[name]), name
    assert "going on after" in (broken / "log.txt").read_text()
    assert json.loads((broken / "status.json").read_text())["state"] == "finished"


def test_a_request_to_stop_ends_between_steps_with_a_checkpoint(tmp_path: Path, server: subprocess.Popen[str]) -> None:
    folder = tmp_path / "job"
    assert Run(server, folder, PAUSE).signal_after(2, 0.0, signal.SIGTERM) == 1
    assert json.loads((folder / "status.json").read_text())["state"] == "interrupted"
    assert (folder / "checkpoints" / "train.safetensors").is_file()
