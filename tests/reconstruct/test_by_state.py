"""Poses of a moving molecule, refined conformation by conformation."""

from __future__ import annotations

import math
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from frazil.cli import main
from frazil.data.stack import Particles, read_particles, write_particles_star
from frazil.engine.job import Job
from frazil.evaluate.latents import isomap_correlation
from frazil.evaluate.poses import pose_errors
from frazil.inference.half_map import HalfMap
from frazil.numerics.rotations import from_rotation_vector
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose
from frazil.reconstruct import Config, found_by_search
from frazil.reconstruct.refine import Refinement, refine
from frazil.reconstruct.refine_report import refinement_section


@pytest.fixture(scope="module")
def turned_hinge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many images of a hinge as tell how it moves."""
    return turned_by_motion(tmp_path_factory.mktemp("hinge"), 900)


@pytest.fixture(scope="module")
def few_turned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough images for work to be done, whatever comes of it."""
    return turned_by_motion(tmp_path_factory.mktemp("few"), 300)


def turned_by_motion(folder: Path, count: int) -> Path:
    """Images of a hinge at poses in which the whole is turned with the conformation, by 12 degrees either way."""
    flags = ["--set", "linear-1d", "--count", count, "--box", 32, "--pixel-size", 8, "--snr", 1, "--seed", 2]
    assert main(["simulate", "particles", *map(str, flags), "--out", str(folder / "sim")]) == 0
    folder = folder / "sim"
    star = folder / "outputs" / "particles.star"
    particles = read_particles(star)
    assert particles.pose is not None
    latent = torch.from_numpy(np.load(folder / "outputs/truth/latent.npy")[:, 0]).double()
    axis = torch.tensor([0.0, 0.28, 0.96], dtype=torch.float64)
    turn = from_rotation_vector(axis * ((2 * latent - 1) * math.radians(12))[:, None])
    turned = Pose((particles.pose.rotation.double() @ turn).float(), particles.pose.shift)
    write_particles_star(particles.given(pose=turned), star.parent / "turned.star")
    return star.parent / "turned.star"


def errors_of(star: Path, truth: Path) -> Tensor:
    found = read_particles(star).pose
    rotation, shift = (torch.from_numpy(np.load(truth / f"{name}.npy")).float() for name in ("rotation", "shift"))
    assert found is not None
    return pose_errors(found, Pose(rotation, shift)).remaining.angle


def error_of(star: Path, truth: Path) -> float:
    """Median, degrees."""
    return float(errors_of(star, truth).median())


def far_share(star: Path, truth: Path) -> float:
    """Particles that are further off than a hinge could turn them."""
    return float((errors_of(star, truth) > 30).double().mean())


def test_frames_that_turn_with_the_conformation_are_turned_back(run_frazil, turned_hinge, tmp_path):
    flags = ("--density", "basis", "--refine.by-state", 1, "--no-report", "--threads", 1)
    done = run_frazil("reconstruct", turned_hinge, *flags, "--out", tmp_path / "job")
    assert done.code == 0, done.stderr
    before = error_of(turned_hinge, turned_hinge.parent / "truth")
    after = error_of(tmp_path / "job/outputs/particles.star", turned_hinge.parent / "truth")
    assert before > 5
    assert after < before / 2
    assert "by conformation 1/1" in (tmp_path / "job/log.txt").read_text()


def test_latents_at_true_poses_follow_the_motion_after_refinement_by_conformation(
    run_frazil: Any, turned_hinge: Path, tmp_path: Path
) -> None:
    flags = ("--density", "basis", "--refine.by-state", 1, "--no-report", "--threads", 1)
    done = run_frazil("reconstruct", turned_hinge.parent / "particles.star", *flags, "--out", tmp_path / "job")
    assert done.code == 0, done.stderr
    latent = np.load(tmp_path / "job/outputs/latent.npy")
    truth = np.load(turned_hinge.parent / "truth/latent.npy")[:, 0]
    # drawn to a few places they would keep their order between these alone
    assert isomap_correlation(latent, truth) > 0.9
    assert error_of(tmp_path / "job/outputs/particles.star", turned_hinge.parent / "truth") < 2


def test_particles_in_a_wrong_place_find_theirs_in_the_map_of_their_conformation(
    run_frazil: Any, turned_hinge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    particles, truth = read_particles(turned_hinge), turned_hinge.parent / "truth"
    assert particles.pose is not None
    generator = torch.Generator().manual_seed(3)
    lost = torch.rand(particles.count, generator=generator) < 0.2
    rotation = particles.pose.rotation.clone()
    rotation[lost] = Pose.random(int(lost.sum()), generator=generator).rotation
    star = turned_hinge.parent / "lost.star"
    write_particles_star(particles.given(pose=Pose(rotation, particles.pose.shift)), star)

    def as_given(particles: Particles, reference: Grid, config: Config, job: Job) -> tuple[Refinement, float]:
        """A search that finds the poses of the table."""
        still = config.model_copy(update={"refine": config.refine.model_copy(update={"rounds": 0})})
        return refine(particles, reference, still, job), 200.0

    monkeypatch.setattr(found_by_search, "poses_by_search", as_given)
    flags = ("--poses", "search", "--density", "basis", "--latent-dim", 1, "--basis.model", "linear", "--threads", 1)
    flags += ("--refine.by-state", 2, "--no-report", "--out", tmp_path / "job")
    done = run_frazil("reconstruct", star, *flags)
    assert done.code == 0, done.stderr
    assert far_share(star, truth) > 0.15
    assert far_share(tmp_path / "job/outputs/particles.star", truth) < 0.05


def test_no_rounds_of_refinement_leave_found_poses_as_they_are(
    run_frazil: Any, turned_hinge: Path, tmp_path: Path
) -> None:
    flags = ("--poses", "amortised", "--density", "basis", "--latent-dim", 1, "--basis.model", "linear")
    flags += ("--amortised.epochs", 1, "--amortised.width", 16, "--amortised.proposals", 8, "--refine.rounds", 0)
    done = run_frazil("reconstruct", turned_hinge, *flags, "--threads", 1, "--no-report", "--out", tmp_path / "job")
    assert done.code == 0, done.stderr
    assert "by conformation" not in (tmp_path / "job" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("flags", "killed_at", "told"),
    [
        (
            ("--latent-dim", 1, "--basis.model", "linear", "--refine.by-state", 2),
            ("basis_1", "by_state_1"),
            "going on after round 1 by conformation",
        ),
        (("--basis.components", 2, "--refine.by-state", 1), ("state_1_00",), "going on after step"),
    ],
    ids=["motion", "states"],
)
def test_killed_refinement_by_conformation_resumes_bitwise(
    server: Any, few_turned: Path, tmp_path: Path, flags: tuple[object, ...], killed_at: tuple[str, ...], told: str
) -> None:
    words = ("reconstruct", few_turned, "--density", "basis", *flags, "--threads", 1, "--no-report", "--out")
    assert server.run(*words, tmp_path / "whole") == [0]
    for made in killed_at:
        (process,) = server.start(*words, tmp_path / "broken")
        while not (tmp_path / "broken" / "checkpoints" / f"{made}.safetensors").exists():
            time.sleep(0.02)
        os.kill(process, signal.SIGKILL)
        assert server.wait() == [-signal.SIGKILL]
    assert server.run(*words, tmp_path / "broken") == [0]
    assert told in (tmp_path / "broken" / "log.txt").read_text()
    for name in ("metrics.jsonl", "outputs/particles.star", "outputs/consensus.mrc", "outputs/latent.npy"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_two_processes_refine_conformations_as_well_as_one_does(
    server: Any, turned_hinge: Path, tmp_path: Path
) -> None:
    flags = ("--density", "basis", "--latent-dim", 1, "--basis.model", "linear", "--refine.by-state", 1)
    words = ("reconstruct", turned_hinge, *flags, "--threads", 1, "--no-report", "--out")
    errors: list[float] = []
    for processes in (1, 2):
        job = tmp_path / str(processes)
        assert server.run(*words, job, processes=processes) == [0] * processes
        errors.append(error_of(job / "outputs/particles.star", turned_hinge.parent / "truth"))
    # sums of other parts round otherwise, and clusters of particles near a border then differ
    assert errors[0] == pytest.approx(errors[1], rel=0.15)
    assert max(errors) < error_of(turned_hinge, turned_hinge.parent / "truth") / 2


def test_the_report_tells_of_refinement_by_conformation(turned_hinge: Path) -> None:
    particles = read_particles(turned_hinge)
    grid, count = particles.grid, particles.count
    empty = HalfMap.empty(grid)
    curve = torch.ones(1, grid.box_size // 2 + 1)
    done = Refinement(particles, particles, torch.ones(count), (empty, empty), curve, 0, by_state=2)
    assert "against their own conformations, 2 times" in refinement_section(done).text
    assert "conformation" not in refinement_section(replace(done, by_state=0)).text


def test_moved_poses_of_a_moved_object_see_the_same() -> None:
    generator, grid = torch.Generator().manual_seed(5), Grid(31, 3.0)
    still = 12.0 * torch.randn(20, 3, generator=generator, dtype=torch.float64)
    turn = from_rotation_vector(torch.tensor([0.2, -0.4, 0.3], dtype=torch.float64))
    offset = torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64)
    pose = Pose.random(4, 3.0, generator, torch.float64)
    ones = torch.ones(20, dtype=torch.float64)

    def seen(centres: Tensor, pose: Pose) -> Tensor:
        return Gaussians(centres, ones, 4 * ones).project(pose, grid)

    moved = pose.of_moved_object(turn, offset)
    torch.testing.assert_close(seen(still, moved), seen(still @ turn.T + offset, pose))


def test_refinement_by_conformation_of_one_rigid_map_is_refused(run_frazil, turned_hinge, tmp_path):
    done = run_frazil("reconstruct", turned_hinge, "--refine.by-state", 1, "--out", tmp_path / "job")
    assert done.code == 2
    assert "by conformation" in done.stderr and "--density basis" in done.stderr


def test_refinement_by_conformation_that_may_not_move_poses_is_refused(run_frazil, turned_hinge, tmp_path):
    flags = ("--density", "basis", "--refine.by-state", 1, "--refine.no-pose")
    done = run_frazil("reconstruct", turned_hinge, *flags, "--out", tmp_path / "job")
    assert done.code == 2
    assert "they are to stay" in done.stderr and "--refine.no-pose" in done.stderr
