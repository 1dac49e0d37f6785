"""A killed heterogeneous reconstruction ends bit for bit as one that was left alone."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FLAGS = (
    "--preset cryodrgn --latent-dim 2 --threads 1 --train.width 16 --train.encoder-width 16 --train.batch-size 4 "
    "--train.epochs 8 --train.refine-poses --train.pose-pretrain 2 --train.coefficients 0.5 --train.accumulate 2"
).split()
RESULTS = ("latent.npy", "latent_covariance.npy", "ensemble.safetensors", "ensemble.json", "consensus.mrc")


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.is_file() else 0


def kill_at(folder: Path, star: Path, epochs: int, delay: float) -> None:
    """Starts the command and kills it a little after so many epochs have been written down."""
    command = [sys.executable, "-m", "frazil", "reconstruct", star, *FLAGS, "--train.checkpoint-every", "3"]
    with subprocess.Popen([*command, "--out", folder], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        # the first line of metrics is that of the consensus
        while lines_of(folder / "metrics.jsonl") < 1 + epochs and process.poll() is None:
            assert time.monotonic() < deadline, "training did not get that far"
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, process.stderr.read() if process.stderr else ""


@pytest.mark.slow
def test_killed_reconstruction_resumes_bitwise(run_frazil, small_stack, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    every = ("--train.checkpoint-every", 3)
    assert run_frazil("reconstruct", small_stack, *FLAGS, *every, "--out", whole).code == 0
    chance = random.Random()  # other moments in every run of the test: any of them must do
    for epochs in (0, 2, 5):
        kill_at(broken, small_stack, epochs, 0.05 * chance.random())
    done = run_frazil("reconstruct", small_stack, *FLAGS, *every, "--out", broken)
    assert done.code == 0, done.stderr

    assert "going on after" in (broken / "log.txt").read_text()
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    for name in RESULTS:
        assert (broken / "outputs" / name).read_bytes() == (whole / "outputs" / name).read_bytes(), name
