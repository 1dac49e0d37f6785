"""What goes wrong on the first day: one clear line each, exit code 2, and nothing lost."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from frazil.cli import main


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first-contact") / "sim"
    flags = ["--set", "linear-1d", "--count", "30", "--box", "17", "--pixel-size", "8", "--snr", "0.5"]
    assert main(["simulate", "particles", *flags, "--out", str(folder)]) == 0
    return folder / "outputs"


@pytest.fixture
def stack(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stack of an odd box that a test may break, in the current folder."""
    for name in ("particles.star", "particles.mrcs"):
        shutil.copy(made / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "particles.star"


def rename_column(stack: Path) -> None:
    stack.write_text(stack.read_text().replace("_rlnAngleTilt", "_rlnAngleTild"))


def remove_images(stack: Path) -> None:
    stack.with_suffix(".mrcs").unlink()


def cut_images(stack: Path) -> None:
    path = stack.with_suffix(".mrcs")
    path.write_bytes(path.read_bytes()[:-5000])


def spoil_an_image(stack: Path) -> None:
    with mrcfile.open(stack.with_suffix(".mrcs"), "r+") as file:
        file.data[11, 3, 3] = np.nan


def empty_the_table(stack: Path) -> None:
    stack.write_text("")


def remove_the_rows(stack: Path) -> None:
    text = stack.read_text().rstrip("\n")
    lines = text.splitlines()
    stack.write_text("\n".join(lines[: len(lines) - 30]) + "\n")


@pytest.mark.parametrize(
    ("spoil", "where", "words"),
    [
        (rename_column, "particles.star", "rlnAngleTilt"),
        (remove_images, "particles.mrcs", ""),
        (cut_images, "particles.mrcs", ""),
        (spoil_an_image, "particles.mrcs", "12"),
        (empty_the_table, "particles.star", "no data block"),
        (remove_the_rows, "particles.star", ""),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_spoilt_stack_is_one_clear_line(
    run_frazil: Callable, stack: Path, spoil: Callable[[Path], None], where: str, words: str
) -> None:
    spoil(stack)
    ended = run_frazil("reconstruct", stack)
    assert ended.code == 2, ended.stdout + ended.stderr
    assert (
        ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1 and ended.stderr.endswith((".\n", "?\n"))
    )
    assert where in ended.stderr and words in ended.stderr, ended.stderr
    assert not Path("reconstruct").exists()


def test_an_odd_box_is_reconstructed(run_frazil: Callable, stack: Path) -> None:
    assert run_frazil("reconstruct", stack, "--no-report").code == 0
    with mrcfile.open("reconstruct/J001/outputs/consensus.mrc") as file:
        assert file.data.shape == (17, 17, 17)
        assert float(file.voxel_size.x) == pytest.approx(8.0)


@pytest.mark.parametrize(
    "words",
    [("reconstruct", "none.star"), ("inspect", "none.star"), ("analyze", "J9"), ("evaluate", "J9", "--truth", "J8")],
)
def test_a_missing_file_is_told(run_frazil: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run_frazil(*words)
    assert ended.code == 2
    assert words[1] in ended.stderr and ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


class Harmful:
    """What a pickle from a stranger may hold."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("harm"),))


@pytest.mark.parametrize("content", [Harmful(), b"not a pickle"], ids=["harmful", "bytes"])
def test_a_wrong_pickle_is_refused_and_runs_nothing(
    run_frazil: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pose.pkl").write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    ended = run_frazil("inspect", "pose.pkl")
    assert ended.code == 2 and "pose.pkl" in ended.stderr and ended.stderr.count("\n") == 1
    assert not Path("harm").exists()
