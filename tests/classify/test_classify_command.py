"""`frazil classify`: classes of what is alike, centred and turned alike; good and bad particles; bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from frazil.classify import learning
from frazil.data.stack import read_particles
from frazil.data.star import read_star

from .conftest import GRID, Stack, picture, write_pictures

FLAGS = ("--classes", 6, "--rounds", 16, "--resolution", 14, "--diameter", 150, "--seed", 1, "--threads", 1)


@pytest.fixture(scope="session")
def classified(pictures: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from frazil.cli import main

    out = tmp_path_factory.mktemp("classified") / "out"
    assert main(["classify", str(pictures.path), *map(str, FLAGS), "--out", str(out)]) == 0
    return out


def block_of(job: Path, name: str = "particles"):
    return read_particles(job / "outputs" / f"{name}.star").listing.block


def test_particles_that_look_alike_are_in_one_class(classified: Path, pictures: Stack) -> None:
    number = block_of(classified).integers("rlnClassNumber")
    kind = pictures.kind
    pure = 0
    for one in np.unique(number[kind >= 0]):
        members = kind[(number == one) & (kind >= 0)]
        pure += np.bincount(members).max()
    assert pure / (kind >= 0).sum() > 0.95


def test_noise_is_called_bad_and_pictures_are_good(classified: Path, pictures: Stack) -> None:
    marks = {name: block_of(classified, name).integers("rlnMicrographMark") for name in ("good", "bad")}
    noise = (pictures.kind < 0).sum()
    assert (marks["bad"] < 0).sum() > 0.9 * noise
    assert (marks["good"] >= 0).sum() > 0.9 * (len(pictures.kind) - noise)
    assert len(marks["good"]) + len(marks["bad"]) == len(pictures.kind)


def test_every_input_column_is_kept(classified: Path, pictures: Stack) -> None:
    before, after = read_particles(pictures.path).listing.block, block_of(classified)
    for column in before.columns:
        if column != "rlnImageName":
            assert after.text(column) == before.text(column)


def test_alignment_lays_particles_of_a_class_on_one_another(classified: Path, pictures: Stack) -> None:
    particles = read_particles(classified / "outputs" / "particles.star")
    block = particles.listing.block
    number = block.integers("rlnClassNumber")
    largest = np.bincount(number[pictures.kind == 1]).argmax()
    rows = np.flatnonzero((number == largest) & (pictures.kind == 1))
    shift = -np.stack([block.numbers("rlnOriginXAngst"), block.numbers("rlnOriginYAngst")], axis=1)[rows]
    error = shift - pictures.shift[torch.from_numpy(rows)].numpy()
    # what remains is one displacement in the frame of the class: take it off after turning it into that frame
    truth = pictures.angle[torch.from_numpy(rows)].numpy()
    inside = (error[:, 0] + 1j * error[:, 1]) * np.exp(-1j * truth)
    assert np.median(np.abs(inside - np.median(inside.real) - 1j * np.median(inside.imag))) < 0.5 * GRID.pixel_size
    # RELION's psi turns the other way round than our angles from x to y
    relative = np.exp(1j * (np.deg2rad(-block.numbers("rlnAnglePsi")[rows]) - truth))
    assert abs(relative.mean()) > 0.95


def test_best_class_shows_the_picture_in_the_middle(classified: Path, pictures: Stack) -> None:
    with mrcfile.open(classified / "outputs" / "classes.mrcs") as file:
        averages = torch.from_numpy(file.data.copy())
        assert float(file.voxel_size.x) == pytest.approx(GRID.pixel_size)
    table = read_star(classified / "outputs" / "classes.star")["model_classes"]
    assert len(averages) == table.count == 6
    assert (np.diff(table.numbers("frazilClassScore")[table.integers("frazilClassCount") > 0]) <= 0).all()
    # averages lack the lowest shells, which the microscope takes away: compare without them
    best = averages[0] - averages[0].mean()
    found = 0.0
    for kind in (0, 1):
        for angle in torch.arange(0, 6.28, 0.1):
            other = picture(kind, angle, torch.zeros(2))
            other = other - other.mean()
            found = max(found, float((best * other).sum() / (best.norm() * other.norm())))
    assert found > 0.8


def test_dark_particles_give_bright_classes(run_frazil: Callable, tmp_path: Path) -> None:
    stack = write_pictures(tmp_path, 200, 2, sign=-1.0)
    flags = ("--classes", 3, "--rounds", 6, "--resolution", 20, "--diameter", 150, "--no-report")
    for contrast in ("auto", "dark"):
        done = run_frazil("classify", stack.path, *flags, "--contrast", contrast, "--out", tmp_path / contrast)
        assert done.code == 0, done.stderr
        assert "particles are dark" in done.stdout
        with mrcfile.open(tmp_path / contrast / "outputs" / "classes.mrcs") as file:
            first = file.data[0]
        assert first.max() > -first.min()


def test_a_given_share_is_rejected(run_frazil: Callable, pictures: Stack, tmp_path: Path) -> None:
    flags = ("--classes", 3, "--rounds", 2, "--batch-size", 100, "--shift-range", 12, "--reject", 0.25, "--no-report")
    images = pictures.path.with_suffix(".mrcs")
    done = run_frazil("classify", pictures.path, "--images", images.parent, *flags, "--out", tmp_path / "out")
    assert done.code == 0, done.stderr
    assert "found in the images" in done.stdout
    assert block_of(tmp_path / "out", "bad").count == 75


def test_poses_that_are_there_stay(run_frazil: Callable, tmp_path: Path) -> None:
    words = ("--set", "rigid", "--count", 40, "--box", 17, "--pixel-size", 8, "--snr", 0.5)
    assert run_frazil("simulate", "particles", *words, "--out", tmp_path / "sim").code == 0
    stack = tmp_path / "sim" / "outputs" / "particles.star"
    done = run_frazil("classify", stack, "--classes", 2, "--rounds", 2, "--no-report", "--out", tmp_path / "out")
    assert done.code == 0, done.stderr
    before, after = read_particles(stack).listing.block, block_of(tmp_path / "out")
    for column in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"):
        assert after.text(column) == before.text(column)
    assert np.isfinite(after.numbers("frazilClassPsi")).all()


def test_report_shows_all_classes_that_have_particles(classified: Path) -> None:
    page = (classified / "report.html").read_text()
    assert "Class averages" in page
    assert (classified / "figures" / "classes.png").stat().st_size > 5000


class Stopped(KeyboardInterrupt):
    """As if somebody pressed Ctrl-C."""


@pytest.mark.parametrize("rounds", [2, 7])
def test_a_stopped_classification_goes_on_to_the_same_bits(
    run_frazil: Callable, pictures: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    words = ("classify", pictures.path, "--classes", 4, "--rounds", 9, "--resolution", 20, "--batch-size", 80)
    words += ("--checkpoint-every", 2, "--seed", 3, "--no-report", "--threads", 1)
    assert run_frazil(*words, "--out", tmp_path / "whole").code == 0
    work = learning.advanced

    def stopping(progress, *arguments):
        if progress.round == rounds:
            raise Stopped
        return work(progress, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(learning, "advanced", stopping)
        assert run_frazil(*words, "--out", tmp_path / "broken").code == 130
    done = run_frazil(*words, "--out", tmp_path / "broken")
    assert done.code == 0
    assert f"going on after round {rounds - rounds % 2}" in done.stdout
    for name in ("outputs/classes.mrcs", "outputs/classes.star", "outputs/good.star", "metrics.jsonl"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--classes", 301), ("300 particles for 301 classes", "--classes")),
        (("--diameter", 5), ("a diameter of 5 Å", "--diameter")),
        (("--diameter", 500), ("a diameter of 500 Å", "--diameter")),
        (("--resolution", 100), ("100 Å is hardly finer", "--resolution")),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(
    run_frazil: Callable, pictures: Stack, tmp_path: Path, flags: tuple, words: tuple[str, ...]
) -> None:
    done = run_frazil("classify", pictures.path, *flags, "--out", tmp_path / "out")
    assert done.code == 2
    assert all(word in done.stderr for word in words), done.stderr
    assert done.stderr.count("\n") == 1


def test_stacks_of_different_boxes_are_refused(run_frazil: Callable, pictures: Stack, tmp_path: Path) -> None:
    from frazil.data.mrc import write_stack

    write_stack(tmp_path / "small.mrcs", torch.randn(4, 24, 24), 6.0)
    write_stack(tmp_path / "large.mrcs", torch.randn(4, 32, 32), 6.0)
    (tmp_path / "both.txt").write_text("small.mrcs\nlarge.mrcs\n")
    done = run_frazil("classify", tmp_path / "both.txt", "--classes", 2, "--out", tmp_path / "out")
    assert done.code == 2
    assert "different boxes" in done.stderr
