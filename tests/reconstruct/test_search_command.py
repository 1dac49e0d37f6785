"""Poses from nothing as users meet them: found, of several molecules too, flags and messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from frazil.data.mrc import read_volume
from frazil.data.stack import read_particles
from frazil.evaluate.poses import pose_errors, pose_figures
from frazil.inference.coarse_images import read_coarse
from frazil.numerics.masks import soft_sphere
from frazil.numerics.rotations import from_rotation_vector, random_rotations
from frazil.numerics.shells import shell_correlation
from frazil.numerics.symmetry import point_group
from frazil.physics.pose import Pose
from frazil.reconstruct import Config, found_by_search
from frazil.reconstruct.ab_initio import improved, random_guess
from frazil.reconstruct.basis_job import measured_noise
from frazil.reconstruct.diameter import estimated_diameter
from frazil.reconstruct.found_by_search import degrees_apart, still_lost
from frazil.reconstruct.search import search_of

FAST = ("--search.starts", 3, "--search.rounds", 25, "--search.images", 300, "--no-report", "--refine.rounds", 3)


def angles(job: Path, truth: Path) -> dict[str, Any]:
    """Errors of the poses a job found, after alignment."""
    found, true = read_particles(job / "outputs" / "particles.star").pose, read_particles(truth).pose
    assert found is not None and true is not None
    return pose_figures(pose_errors(found, true), 6.0)


def test_poses_are_found_from_nothing(run_frazil: Any, rigid_stack: Path, tmp_path: Path) -> None:
    flags = (*FAST, "--search.resolution", 14, "--search.lowest-resolution", 120, "--search.shift-range", 12)
    done = run_frazil(
        "reconstruct", rigid_stack, "--poses", "search", "--ignore-poses", *flags, "--out", tmp_path / "job"
    )
    assert done.code == 0, done.stderr
    found = angles(tmp_path / "job", rigid_stack)
    assert found["rotation_error_median"] < 4
    assert found["rotation_within_10"] > 0.9
    assert found["shift_error_median_px"] < 0.5
    lines = [json.loads(line) for line in (tmp_path / "job" / "metrics.jsonl").read_text().splitlines()]
    assert [line["start"] for line in lines if "start" in line] == [0, 1, 2]
    said = done.stdout + done.stderr
    assert "the best of them, 2: 50 rounds" in said and "caution" not in said


def test_a_table_without_poses_is_searched_and_the_log_says_where_the_map_is_in_doubt(
    run_frazil: Any, rigid_stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found_by_search, "MANY", -1.0)  # however few particles are lost
    star = rigid_stack.parent / "bare.star"
    text = rigid_stack.read_text()
    for name in ("AngleRot", "AngleTilt", "AnglePsi"):
        text = text.replace(f"_rln{name} ", f"_something{name} ")
    star.write_text(text)
    done = run_frazil(
        "reconstruct", star, *FAST, "--search.diameter", 150, "--search.resolution", 14, "--out", tmp_path / "job"
    )
    assert done.code == 0, done.stderr
    assert "so the map may be wrong" in (tmp_path / "job" / "log.txt").read_text()
    assert angles(tmp_path / "job", rigid_stack)["rotation_error_median"] < 4


def test_given_poses_are_where_a_search_begins(
    run_frazil: Any, disturbed_stack: Path, rigid_stack: Path, tmp_path: Path
) -> None:
    flags = ("--poses", "search", "--no-report", "--refine.rounds", 3, "--out", tmp_path / "job")
    done = run_frazil("reconstruct", disturbed_stack, *flags)
    assert done.code == 0, done.stderr
    assert "the search begins with the map of the poses there are" in (tmp_path / "job" / "log.txt").read_text()
    assert angles(tmp_path / "job", rigid_stack)["rotation_error_median"] < 2


def test_molecules_of_a_mixture_have_maps_of_their_own(run_frazil: Any, rigid_stack: Path, tmp_path: Path) -> None:
    # shifts beyond a range of 15 Å are looked for by centring
    flags = (
        "--search.classes",
        2,
        "--search.rounds",
        5,
        "--search.images",
        100,
        "--search.resolution",
        30,
        "--no-report",
    )
    done = run_frazil(
        "reconstruct",
        rigid_stack,
        "--ignore-poses",
        *flags,
        "--search.shift-range",
        20,
        "--refine.rounds",
        1,
        "--out",
        tmp_path / "job",
    )
    assert done.code == 0, done.stderr
    component = np.load(tmp_path / "job" / "outputs" / "component.npy")
    assert component.shape == (500,) and set(component.tolist()) <= {0, 1}
    particles = read_particles(rigid_stack)
    assert particles.half_set is not None
    halves = [torch.bincount(particles.half_set[torch.from_numpy(component == k)], minlength=2) for k in (0, 1)]
    worth = [number for number, half in enumerate(halves) if int(half.min()) >= 10]
    assert worth
    whole = read_particles(tmp_path / "job" / "outputs" / "particles.star")
    assert whole.optics is not None and whole.pose is not None
    for number in worth:
        own = read_particles(tmp_path / "job" / "outputs" / f"component_{number:03d}" / "particles.star")
        rows = torch.from_numpy(component == number)
        assert own.count == int(rows.sum())
        assert own.optics is not None and own.pose is not None
        assert torch.equal(own.optics.defocus_u, whole.optics.defocus_u[rows])
        assert torch.allclose(own.pose.rotation, whole.pose.rotation[rows])


def test_too_few_particles_are_refused(run_frazil: Any, small_stack: Path, tmp_path: Path) -> None:
    flags = ("--poses", "search", "--ignore-poses", "--search.classes", 5, "--out", tmp_path / "job")
    done = run_frazil("reconstruct", small_stack, *flags)
    assert done.code == 2
    assert "80 particles are too few to find 5 molecule(s) from nothing" in done.stderr
    assert "Give more particles, or --poses given" in done.stderr


def test_the_diameter_of_a_molecule_is_seen_in_images_in_unknown_poses(rigid_stack: Path) -> None:
    particles = read_particles(rigid_stack)
    config = Config(particles=rigid_stack)
    level = search_of(particles, config, 0.9 * particles.grid.extent).level(14.0)
    plane = particles.grid.half_plane(level.low.band)
    images = read_coarse(particles, particles.grid, plane, measured_noise(particles), torch.arange(particles.count))
    found = estimated_diameter(level, images, torch.Generator().manual_seed(0))
    # the generated molecule fills a sphere of 0.75 of the box, thinly at its ends
    assert found == pytest.approx(0.75 * particles.grid.extent, rel=0.2)


@pytest.mark.parametrize("symmetry", ["C1", "D2"])
def test_the_other_hand_is_the_inverted_map(run_frazil: Any, small_stack: Path, tmp_path: Path, symmetry: str) -> None:
    for name, flags in (("one", ()), ("other", ("--flip-hand",))):
        done = run_frazil(
            "reconstruct", small_stack, "--symmetry", symmetry, *flags, "--no-report", "--out", tmp_path / name
        )
        assert done.code == 0, done.stderr
    one, other = (read_volume(tmp_path / name / "outputs" / "half_a.mrc")[0] for name in ("one", "other"))
    # the inversion leaves the central voxel of an even box where it is, and the outermost planes have no mate
    inside = soft_sphere(24, 9, 2)
    inverted = one.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2))
    assert float(shell_correlation(other * inside, inverted * inside)[1:10].min()) > 0.999
    assert float(shell_correlation(other * inside, one * inside)[1:10].min()) < 0.9


def test_the_hand_of_poses_that_are_yet_to_be_found_cannot_be_flipped(
    run_frazil: Any, small_stack: Path, tmp_path: Path
) -> None:
    done = run_frazil("reconstruct", small_stack, "--poses", "search", "--flip-hand", "--out", tmp_path / "job")
    assert done.code == 2
    assert "--flip-hand: a hand can be flipped where there are poses, and these are yet to be found." in done.stderr


def test_no_class_of_a_balanced_start_vanishes(rigid_stack: Path) -> None:
    particles = read_particles(rigid_stack)
    level = search_of(particles, Config(particles=rigid_stack), 150.0).level(24.0)
    plane = particles.grid.half_plane(level.low.band)
    images = read_coarse(particles, particles.grid, plane, measured_noise(particles), torch.arange(particles.count))
    generator = torch.Generator().manual_seed(1)
    guess = random_guess(level, images, 3, 100, generator)
    for _ in range(6):
        guess, _ = improved(level, guess, images, len(images), generator, 0.6, balanced=True)
    power = guess.volumes.square().sum((1, 2, 3))
    assert float(power.min()) > 0.05 * float(power.max())


@pytest.mark.parametrize("group", ["C1", "D2", "O"])
def test_views_that_symmetry_makes_equal_are_at_the_same_place(group: str) -> None:
    generator = torch.Generator().manual_seed(2)
    first, symmetry = random_rotations(40, generator), point_group(group)
    turned = from_rotation_vector(torch.deg2rad(torch.tensor([0.0, 3.0, 0.0]))) @ first
    equal = turned @ symmetry[torch.randint(len(symmetry), (40,), generator=generator)].float()
    assert torch.allclose(degrees_apart(first, equal, symmetry), torch.full((40,), 3.0, dtype=torch.float64), atol=0.02)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--poses", "given", "--ignore-poses"), "--ignore-poses: poses cannot be given and ignored. Leave out one"),
        (("--search.classes", 2), "--search.classes: molecules are told apart in a search, and the table has poses."),
        (
            ("--search.classes", 2, "--poses", "search", "--density", "basis"),
            "--search.classes: 2 molecules are told apart first, and how each one moves is learnt afterwards.",
        ),
    ],
)
def test_settings_that_contradict_a_search_are_refused(
    run_frazil: Any, small_stack: Path, tmp_path: Path, flags: tuple[object, ...], words: str
) -> None:
    done = run_frazil("reconstruct", small_stack, *flags, "--out", tmp_path / "job")
    assert (done.code, words in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(("lost", "doubt"), [(0, None), (14, None), (24, "caution: 24% of the particles")])
def test_a_map_is_in_doubt_where_many_particles_are_still_lost(lost: int, doubt: str | None) -> None:
    rotation = random_rotations(100, torch.Generator().manual_seed(0))
    before = Pose(rotation, torch.zeros(100, 2))
    after = Pose(torch.cat((rotation[:lost].flip(1), rotation[lost:])), before.shift)
    said = still_lost(before, after)
    assert said is None if doubt is None else said is not None and said.startswith(doubt) and "--seed" in said
