"""A killed reconstruction ends bit for bit as one that was left alone: a neural field, a basis, and refined poses."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

FLAGS = ("--preset", "cryodrgn", "--latent-dim", 2, "--threads", 1, "--no-report", "--train.checkpoint-every", 3)
FLAGS += ("--train.width", 16, "--train.encoder-width", 16, "--train.batch-size", 4, "--train.epochs", 4)
FLAGS += ("--train.refine-poses", "--train.pose-pretrain", 2, "--train.coefficients", 0.5, "--train.accumulate", 2)
BASIS = ("--density", "basis", "--latent-dim", 1, "--threads", 1, "--no-report", "--basis.checkpoint-every", 2)
BASIS += ("--basis.landmarks", 8, "--basis.passes", 2)
SEARCH = ("--poses", "search", "--ignore-poses", "--search.starts", 3, "--search.rounds", 4, "--search.images", 60)
SEARCH += ("--threads", 1, "--no-report")
REFINE = ("--refine.rounds", 4, "--refine.beam-tilt", "--threads", 1, "--no-report")
RESULTS = (
    "latent.npy",
    "latent_covariance.npy",
    "ensemble.safetensors",
    "ensemble.json",
    "consensus.mrc",
    "particles.star",
)
AMORTISED = ("--poses", "amortised", "--threads", 1, "--no-report", "--amortised.width", 16, "--amortised.epochs", 4)
AMORTISED += ("--amortised.batch-size", 4, "--amortised.proposals", 16, "--amortised.checkpoint-every", 3)
AMORTISED += ("--refine.rounds", 1, "--amortised.radius-every", 100)
SEARCHED = ("--preset", "cryodrgn2", "--latent-dim", 2, "--threads", 1, "--no-report", "--train.width", 8)
SEARCHED += ("--train.encoder-width", 8, "--train.epochs", 3, "--train.batch-size", 4, "--train.checkpoint-every", 3)
SEARCHED += ("--hierarchical.pretrain", 60, "--hierarchical.every", 2, "--hierarchical.renew", 20)
SEARCHED += ("--hierarchical.order", 1, "--hierarchical.subdivisions", 1, "--hierarchical.first-band", 4)


def check_same(whole: Path, broken: Path) -> None:
    """The bits of both jobs are the same, and one of them went on."""
    assert "going on after" in (broken / "log.txt").read_text()
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    for name in RESULTS:
        if (whole / "outputs" / name).exists():
            assert (broken / "outputs" / name).read_bytes() == (whole / "outputs" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("flags", "lines"),
    [(FLAGS, (0, 1, 2)), (BASIS, (2, 7, 14)), (AMORTISED, (0, 1, 2)), (SEARCHED, (0, 1, 2))],
    ids=["field", "basis", "amortised", "searched"],
)
def test_killed_reconstruction_resumes_bitwise(
    server: Any, small_stack: Path, tmp_path: Path, flags: tuple[object, ...], lines: tuple[int, ...]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert server.run("reconstruct", small_stack, *flags, "--out", whole) == [0]
    chance = random.Random()  # other moments in every run of the test: any of them must do
    for count in lines:
        (process,) = server.start("reconstruct", small_stack, *flags, "--out", broken)
        server.wait_for_epochs(broken, count)
        time.sleep(0.1 * chance.random())
        os.kill(process, signal.SIGKILL)
        assert server.wait() == [-signal.SIGKILL]
    assert server.run("reconstruct", small_stack, *flags, "--out", broken) == [0]
    check_same(whole, broken)


@pytest.mark.parametrize(
    ("flags", "lines", "stack"),
    [(FLAGS, (1, 2), "small_stack"), (BASIS, (5, 16), "small_stack"), (BASIS, (5, 16), "small_pairs")],
    ids=["field", "basis", "pairs"],
)
def test_two_processes_of_which_one_is_killed_resume_bitwise(
    server: Any, request: Any, tmp_path: Path, flags: tuple[object, ...], lines: tuple[int, ...], stack: str
) -> None:
    particles = request.getfixturevalue(stack)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert server.run("reconstruct", particles, *flags, "--out", whole, processes=2) == [0, 0]
    chance = random.Random()
    for victim, count in enumerate(lines):
        processes = server.start("reconstruct", particles, *flags, "--out", broken, processes=2, said=tmp_path)
        server.wait_for_epochs(broken, count)
        time.sleep(0.1 * chance.random())
        os.kill(processes[victim], signal.SIGKILL)
        ended = server.wait()
        assert (ended[victim], ended[1 - victim]) == (-signal.SIGKILL, 1)
        assert (tmp_path / f"{1 - victim}.txt").read_text() == (
            "error: Another process of this job has ended. The same command goes on where it stopped.\n"
        )
    assert server.run("reconstruct", particles, *flags, "--out", broken, processes=2) == [0, 0]
    check_same(whole, broken)


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_refinement_resumes_bitwise(server: Any, disturbed_stack: Path, tmp_path: Path, processes: int) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert server.run("reconstruct", disturbed_stack, *REFINE, "--out", whole, processes=processes) == [0] * processes
    started = server.start("reconstruct", disturbed_stack, *REFINE, "--out", broken, processes=processes, said=tmp_path)
    server.wait_for_epochs(broken, 1)
    os.kill(started[-1], signal.SIGKILL)
    assert server.wait()[-1] == -signal.SIGKILL
    assert server.run("reconstruct", disturbed_stack, *REFINE, "--out", broken, processes=processes) == [0] * processes
    check_same(whole, broken)


@pytest.mark.parametrize("lines", [1, 3, 6])
def test_a_killed_search_resumes_bitwise(server: Any, rigid_stack: Path, tmp_path: Path, lines: int) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert server.run("reconstruct", rigid_stack, *SEARCH, "--out", whole) == [0]
    (process,) = server.start("reconstruct", rigid_stack, *SEARCH, "--out", broken)
    server.wait_for_epochs(broken, lines)
    os.kill(process, signal.SIGKILL)
    assert server.wait() == [-signal.SIGKILL]
    assert server.run("reconstruct", rigid_stack, *SEARCH, "--out", broken) == [0]
    check_same(whole, broken)
