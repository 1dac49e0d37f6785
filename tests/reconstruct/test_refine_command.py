"""Joint refinement as its users meet it: disturbed poses come back, files, flags, messages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from frazil.data.mrc import StackWriter, read_volume
from frazil.data.stack import read_particles, write_new_particles_star
from frazil.data.star import read_star, write_star
from frazil.data.table import Table
from frazil.numerics.rotations import geodesic_angle
from frazil.numerics.shells import shell_correlation
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.microscope import Microscope
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose


def area(job: Path, truth: Path) -> float:
    """Mean correlation with the truth over all shells."""
    halves = [read_volume(job / "outputs" / f"half_{half}.mrc")[0] for half in "ab"]
    return float(shell_correlation(halves[0] + halves[1], read_volume(truth)[0])[1:].mean())


def test_what_was_disturbed_comes_back(run_frazil, rigid_stack, disturbed_stack, tmp_path):
    flags = ("--refine.rounds", 4, "--threads", 1)
    for name, star, more in (
        ("true", rigid_stack, ("--no-report",)),
        ("disturbed", disturbed_stack, ("--no-report",)),
        ("refined", disturbed_stack, flags),
    ):
        done = run_frazil("reconstruct", star, *more, "--out", tmp_path / name)
        assert done.code == 0, done.stderr
    truth = next((rigid_stack.parent / "truth" / "volumes").iterdir())
    best, worst, refined = (area(tmp_path / name, truth) for name in ("true", "disturbed", "refined"))
    assert best - worst > 0.05  # it did harm
    assert (refined - worst) / (best - worst) > 0.9
    particles, known = read_particles(tmp_path / "refined/outputs/particles.star"), read_particles(rigid_stack)
    assert particles.pose is not None and known.pose is not None
    angle = torch.rad2deg(geodesic_angle(particles.pose.rotation, known.pose.rotation))
    assert float(angle.median()) < 1.5
    assert float((particles.pose.shift - known.pose.shift).norm(dim=1).median()) < 1.0
    # every column of the input is kept, and one is new
    before, after = (
        read_star(p).blocks[-1].columns for p in (disturbed_stack, tmp_path / "refined/outputs/particles.star")
    )
    assert set(after) - set(before) == {"frazilScale"}
    lines = [json.loads(line) for line in (tmp_path / "refined/metrics.jsonl").read_text().splitlines()]
    rounds = [line for line in lines if "round" in line]
    assert [line["round"] for line in rounds] == list(range(len(rounds))) and len(rounds) > 1
    assert rounds[-1]["agreement"] > rounds[0]["agreement"]
    figures = {path.name for path in (tmp_path / "refined/figures").iterdir()}
    assert {"refinement_fsc.json", "refinement_changes.json"} <= figures
    assert "Refinement" in (tmp_path / "refined/report.html").read_text()


def test_only_what_is_asked_for_is_refined(run_frazil, disturbed_stack, tmp_path):
    flags = (
        "--refine.rounds",
        1,
        "--refine.no-pose",
        "--refine.no-scale",
        "--refine.defocus-prior",
        200,
        "--no-report",
    )
    assert run_frazil("reconstruct", disturbed_stack, *flags, "--out", tmp_path / "job").code == 0
    before, after = read_particles(disturbed_stack), read_particles(tmp_path / "job/outputs/particles.star")
    torch.testing.assert_close(after.pose.rotation, before.pose.rotation, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.pose.shift, before.pose.shift, atol=1e-4, rtol=0)
    assert float((after.optics.defocus_u - before.optics.defocus_u).abs().median()) > 10
    flags = ("--refine.rounds", 1, "--refine.no-defocus", "--no-report", "--refine.scale-prior", 0.05)
    flags += ("--refine.rotation-prior", 0.01, "--refine.shift-prior", 100, "--refine.first-resolution", 30)
    assert run_frazil("reconstruct", disturbed_stack, *flags, "--out", tmp_path / "held").code == 0
    after = read_particles(tmp_path / "held/outputs/particles.star")
    torch.testing.assert_close(after.optics.defocus_u, before.optics.defocus_u)
    turned = torch.rad2deg(geodesic_angle(after.pose.rotation, before.pose.rotation))
    assert float(turned.max()) < 0.2
    assert float((after.pose.shift - before.pose.shift).norm(dim=1).median()) > 1


def test_nothing_to_refine_is_refused(run_frazil, disturbed_stack, tmp_path):
    flags = ("--refine.rounds", 1, "--refine.no-pose", "--refine.no-scale", "--refine.no-defocus")
    done = run_frazil("reconstruct", disturbed_stack, *flags, "--out", tmp_path / "job")
    assert done.code == 2
    assert "there is nothing to refine" in done.stderr and "--refine.no-pose" in done.stderr


def test_a_beam_tilt_without_spherical_aberration_is_refused(run_frazil, disturbed_stack, tmp_path):
    plain = tmp_path / "plain.star"
    text = disturbed_stack.read_text()
    plain.write_text(text.replace("2.7", "0.0", 1).replace("@", f"@{disturbed_stack.parent}/"))
    done = run_frazil("reconstruct", plain, "--refine.rounds", 1, "--refine.beam-tilt", "--out", tmp_path / "job")
    assert done.code == 2
    assert "spherical aberration" in done.stderr and "Leave out --refine.beam-tilt" in done.stderr


def test_the_beam_tilt_of_every_optics_group_is_found_and_written(run_frazil, tmp_path):
    tilts = {1: (1.0, -0.6), 2: (-0.4, 0.9)}
    star, known = tilted_stack(tmp_path, tilts)
    flags = ("--refine.rounds", 3, "--refine.beam-tilt", "--refine.no-defocus", "--no-report", "--threads", 1)
    done = run_frazil("reconstruct", star, *flags, "--out", tmp_path / "job")
    assert done.code == 0, done.stderr
    table = read_star(tmp_path / "job/outputs/particles.star")
    optics = table.blocks[0]
    for row, number in enumerate(optics.integers("rlnOpticsGroup").tolist()):
        found = [float(optics.numbers(f"rlnBeamTilt{axis}")[row]) for axis in "XY"]
        assert found == pytest.approx(tilts[number], abs=0.15)
    particles = read_particles(tmp_path / "job/outputs/particles.star")
    assert particles.pose is not None
    # without the tilt, shifts would have taken its part
    assert float((particles.pose.shift - known.shift).mean(0).norm()) < 0.1


def tilted_stack(folder: Path, tilts: dict[int, tuple[float, float]]) -> tuple[Path, Pose]:
    """Images of Gaussians, 36 pixels of 1.5 Å, in two optics groups whose tilts the star file does not know."""
    generator, grid, count = torch.Generator().manual_seed(4), Grid(36, 1.5), 400
    centres = (8.0 * torch.randn(40, 3, generator=generator, dtype=torch.float64)).clamp(-13, 13)
    one = torch.ones(40, dtype=torch.float64)
    pose = Pose.random(count, 2.0, generator, torch.float64)
    group = torch.arange(count) % 2 + 1
    tilt = torch.tensor([tilts[int(number)] for number in group], dtype=torch.float64)
    defocus = 6000 + 8000 * torch.rand(count, generator=generator, dtype=torch.float64)
    given = {"voltage": 300.0, "cs": 2.7, "amplitude_contrast": 0.1, "defocus_u": defocus}
    optics = Optics.make(**given, beam_tilt_x=tilt[:, 0], beam_tilt_y=tilt[:, 1])
    images = Microscope(Gaussians(centres, one, 1.2 * one)).sample(pose, optics, grid)
    images = images + images.std() * torch.randn(images.shape, generator=generator, dtype=torch.float64)
    with StackWriter(folder / "tilted.mrcs", grid.box_size, grid.pixel_size) as stack:
        stack.append(images.float().numpy())
    star = folder / "tilted.star"
    given = {"pose": pose, "optics": Optics.make(**given), "half_set": torch.arange(count) // 2 % 2}
    write_new_particles_star(star, folder / "tilted.mrcs", grid, **given)
    table = read_star(star)
    shared, particles = table.blocks
    doubled = replace(shared.select(np.array([0, 0])), count=2).with_columns(
        {"rlnOpticsGroup": np.array([1, 2]), "rlnOpticsGroupName": ["first", "second"]}
    )
    write_star(star, Table((doubled, particles.with_columns({"rlnOpticsGroup": group.numpy()})), star), "version 30001")
    return star, pose
