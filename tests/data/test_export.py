"""frazil export: the same particles in other programs' conventions and units."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from frazil.data.cryodrgn import read_ctf, read_pose, write_ctf, write_indices, write_pose
from frazil.data.stack import Particles, read_particles
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose


def assert_same(a: Particles, b: Particles, images: bool = True) -> None:
    assert a.count == b.count and a.uid.tolist() == b.uid.tolist() and a.grid == b.grid
    assert a.pose is not None and b.pose is not None and a.optics is not None and b.optics is not None
    assert torch.allclose(a.pose.rotation, b.pose.rotation, atol=2e-6)
    assert torch.allclose(a.pose.shift, b.pose.shift, atol=1e-5)
    for one, other in zip(a.optics.__dict__.values(), b.optics.__dict__.values(), strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-5)
    assert a.half_set is not None and b.half_set is not None and a.half_set.tolist() == b.half_set.tolist()
    if images:
        assert torch.equal(a.images(slice(None)), b.images(slice(None)))


def test_star_to_cs_to_star_is_the_same_particles(star: Path, tmp_path: Path, run_frazil: Callable) -> None:
    out = tmp_path / "exported"
    assert run_frazil("export", star, "--to", "cryosparc", "--out", out).code == 0
    cs = out / "outputs/particles.cs"
    assert_same(read_particles(star), read_particles(cs))
    assert run_frazil("export", cs, "--to", "relion", "--out", tmp_path / "back").code == 0
    assert_same(read_particles(star), read_particles(tmp_path / "back/outputs/particles.star"))


def test_cryodrgn_pickles_hold_the_same_poses_and_ctf(star: Path, tmp_path: Path, run_frazil: Callable) -> None:
    assert run_frazil("export", star, "--to", "cryodrgn", "--out", tmp_path / "o").code == 0
    particles = read_particles(star)
    pose = read_pose(tmp_path / "o/outputs/pose.pkl", particles.grid.extent)
    boxes, sizes, optics = read_ctf(tmp_path / "o/outputs/ctf.pkl")
    assert particles.pose is not None and particles.optics is not None
    assert torch.allclose(pose.rotation, particles.pose.rotation, atol=1e-6)
    assert torch.allclose(pose.shift, particles.pose.shift, atol=1e-5)
    assert set(boxes.tolist()) == {16} and set(sizes.tolist()) == {2.5}
    assert torch.allclose(optics.defocus_u, particles.optics.defocus_u)
    with open(tmp_path / "o/outputs/pose.pkl", "rb") as file:
        _, translation = pickle.load(file)
    # rlnOriginXAngst as a fraction of the box
    assert translation[3, 0] == pytest.approx(3.75 / 40)


def test_what_cryodrgn_has_no_room_for_is_said(star: Path, tmp_path: Path, run_frazil: Callable) -> None:
    text = star.read_text().replace("_rlnImageSize #7", "_rlnImageSize #7\n_rlnBeamTiltX\n_rlnBeamTiltY")
    star.write_text(text.replace("2.500000 16 2\n", "2.500000 16 0.1 0.0 2\n"))
    done = run_frazil("export", star, "--to", "cryodrgn", "--out", tmp_path / "o")
    assert done.code == 0
    assert "cryoDRGN has no beam tilt" in done.stdout + done.stderr


def test_numpy_arrays_have_frazils_units(star: Path, tmp_path: Path, run_frazil: Callable) -> None:
    assert run_frazil("export", star, "--to", "numpy", "--out", tmp_path / "o").code == 0
    arrays = np.load(tmp_path / "o/outputs/arrays.npz")
    assert arrays["shift"][3].tolist() == [-3.75, 3.5]
    assert arrays["image_name"][0] == "000001@images.mrcs"
    assert {"uid", "rotation", "defocus_u", "voltage", "pixel_size", "box_size", "half_set", "optics_group"} <= set(
        arrays
    )


def test_images_need_not_be_there(star: Path, tmp_path: Path, run_frazil: Callable) -> None:
    (star.parent / "images.mrcs").unlink()
    for to in ("relion", "cryosparc", "cryodrgn", "numpy"):
        assert run_frazil("export", star, "--to", to, "--out", tmp_path / to).code == 0
    found = read_particles(tmp_path / "relion/outputs/particles.star", need_images=False)
    assert found.table["particles"].text("rlnImageName")[1] == "000002@images.mrcs"


def test_pickles_complete_and_select_particles(star: Path, tmp_path: Path, run_frazil: Callable) -> None:
    pose = Pose.random(6, 5.0, torch.Generator().manual_seed(4))
    optics = Optics.make(voltage=200.0, cs=2.0, amplitude_contrast=0.1, defocus_u=torch.arange(6) * 100.0 + 8000)
    write_pose(tmp_path / "pose.pkl", pose, 40.0)
    write_ctf(tmp_path / "ctf.pkl", optics.to(torch.float32), np.full(6, 16), np.full(6, 2.5))
    write_indices(tmp_path / "ind.pkl", np.array([5, 2]))
    given = ("--poses", tmp_path / "pose.pkl", "--ctf", tmp_path / "ctf.pkl", "--select", tmp_path / "ind.pkl")
    stack = star.parent / "images.mrcs"
    assert run_frazil("export", stack, "--to", "relion", *given, "--out", tmp_path / "o").code == 0
    found = read_particles(tmp_path / "o/outputs/particles.star")
    assert found.count == 2 and found.pose is not None and found.optics is not None
    assert torch.allclose(found.pose.rotation, pose.rotation[[5, 2]], atol=1e-6)
    assert found.optics.defocus_u.tolist() == [8500, 8200] and found.optics.voltage.tolist() == [200, 200]
    assert torch.equal(found.images(slice(None)), read_particles(stack).images([5, 2]))
    # and the fields of a .cs change with them
    cs = run_frazil("export", star, "--to", "cryosparc", *given, "--out", tmp_path / "c")
    assert cs.code == 0
    again = read_particles(tmp_path / "c/outputs/particles.cs").pose
    assert again is not None and torch.allclose(again.rotation, pose.rotation[[5, 2]], atol=2e-6)


def test_wrong_requests_end_with_2_and_one_line(star: Path, tmp_path: Path, run_frazil: Callable) -> None:
    write_indices(tmp_path / "ind.pkl", np.array([9]))
    bare = star.parent / "images.mrcs"
    for arguments, message in (
        ((bare, "--to", "cryodrgn"), "neither poses nor CTF to export"),
        ((star, "--select", tmp_path / "ind.pkl"), "particle 9 is selected, there are 6"),
        ((star, "--to", "eman"), "eman"),
        ((star, "--images", tmp_path / "none"), "no such file or folder"),
        ((star, "--box-size", "0"), "box"),
        ((star, "--pixel-size", "-1"), "pixel"),
        ((star, "--poses", star), "no pickle"),
    ):
        done = run_frazil("export", *arguments, "--out", tmp_path / "o")
        assert done.code == 2, done
        assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
