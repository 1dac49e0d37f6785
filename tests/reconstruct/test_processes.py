"""`frazil reconstruct` on several processes: the curve of one, one voice, and clear ends."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from frazil.engine import processes
from frazil.engine.machine import take_gpu
from frazil.engine.metrics import read_metrics
from frazil.engine.processes import Place
from frazil.errors import InputError

# batches of 7 in 80 images: shares are of different size, and so is the last batch
FIELD = ("--preset", "cryodrgn", "--latent-dim", 2, "--threads", 1, "--no-report", "--train.precision", "float32")
FIELD += ("--train.width", 16, "--train.encoder-width", 16, "--train.batch-size", 7, "--train.epochs", 3)
FIELD += ("--train.refine-poses", "--train.coefficients", 0.5, "--train.beta-control", 0.1, "--train.accumulate", 2)
BASIS = ("--density", "basis", "--latent-dim", 1, "--threads", 1, "--no-report", "--basis.landmarks", 8)
BASIS += ("--basis.passes", 1, "--basis.resolution", 24, "--basis.cache", "disk")


@pytest.mark.parametrize(
    ("flags", "count", "stack"),
    [(FIELD, 2, "small_stack"), (BASIS, 3, "small_stack"), (BASIS, 3, "small_pairs")],
    ids=["field", "basis", "pairs"],
)
def test_several_processes_give_the_curve_of_one(
    server: Any, request: Any, tmp_path: Path, flags: tuple[object, ...], count: int, stack: str
) -> None:
    particles = request.getfixturevalue(stack)
    one, many = tmp_path / "one", tmp_path / "many"
    assert server.run("reconstruct", particles, *flags, "--out", one) == [0]
    assert server.run("reconstruct", particles, *flags, "--out", many, processes=count) == [0] * count
    expected, found = read_metrics(one), read_metrics(many)
    assert len(expected) > 3
    for before, after in zip(expected, found, strict=True):
        assert after.pop("stage", "") == before.pop("stage", "")
        assert after == pytest.approx(before, rel=1e-4)
    latent = np.load(one / "outputs" / "latent.npy")
    assert np.abs(np.load(many / "outputs" / "latent.npy") - latent).max() < 1e-3 * latent.std()


def test_a_job_of_two_processes_goes_on_in_one(server: Any, small_stack: Path, tmp_path: Path) -> None:
    words = ("reconstruct", small_stack, *FIELD, "--train.checkpoint-every", 2, "--out")
    assert server.run(*words, tmp_path / "one") == [0]
    started = server.start(*words, tmp_path / "job", processes=2, said=tmp_path)
    server.wait_for_epochs(tmp_path / "job", 1)
    os.kill(started[0], signal.SIGKILL)
    assert server.wait() == [-signal.SIGKILL, 1]
    assert server.run(*words, tmp_path / "job") == [0]
    assert "going on after" in (tmp_path / "job" / "log.txt").read_text()
    for before, after in zip(read_metrics(tmp_path / "one"), read_metrics(tmp_path / "job"), strict=True):
        assert after.pop("stage", "") == before.pop("stage", "")
        assert after == pytest.approx(before, rel=1e-4)


def test_bad_input_ends_all_processes_with_one_message(server: Any, tmp_path: Path) -> None:
    ended = server.run("reconstruct", tmp_path / "none.star", "--out", tmp_path / "job", processes=2, said=tmp_path)
    assert ended == [2, 2]
    said = [line for rank in range(2) for line in (tmp_path / f"{rank}.txt").read_text().splitlines()]
    assert len(said) == 1 and "none.star: there is no such file or folder" in said[0]


def test_what_one_process_alone_cannot_read_ends_all(server: Any, small_stack: Path, tmp_path: Path) -> None:
    """The last image is damaged, and only the last process reads it."""
    folder = tmp_path / "sim"
    shutil.copytree(small_stack.parent, folder)
    stack = next(folder.glob("*.mrcs"))
    with stack.open("r+b") as file:
        file.seek(-24 * 24 * 4, 2)
        file.write(np.full(24 * 24, np.nan, np.float32).tobytes())
    words = ("reconstruct", folder / small_stack.name, "--no-report", "--threads", 1, "--out", tmp_path / "job")
    assert server.run(*words, processes=2, said=tmp_path) == [2, 2]
    said = [line for rank in range(2) for line in (tmp_path / f"{rank}.txt").read_text().splitlines()]
    assert len(said) == 1 and "000080@" in said[0]


def test_torchrun_starts_one_job_that_speaks_once(spawn_torchrun: Any, small_stack: Path, tmp_path: Path) -> None:
    words = ("reconstruct", small_stack, "--no-report", "--threads", 1, "--out", tmp_path / "job")
    done = spawn_torchrun(2, *words)
    assert done.code == 0, done.stderr
    assert done.stdout.count("made  ") == 1
    assert (tmp_path / "job" / "outputs" / "consensus.mrc").is_file()
    assert "already done" in spawn_torchrun(2, *words).stdout


# ------------------------------------------------------------------------------------------------------------- messages


def started_by_a_launcher(monkeypatch: pytest.MonkeyPatch, rank: int, count: int) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, str(rank))
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, str(count))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr(processes, "TO_SPEAK", 0.0)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_verb_that_works_in_one_process_says_so_once(run_frazil, monkeypatch, tmp_path: Path, rank: int) -> None:
    started_by_a_launcher(monkeypatch, rank, 2)
    done = run_frazil("simulate", "particles", "--out", tmp_path / "job")
    assert done.code == 2
    expected = "error: frazil simulate works in one process, and 2 were started. Start it without torchrun.\n"
    assert done.stderr == (expected if rank == 0 else "")
    assert not (tmp_path / "job").exists()


def test_a_mistyped_flag_is_told_by_the_first_process(run_frazil, monkeypatch) -> None:
    started_by_a_launcher(monkeypatch, 1, 2)
    done = run_frazil("reconstruct", "a.star", "--symetry", "C1")
    assert (done.code, done.stderr) == (2, "")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"RANK": ""}, "WORLD_SIZE is set but RANK is not. Start it with torchrun, or unset WORLD_SIZE"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK = x is no number"),
        ({"RANK": "2"}, "process 2 of 2 cannot be"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(
    run_frazil, monkeypatch, changed: dict[str, str], words: str
) -> None:
    started_by_a_launcher(monkeypatch, 0, 2)
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    done = run_frazil("reconstruct", "a.star")
    assert done.code == 2
    assert words in done.stderr


def test_more_processes_than_particles_of_a_half_set_are_refused(
    server: Any, small_stack: Path, run_frazil, tmp_path: Path
) -> None:
    flags = ("--set", "linear-1d", "--count", 3, "--box", 16, "--pixel-size", 8)
    assert run_frazil("simulate", "particles", *flags, "--out", tmp_path / "sim").code == 0
    words = ("reconstruct", tmp_path / "sim", "--no-report", "--threads", 1, "--out", tmp_path / "job")
    assert server.run(*words, processes=2, said=tmp_path) == [2, 2]
    said = "".join((tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert "1 particles in a half-set for 2 processes. Start at most 1." in said


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="2 processes on a machine with 1 GPU. Start at most 1, or use --device cpu"):
        take_gpu(1, 2)


def test_without_a_launcher_there_is_one_process() -> None:
    assert Place.told_by({}) == Place.told_by({"WORLD_SIZE": "1"}) == Place(0, 1, 0, 1)
