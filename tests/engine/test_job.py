"""A job's folder tells what was done, belongs to one process at a time, and is taken up where it stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from frazil.config import JobConfig, setting
from frazil.engine.identity import END_SIZE, describe_inputs
from frazil.engine.job import Job, open_job, read_status
from frazil.engine.metrics import read_metrics
from frazil.errors import InputError


class Config(JobConfig):
    width: int = setting(3, "of something")


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.star").write_text("data_\n")


def open_toy(**settings: object) -> Job:
    return open_job("toy", Config(device="cpu", **settings), [Path("a.star")], "frazil toy a.star")  # type: ignore[arg-type]


def test_the_folder_has_what_the_design_says() -> None:
    with open_toy(tensorboard=True) as job:
        job.log("hello")
        job.metric(epoch=1, loss=0.5, note="x")
        with job.progress(10, "working") as progress:
            progress.advance(10)
    assert job.folder == Path("toy/J001") and job.name == "toy/J001"
    made = {p.name for p in job.folder.iterdir()}
    assert {"job.toml", "status.json", "log.txt", "metrics.jsonl", "outputs", "figures", "checkpoints"} <= made
    assert any(name.startswith("events.out.tfevents") for name in made)
    assert read_metrics(job.folder) == [{"epoch": 1, "loss": 0.5, "note": "x"}]
    assert read_status(job.folder)["state"] == "finished"
    record = tomllib.loads((job.folder / "job.toml").read_text())
    assert record["job"]["command"] == "frazil toy a.star" and record["job"]["seed"] == 0 and record["job"]["host"]
    assert record["toy"]["width"] == 3 and "out" not in record["toy"]
    assert record["inputs"][0]["path"].endswith("a.star") and record["inputs"][0]["size"] == 6


def test_events_without_tensorboard_are_refused_before_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frazil.engine.metrics.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--tensorboard: TensorBoard is not installed.*pip install tensorboard"):
        open_toy(tensorboard=True)


def test_a_killed_job_is_resumed_and_a_finished_one_is_not_run() -> None:
    job = open_toy()
    job._claim.release()  # what the system does when a process is killed: status.json still says "running"
    assert read_status(job.folder)["state"] == "running"
    second = open_toy()
    assert second.resumed and second.folder == job.folder
    second.finish()
    third = open_toy()
    assert third.finished and not third.resumed and third.folder == job.folder
    assert not open_toy(width=4).finished


def test_a_changed_input_is_another_job() -> None:
    open_toy().finish()
    Path("a.star").write_text("data_x\n")
    assert open_toy().folder == Path("toy/J002")


def test_a_change_at_either_end_or_in_time_changes_the_description(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    content = bytearray(3 * END_SIZE)
    path.write_bytes(content)
    os.utime(path, (1, 1))
    first = describe_inputs([path])
    for place in (0, len(content) - 1):
        content[place] = 1
        path.write_bytes(content)
        os.utime(path, (1, 1))
        assert describe_inputs([path]) != first
        content[place] = 0
    path.write_bytes(content)
    os.utime(path, (2, 2))
    assert describe_inputs([path]) != first
    os.utime(path, (1, 1))
    assert describe_inputs([path]) == first


def test_a_job_as_input_is_described_by_what_it_made() -> None:
    with open_toy() as job:
        (job.outputs / "latent.npy").write_text("1")
    before = describe_inputs([job.folder])
    (job.folder / "log.txt").write_text("later")
    assert describe_inputs([job.folder]) == before
    (job.outputs / "latent.npy").write_text("12")
    assert describe_inputs([job.folder]) != before


def test_two_processes_do_not_run_one_job() -> None:
    job = open_toy(out=Path("mine"))
    code = (
        "from pathlib import Path; import sys; sys.path.insert(0, '');"
        "from frazil.engine.folder import claim_folder; claim_folder('toy', Path('mine'), sys.argv[1], again=False)"
    )
    digest = tomllib.loads(Path("mine/job.toml").read_text())["job"]["digest"]
    other = subprocess.run([sys.executable, "-c", code, digest], capture_output=True, text=True, check=False)
    assert "InputError: mine: another process is running this job. Wait for it, or give another --out." in other.stderr
    job.finish()
    assert subprocess.run([sys.executable, "-c", code, digest], capture_output=True, check=False).returncode == 0


def test_a_failed_attempt_does_not_use_up_a_number_or_a_folder() -> None:
    for out in (None, Path("mine")):
        with pytest.raises(InputError, match="wrong"), open_toy(out=out) as job:
            raise InputError("wrong")
    assert not Path("toy").exists()
    assert read_status(Path("mine"))["state"] == "failed" and read_status(Path("mine"))["message"] == "wrong."
    assert not open_toy(out=Path("mine"), width=9).resumed  # nothing was made there, so nothing is lost
    assert job.folder == Path("mine")


def test_an_unfinished_job_with_results_is_not_overwritten() -> None:
    job = open_toy(out=Path("mine"))
    (job.checkpoints / "train.safetensors").write_text("x")
    job.finish("interrupted")
    with pytest.raises(InputError, match="holds an unfinished job with other settings or inputs"):
        open_toy(out=Path("mine"), width=9)
    aside = open_toy(out=Path("mine"), width=9, again=True)
    assert Path("mine.before-1/checkpoints/train.safetensors").is_file()
    assert not any(aside.checkpoints.iterdir())


def test_a_folder_of_something_else_is_left_alone() -> None:
    Path("photos/outputs").mkdir(parents=True)
    with pytest.raises(InputError, match="--out photos: this folder has outputs but is no job. Give another folder."):
        open_toy(out=Path("photos"))
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("mine")
    open_toy(out=Path("empty")).finish()
    assert Path("empty/notes.txt").read_text() == "mine"


def test_metrics_start_anew_when_a_job_goes_on_and_can_be_taken_back() -> None:
    job = open_toy()
    job.metric(epoch=1, loss=1.0)
    kept = job.metrics.text()
    job.metric(epoch=2, loss=float("nan"))
    assert json.loads(job.metrics.text().splitlines()[1]) == {"epoch": 2, "loss": None}
    job.finish("interrupted")
    again = open_toy()
    again.metric(before=1)
    again.metrics.restore(kept)
    again.metric(epoch=2, loss=0.5)
    assert read_metrics(again.folder) == [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.5}]


def test_closing_lines_say_what_was_made_how_good_and_what_next(capsys: pytest.CaptureFixture[str]) -> None:
    with open_toy() as job:
        job.made(job.outputs / "consensus.mrc", "7.1 Å", "frazil analyze toy/J001")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == ["made  toy/J001/outputs/consensus.mrc", "good  7.1 Å", "next  frazil analyze toy/J001"]
    assert read_status(job.folder)["good"] == "7.1 Å"


def test_memory_is_stated_and_bounded_before_work_starts(capsys: pytest.CaptureFixture[str]) -> None:
    job = open_toy(memory=2.0)
    job.announce_memory(0.8e9, "the images")
    assert "needs about 0.8 GB of memory at the peak (the images); 2 GB to be had" in capsys.readouterr().out
    with pytest.raises(
        InputError, match=r"this needs about 3\.2 GB of memory at the peak \(maps\), --memory allows 2 GB"
    ):
        job.announce_memory(3.2e9, "maps")
