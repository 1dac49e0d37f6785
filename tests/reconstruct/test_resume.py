"""A killed heterogeneous reconstruction ends bit for bit as one that was left alone: a neural field, and a basis."""

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

FLAGS = ("--preset", "cryodrgn", "--latent-dim", 2, "--threads", 1, "--no-report", "--train.checkpoint-every", 3)
FLAGS += ("--train.width", 16, "--train.encoder-width", 16, "--train.batch-size", 4, "--train.epochs", 4)
FLAGS += ("--train.refine-poses", "--train.pose-pretrain", 2, "--train.coefficients", 0.5, "--train.accumulate", 2)
BASIS = ("--density", "basis", "--latent-dim", 1, "--threads", 1, "--no-report", "--basis.checkpoint-every", 2)
BASIS += ("--basis.landmarks", 8, "--basis.passes", 2)
RESULTS = ("latent.npy", "latent_covariance.npy", "ensemble.safetensors", "ensemble.json", "consensus.mrc")


class Server:
    """The process in whose forks commands run."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin and process.stdout
        self.input, self.output = process.stdin, process.stdout

    def run(self, *arguments: object) -> int:
        """Starts a command; returns its process id."""
        self.input.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        self.input.flush()
        return int(self.output.readline())

    def wait(self) -> int:
        """The exit code of the command, negative for the signal that killed it."""
        return int(self.output.readline())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    script = Path(__file__).with_name("command_server.py")
    with subprocess.Popen([sys.executable, script], stdin=PIPE, stdout=PIPE, text=True) as process:
        yield Server(process)
        assert process.stdin
        process.stdin.close()


def wait_for_epochs(folder: Path, epochs: int) -> None:
    """Until so many epochs or passes have been written down; the first line of metrics is that of the consensus."""
    path, deadline = folder / "metrics.jsonl", time.monotonic() + 120
    while not path.is_file() or len(path.read_text().splitlines()) < 1 + epochs:
        assert time.monotonic() < deadline, "training did not get that far"
        time.sleep(0.002)


@pytest.mark.parametrize(("flags", "lines"), [(FLAGS, (0, 1, 2)), (BASIS, (2, 9, 20))], ids=["field", "basis"])
def test_killed_reconstruction_resumes_bitwise(
    server: Server, small_stack: Path, tmp_path: Path, flags: tuple[object, ...], lines: tuple[int, ...]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    server.run("reconstruct", small_stack, *flags, "--out", whole)
    assert server.wait() == 0
    chance = random.Random()  # other moments in every run of the test: any of them must do
    for count in lines:
        process = server.run("reconstruct", small_stack, *flags, "--out", broken)
        wait_for_epochs(broken, count)
        time.sleep(0.1 * chance.random())
        os.kill(process, signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
    server.run("reconstruct", small_stack, *flags, "--out", broken)
    assert server.wait() == 0

    assert "going on after" in (broken / "log.txt").read_text()
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    for name in RESULTS:
        assert (broken / "outputs" / name).read_bytes() == (whole / "outputs" / name).read_bytes(), name
