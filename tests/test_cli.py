"""The command line answers at once, in one line when something is wrong, and never does the same work twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Literal

import pytest

import frazil
from frazil import cli
from frazil.cli import VERBS, Verb
from frazil.config import JobConfig, StageConfig, argument, setting
from frazil.errors import FrazilError, InputError

HEAVY = ("torch", "numpy", "numba", "matplotlib", "scipy")


class Training(StageConfig):
    epochs: int = setting(3, "passes over the particles", ge=1)
    mixed: bool = setting(True, "mixed precision")


class Config(JobConfig):
    particles: Path = argument("particle stack")
    action: Literal["make", "break", "stop", "surprise", "figures"] = setting("make", "what to do")
    window: tuple[float, float] | None = setting(None, "from and to, Å")
    as_json: bool = setting(False, "print one JSON object", flag="json")
    training: Training = Training()


def run(config: Config, job: Any) -> Any:
    job.log(f"epochs {config.training.epochs} mixed {config.training.mixed} window {config.window}")
    if config.action == "break":
        raise FrazilError("It broke.")
    if config.action == "stop":
        (job.outputs / "half.txt").write_text("half")
        raise KeyboardInterrupt
    if config.action == "surprise":
        raise ZeroDivisionError("division\nby zero")
    (job.outputs / "made.txt").write_text("made")
    job.made(job.outputs / "made.txt", "good enough", "frazil next")
    return {"score": 1.5, "none": [float("nan")]} if config.action == "figures" else None


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A verb `toy` that does little, in a folder of its own with one input file."""
    module = types.ModuleType(
        "frazil_toy", "Play.\n\nA longer word about it, with ``code``.\n\n    frazil toy a.star\n"
    )
    module.Config, module.run = Config, run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "frazil_toy", module)
    monkeypatch.setattr(cli, "VERBS", (*VERBS, Verb("toy", "frazil_toy", "play", "help")))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.star").write_text("data_\n")
    return tmp_path


# ------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize(
    "words", [(), *((verb.name,) for verb in VERBS)], ids=lambda words: " ".join(words) or "frazil"
)
def test_help_loads_nothing_heavy(words: tuple[str, ...]) -> None:
    code = (
        "import sys; from frazil.cli import main; code = main(sys.argv[1:]);"
        f"sys.exit(code or [m for m in {HEAVY} if m in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: frazil")


def test_help_names_every_verb(run_frazil: Any) -> None:
    said = run_frazil("--help")
    assert said.code == 0
    assert all(f"  {verb.name} " in said.stdout for verb in VERBS)
    assert run_frazil().stdout == run_frazil("help").stdout == said.stdout
    assert run_frazil("help", "decode").stdout == run_frazil("decode", "--help").stdout


def test_help_of_a_verb_has_its_manual_its_flags_and_their_defaults(toy: Path, run_frazil: Any) -> None:
    page = run_frazil("toy", "--help").stdout
    assert "A longer word about it, with `code`." in page
    for text in (
        "PARTICLES",
        "--window NUMBER NUMBER",
        "--training.epochs INT",
        "(default: 3)",
        "--json",
        "--out PATH",
    ):
        assert text in page
    assert not any(line != line.rstrip() for line in page.splitlines())


def test_version(run_frazil: Any) -> None:
    assert run_frazil("--version").stdout == f"frazil {frazil.__version__}\n"


def test_the_command_runs_as_a_module(spawn_frazil: Any) -> None:
    assert spawn_frazil("--version").stdout == f"frazil {frazil.__version__}\n"


def test_no_config_takes_a_name_that_belongs_to_the_command_line() -> None:
    for verb in VERBS:
        assert not {"preset", "config", "debug", "help", "version"} & set(verb.load().Config.model_fields)


# ----------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("toi", "error: unknown verb toi. Did you mean frazil toy?"),
        ("--frobnicate", "error: unknown flag --frobnicate. See frazil --help."),
        ("toy", "error: frazil toy: particles is missing. Give particles."),
        ("toy a.star --windw 1 2", "error: unknown flag --windw. Did you mean --window?"),
        ("toy a.star --epochs 5", "error: unknown flag --epochs. Did you mean --training.epochs?"),
        ("toy a.star b.star", "error: 'b.star' is one argument too many. See frazil toy --help."),
        ("toy a.star --seed", "error: missing value for argument '--seed'. See frazil toy --help."),
        ("toy a.star --seed x", "error: frazil toy: seed = 'x' cannot be used: input should be a valid integer"),
        ("toy a.star --training.epochs 0", "cannot be used: input should be greater than or equal to 1."),
        ("toy a.star --action go", "error: frazil toy: action = 'go' cannot be used: input should be 'make', 'break'"),
        ("toy b.star", "error: b.star: there is no such file or folder. Check the path."),
        ("toy a.star --config no.toml", "error: no.toml: there is no such file. Check the path given to --config."),
        ("toy a.star --config a.star", "error: a.star: this is not a TOML file:"),
        ("toy a.star --preset x", "error: --preset: preset 'x' does not exist. Presets of toy: none yet."),
        ("toy a.star --preset cryodrgn", "error: --preset: preset 'cryodrgn' says nothing about toy."),
        (
            "reconstruct a.star --preset crydrgn",
            "error: --preset: preset 'crydrgn' does not exist. Did you mean cryodrgn?",
        ),
        ("toy a.star --out a.star", "error: --out a.star: this is a file. Give the name of a folder."),
        ("toy a.star --out /proc/no", "error: --out /proc/no: the folder cannot be made: no such file or directory."),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(toy: Path, run_frazil: Any, words: str, message: str) -> None:
    ended = run_frazil(*words.split())
    assert ended.code == 2
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1 and ended.stdout == ""


def test_a_wrong_setting_in_a_file_is_told_with_the_file(toy: Path, run_frazil: Any) -> None:
    (toy / "mine.toml").write_text("[toy.training]\nepoch = 4\n")
    said = run_frazil("toy", "a.star", "--config", "mine.toml")
    assert said.code == 2
    assert said.stderr == "error: mine.toml: unknown setting training.epoch. Did you mean epochs?\n"
    (toy / "mine.toml").write_text("[other]\n")
    assert (
        "there is no section [toy]. Put the settings below a line [toy]."
        in run_frazil("toy", "a.star", "--config", "mine.toml").stderr
    )


def test_a_failure_ends_with_1_and_a_surprise_offers_its_traceback(toy: Path, run_frazil: Any) -> None:
    failed = run_frazil("toy", "a.star", "--action", "break")
    assert (failed.code, failed.stderr) == (1, "error: It broke.\n")
    surprised = run_frazil("toy", "a.star", "--action", "surprise")
    assert surprised.code == 1
    assert surprised.stderr == (
        "error: ZeroDivisionError: division by zero; run again with --debug for the traceback\n"
    )
    debugged = run_frazil("toy", "a.star", "--action", "surprise", "--debug")
    assert "Traceback" in debugged.stderr and debugged.code == 1


@pytest.mark.parametrize("words", ["--version", "reconstruct --help"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(words: str, unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # gone before the first word, so that no race decides
    command = [sys.executable, "-m", "frazil", *words.split()]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=environment, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


# ------------------------------------------------------------------------------------------------------ layers of settings


def settings_of(folder: Path) -> str:
    return (folder / "log.txt").read_text().splitlines()[0].split("  ", 1)[1]


def test_flags_win_over_a_file_and_a_file_over_defaults(toy: Path, run_frazil: Any) -> None:
    (toy / "mine.toml").write_text("[toy]\nwindow = [1, 2.5]\n[toy.training]\nepochs = 4\nmixed = false\n")
    assert run_frazil("toy", "a.star", "--out", "one").code == 0
    assert settings_of(toy / "one") == "epochs 3 mixed True window None"
    run_frazil("toy", "a.star", "--out", "two", "--config", "mine.toml")
    assert settings_of(toy / "two") == "epochs 4 mixed False window (1.0, 2.5)"
    run_frazil("toy", "a.star", "--out=three", "--config=mine.toml", "--training.epochs=9", "--training.mixed")
    assert settings_of(toy / "three") == "epochs 9 mixed True window (1.0, 2.5)"
    run_frazil("toy", "a.star", "--out", "four", "--training.no-mixed", "--window", "-1", "2e1")
    assert settings_of(toy / "four") == "epochs 3 mixed False window (-1.0, 20.0)"
    assert "(default: 4)" in run_frazil("toy", "--config", "mine.toml", "--help").stdout


def test_a_job_can_be_repeated_from_its_record(toy: Path, run_frazil: Any) -> None:
    run_frazil("toy", "a.star", "--out", "one", "--training.epochs", "7")
    run_frazil("toy", "--config", "one/job.toml", "--out", "two")
    assert settings_of(toy / "two") == settings_of(toy / "one")


def test_a_preset_lies_below_the_flags(run_frazil: Any) -> None:
    reconstruct = cli.find_verb("reconstruct")
    below = cli.settings_below(reconstruct, ["--preset", "cryodrgn"])
    assert cli.read_command(reconstruct, ["a.star"], below).latent_dim > 0
    assert cli.read_command(reconstruct, ["a.star", "--latent-dim", "3"], below).latent_dim == 3


# ------------------------------------------------------------------------------------------------------------- jobs


def test_jobs_are_numbered_and_the_same_job_is_done_once(toy: Path, run_frazil: Any) -> None:
    first = run_frazil("toy", "a.star")
    assert first.stdout.splitlines()[-3:] == [
        "made  toy/J001/outputs/made.txt",
        "good  good enough",
        "next  frazil next",
    ]
    again = run_frazil("toy", "a.star")
    assert again.stdout.startswith("already done: toy/J001 (--again runs it anew)\nmade  toy/J001/outputs/made.txt\n")
    assert run_frazil("toy", "a.star", "--again").stdout.count("toy/J002") == 1
    run_frazil("toy", "a.star", "--seed", "5")
    assert sorted(p.name for p in (toy / "toy").iterdir()) == ["J001", "J002", "J003"]


def test_threads_and_tensorboard_do_not_make_another_job(toy: Path, run_frazil: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("frazil.engine.machine.use_threads", lambda count: None)
    run_frazil("toy", "a.star")
    same = run_frazil("toy", "a.star", "--threads", "1", "--tensorboard", "--memory", "1")
    assert same.stdout.startswith("already done: toy/J001")


def test_stopping_leaves_a_job_that_goes_on(toy: Path, run_frazil: Any) -> None:
    stopped = run_frazil("toy", "a.star", "--action", "stop")
    assert stopped.code == 130
    assert stopped.stderr == "stopped; the same command goes on where it stopped\n"
    assert json.loads((toy / "toy/J001/status.json").read_text())["state"] == "interrupted"
    assert "going on with toy/J001" in run_frazil("toy", "a.star", "--action", "stop").stdout


def test_what_a_finished_job_made_is_not_lost_to_another(toy: Path, run_frazil: Any) -> None:
    run_frazil("toy", "a.star", "--out", "mine")
    other = run_frazil("toy", "a.star", "--out", "mine", "--seed", "2")
    assert other.code == 2
    assert other.stderr == (
        "error: --out mine: this folder holds a finished job with other settings or inputs. Give another folder, or add"
        " --again (what is there is moved to mine.before-1).\n"
    )
    assert run_frazil("toy", "a.star", "--out", "mine", "--seed", "2", "--again").code == 0
    assert (toy / "mine.before-1/outputs/made.txt").is_file() and (toy / "mine/outputs/made.txt").is_file()


def test_json_stands_alone_on_standard_output_and_is_told_again(toy: Path, run_frazil: Any) -> None:
    command = ("toy", "a.star", "--action", "figures", "--json")
    for _ in range(2):
        said = run_frazil(*command)
        assert json.loads(said.stdout) == {"score": 1.5, "none": [None]}
        assert "toy/J001" in said.stderr


def test_threads_are_limited(toy: Path, spawn_frazil: Any) -> None:
    code = (
        "import sys; from frazil.engine.machine import use_threads; use_threads(1); import torch, numba;"
        "print(torch.get_num_threads(), numba.get_num_threads()); use_threads(1); print(torch.get_num_threads())"
    )
    environment = {k: v for k, v in os.environ.items() if "THREADS" not in k}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1", "1"]


def test_threads_without_work_sleep_unless_the_user_says_otherwise(monkeypatch: Any) -> None:
    from frazil.engine.machine import use_threads

    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    use_threads(None)
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    use_threads(None)
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_a_gpu_that_is_not_there_is_told(toy: Path, run_frazil: Any) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    said = run_frazil("toy", "a.star", "--device", "cuda")
    assert said.code == 2
    assert said.stderr == (
        "error: --device cuda: torch sees no GPU here. Use --device cpu, or a CUDA build of torch.\n"
    )


def test_errors_say_what_where_and_what_to_do() -> None:
    assert str(InputError("it is odd", where="a.star:3", remedy="make it even")) == "a.star:3: it is odd. Make it even."
    assert str(InputError("no such flag", remedy="did you mean --x?")) == "no such flag. Did you mean --x?"
