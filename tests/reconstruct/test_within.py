"""Discrete states that move: two molecules of different composition in one stack, a hinge that turns and one at rest."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from frazil.cli import main
from frazil.data.ensemble import load_ensemble
from frazil.data.stack import read_particles
from frazil.numerics.statistics import spearman

EACH = 240  # particles of each molecule; even rows are of the one that moves
WORDS = ("--density", "basis", "--basis.components", 2, "--no-report", "--threads", 1, "--basis.passes", 1)
WORDS += ("--basis.landmarks", 12, "--basis.most-dimensions", 2)


@pytest.fixture(scope="module")
def two_molecules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A star file whose even rows are of a hinge that moves, and odd ones of another molecule at rest."""
    folder = tmp_path_factory.mktemp("two-molecules")
    box = ["--box", "24", "--pixel-size", "8", "--resolution", "32"]

    def simulate(name: str, *flags: str) -> list[str]:
        assert main(["simulate", "particles", *flags, "--snr", "1", "--out", str(folder / name)]) == 0
        text = (folder / name / "outputs" / "particles.star").read_text()
        return text.replace("@", f"@{name}/outputs/").splitlines(keepends=True)

    simulate("ten", "--set", "discrete-10", "--count", "1", *box)
    at_rest = folder / "ten" / "outputs" / "truth" / "volumes" / "volume_004.mrc"  # two lobes where the hinge has none
    moving = simulate("moving", "--set", "linear-1d", "--count", str(EACH), "--seed", "1", *box)
    resting = simulate("resting", "--density", str(at_rest), "--count", str(EACH), "--seed", "3")
    head = "".join(line for line in moving if "@" not in line)
    # an optics group of its own for each: a state then has no image of the other's
    (optics,) = re.findall(r"^1 opticsGroup1 .*\n", head, re.MULTILINE)
    head = head.replace(optics, optics + optics.replace("1 opticsGroup1", "2 opticsGroup2"))
    group = int(re.findall(r"^_rlnOpticsGroup #(\d+)", head, re.MULTILINE)[-1]) - 1
    rows = [[line.split() for line in one if "@" in line] for one in (moving, resting)]
    text = "".join(
        f"{' '.join(a)}\n{' '.join([*b[:group], '2', *b[group + 1 :]])}\n" for a, b in zip(*rows, strict=True)
    )
    star = folder / "particles.star"
    star.write_text(head + text)
    return star


@pytest.fixture(scope="module")
def job(two_molecules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished job in which every state has as many coordinates as its images ask for."""
    out = tmp_path_factory.mktemp("within") / "job"
    words = ["reconstruct", two_molecules, *WORDS, "--basis.within", "auto", "--out", out]
    assert main([str(word) for word in words]) == 0
    return out


def folders(job: Path) -> tuple[Path, Path]:
    """The folders of the state that moves and of the one at rest."""
    first = int(np.load(job / "outputs" / "component.npy")[0])
    return tuple(job / "outputs" / f"component_{number:03d}" for number in (first, 1 - first))  # type: ignore[return-value]


def true_angle(two_molecules: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(two_molecules.parent / "moving" / "outputs" / "truth" / "latent.npy"))[:, 0]


def test_the_latent_within_a_state_follows_its_true_motion(job: Path, two_molecules: Path) -> None:
    component = np.load(job / "outputs" / "component.npy")
    assert (component == component[0]).sum() == EACH and len(set(component[::2])) == 1
    latent = torch.from_numpy(np.load(folders(job)[0] / "latent.npy"))
    assert max(abs(spearman(column, true_angle(two_molecules))) for column in latent.T) > 0.9


def test_a_state_at_rest_has_no_coordinate(job: Path) -> None:
    moving, resting = folders(job)
    assert not (resting / "latent.npy").exists() and not (resting / "ensemble.json").exists()
    assert (resting / "consensus.mrc").is_file() and (resting / "latent_coordinates.csv").is_file()
    said = (job / "log.txt").read_text()
    number = int(moving.name[-1])
    count = np.load(moving / "latent.npy").shape[1]
    assert f"state {1 - number}: {EACH} images, no latent coordinates: frazil analyze {resting}" in said
    assert f"motion within states: {count} latent coordinate" in said
    assert f"next  frazil analyze {moving}\n" in said


def test_states_lie_side_by_side_as_they_do_without_motion(
    server: Any, job: Path, two_molecules: Path, tmp_path: Path
) -> None:
    assert server.run("reconstruct", two_molecules, *WORDS, "--out", tmp_path / "rigid") == [0]
    assert not list((tmp_path / "rigid" / "outputs").glob("component_0*"))
    for name in ("latent.npy", "component.npy", "component_probability.npy", "ensemble.safetensors"):
        assert (tmp_path / "rigid" / "outputs" / name).read_bytes() == (job / "outputs" / name).read_bytes(), name


def test_a_state_is_an_ensemble_of_its_own_particles(job: Path, two_molecules: Path) -> None:
    folder = folders(job)[0]
    latent, covariance = np.load(folder / "latent.npy"), np.load(folder / "latent_covariance.npy")
    assert covariance.shape == (EACH, latent.shape[1], latent.shape[1])
    for name in ("", "half_a", "half_b"):
        assert load_ensemble(folder / name).latent_dim == latent.shape[1]
    source, own = read_particles(two_molecules), read_particles(folder / "particles.star")
    assert (own.uid == source.uid[::2]).all()
    assert set(source.listing.block.columns) <= set(own.listing.block.columns)
    np.testing.assert_array_equal(own.images(slice(3, 5)), source.images(np.array([6, 8])))


def test_analyze_and_decode_open_a_state(run_frazil: Any, job: Path, tmp_path: Path) -> None:
    moving, resting = folders(job)
    words = ("--clusters", 3, "--components", 1, "--steps", 2)
    done = run_frazil("analyze", moving, *words, "--out", tmp_path / "analysis")
    assert done.code == 0, done.stderr
    assert "3 states of" in done.stdout and "median resolution" in done.stdout
    done = run_frazil("analyze", resting, "--out", tmp_path / "map")
    assert done.code == 0, done.stderr
    done = run_frazil("decode", moving, "--particles", "0,7", "--from-images", "--out", tmp_path / "decoded")
    assert done.code == 0, done.stderr
    assert (tmp_path / "decoded" / "outputs" / "volumes" / "volume_001_from_images.mrc").is_file()


def test_as_many_coordinates_as_were_asked_for_and_a_page_that_says_so(
    server: Any, two_molecules: Path, tmp_path: Path
) -> None:
    words = [word for word in WORDS if word != "--no-report"]
    words += ["--basis.within", 1, "--basis.model", "linear", "--out", tmp_path / "job"]
    assert server.run("reconstruct", two_molecules, *words) == [0]
    for folder in folders(tmp_path / "job"):
        assert np.load(folder / "latent.npy").shape == (EACH, 1)
        assert f"frazil analyze {folder}" in (tmp_path / "job" / "report.html").read_text()


def test_a_state_of_few_images_is_left_rigid(server: Any, two_molecules: Path, tmp_path: Path) -> None:
    head, rows = [], []
    for line in two_molecules.read_text().splitlines(keepends=True):
        (rows if "@" in line else head).append(line.replace("@", f"@{two_molecules.parent}/"))
    rows = [line for number, line in enumerate(rows) if number % 2 == 0 or number < 160]
    (tmp_path / "uneven.star").write_text("".join(head + rows))
    words = (*WORDS, "--basis.within", 1, "--basis.model", "linear", "--out", tmp_path / "job")
    assert server.run("reconstruct", tmp_path / "uneven.star", *words) == [0]
    moving, few = folders(tmp_path / "job")
    assert (moving / "latent.npy").exists() and not (few / "latent.npy").exists()
    assert (few / "consensus.mrc").is_file()
    number = int(few.name[-1])
    said = (tmp_path / "job" / "log.txt").read_text()
    assert f"state {number}: too few images to learn a motion from, it is left rigid" in said


def test_particles_that_are_all_of_one_state_may_still_move(server: Any, two_molecules: Path, tmp_path: Path) -> None:
    star = two_molecules.parent / "resting" / "outputs" / "particles.star"
    words = [word for word in WORDS if word != "--no-report"]
    words += ["--basis.within", 1, "--basis.model", "linear", "--out", tmp_path / "job"]
    assert server.run("reconstruct", star, *words) == [0]
    outputs = tmp_path / "job" / "outputs"
    assert not (outputs / "latent.npy").exists()
    assert np.load(outputs / "component_000" / "latent.npy").shape == (EACH, 1)
    said = (tmp_path / "job" / "log.txt").read_text()
    assert "all particles are of one state; motion within states: 1 latent coordinate in state 0" in said
    page = (tmp_path / "job" / "report.html").read_text()
    assert "<h2>One state</h2>" in page and "<h2>Motion within the states</h2>" in page


def test_a_job_killed_within_a_state_resumes_bitwise(server: Any, two_molecules: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    words = ("reconstruct", two_molecules, *WORDS, "--basis.within", 1, "--basis.checkpoint-every", 3, "--out")
    assert server.run(*words, whole) == [0]
    written = []
    for state, lines in ((0, 7), (1, 0), (1, 20)):
        (process,) = server.start(*words, broken)
        server.wait_for_epochs(broken / "outputs" / f"component_{state:03d}", lines)
        os.kill(process, signal.SIGKILL)
        assert server.wait() == [-signal.SIGKILL]
        if state == 1:
            written.append((broken / "outputs" / "component_000" / "particles.star").stat().st_mtime_ns)
    assert server.run(*words, broken) == [0]
    written.append((broken / "outputs" / "component_000" / "particles.star").stat().st_mtime_ns)
    assert len(set(written)) == 1, "a state that was whole was made again"
    said = (broken / "log.txt").read_text()
    assert re.search(r"going on after step \d+ of state 0", said) and re.search(r"after step \d+ of state 1", said)
    made = [path.relative_to(whole) for path in whole.rglob("outputs/**/*") if path.is_file()]
    assert len(made) > 40 and not list((broken / "checkpoints").glob("component*"))
    for path in [*made, Path("metrics.jsonl")]:
        if path.name != "particles.star":  # names the images relative to the job
            assert (broken / path).read_bytes() == (whole / path).read_bytes(), path


def test_two_processes_find_the_motion_of_one(server: Any, two_molecules: Path, tmp_path: Path) -> None:
    words = ("reconstruct", two_molecules, *WORDS, "--basis.within", 1, "--basis.model", "linear", "--out")
    assert server.run(*words, tmp_path / "one") == [0]
    assert server.run(*words, tmp_path / "two", processes=2, said=tmp_path) == [0, 0]
    for one, two in zip(folders(tmp_path / "one"), folders(tmp_path / "two"), strict=True):
        expected, found = np.load(one / "latent.npy"), np.load(two / "latent.npy")
        assert np.abs(found - expected).max() < 1e-2 * expected.std()


# ------------------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize("value", ["many", "-1", "1.5"])
def test_what_is_no_number_of_coordinates_is_refused(
    run_frazil: Any, two_molecules: Path, tmp_path: Path, value: str
) -> None:
    done = run_frazil("reconstruct", two_molecules, *WORDS, f"--basis.within={value}", "--out", tmp_path / "job")
    assert done.code == 2
    assert f"basis.within = '{value}' cannot be used: give a number of coordinates, or auto" in done.stderr


@pytest.mark.parametrize("words", [("--density", "basis"), ("--basis.components", 2)])
def test_motion_within_states_is_refused_where_there_is_one_state_only(
    run_frazil: Any, two_molecules: Path, tmp_path: Path, words: tuple[object, ...]
) -> None:
    done = run_frazil("reconstruct", two_molecules, *words, "--basis.within", "auto", "--out", tmp_path / "job")
    assert done.code == 2
    assert "--basis.within: there is one state only, and motion within states needs several" in done.stderr
    assert not (tmp_path / "job").exists() or not (tmp_path / "job" / "outputs" / "consensus.mrc").exists()
