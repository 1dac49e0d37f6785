"""`frazil reconstruct` as its users meet it: files, flags, messages."""

import csv
import json
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from frazil.data.mrc import write_volume
from frazil.data.stack import read_particles
from frazil.numerics.masks import soft_sphere
from frazil.numerics.shells import first_shell_below, shell_correlation

MAPS = ("consensus", "consensus_sharpened", "half_a", "half_b", "mask")


def test_reconstruct_makes_every_promised_file_with_the_pixel_size_of_the_stack(run_frazil, small_stack, tmp_path):
    done = run_frazil("reconstruct", small_stack, "--out", tmp_path / "job", "--threads", 1, "--tensorboard")
    assert done.code == 0, done.stderr
    outputs = tmp_path / "job" / "outputs"
    for name in MAPS:
        with mrcfile.open(outputs / f"{name}.mrc") as file:
            assert file.data.shape == (24, 24, 24)
            assert float(file.voxel_size.x) == pytest.approx(8.0)
    rows = list(csv.DictReader((outputs / "fsc.csv").open()))
    assert [*rows[0]] == ["shell", "resolution", "unmasked", "masked", "randomised", "corrected"]
    assert len(rows) == 13
    assert (tmp_path / "job" / "report.html").stat().st_size > 10_000
    again = read_particles(outputs / "particles.star")
    source = read_particles(small_stack)
    torch.testing.assert_close(again.pose.rotation, source.pose.rotation, atol=1e-5, rtol=0)
    assert [line.split()[0] for line in done.stdout.splitlines()[-3:]] == ["made", "good", "next"]


def test_the_report_is_left_out_when_asked(run_frazil, small_stack, tmp_path):
    assert run_frazil("reconstruct", small_stack, "--no-report", "--out", tmp_path / "job").code == 0
    assert (tmp_path / "job" / "outputs" / "consensus.mrc").exists()
    assert not (tmp_path / "job" / "report.html").exists()


def test_the_same_command_twice_is_already_done(run_frazil, small_stack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_frazil("reconstruct", "--no-report", small_stack).code == 0
    before = (tmp_path / "reconstruct" / "J001" / "outputs" / "consensus.mrc").stat().st_mtime_ns
    assert "already done" in run_frazil("reconstruct", "--no-report", small_stack).stdout
    assert (tmp_path / "reconstruct" / "J001" / "outputs" / "consensus.mrc").stat().st_mtime_ns == before
    assert run_frazil("reconstruct", "--no-report", small_stack, "--again").code == 0
    first, second = (tmp_path / "reconstruct" / f"J00{k}" / "outputs" / "consensus.mrc" for k in (1, 2))
    with mrcfile.open(first) as one, mrcfile.open(second) as two:
        assert np.array_equal(one.data, two.data)


def test_dark_particles_give_the_same_bright_map(run_frazil, small_stack, tmp_path):
    inverted = tmp_path / "inverted"
    shutil.copytree(small_stack.parent, inverted)
    with mrcfile.open(inverted / "particles.mrcs", mode="r+") as file:
        file.set_data(-file.data)
    for star, name in ((small_stack, "bright"), (inverted / "particles.star", "dark")):
        assert (
            f"particles are {name}" in run_frazil("reconstruct", "--no-report", star, "--out", tmp_path / name).stdout
        )
    with (
        mrcfile.open(tmp_path / "bright/outputs/consensus.mrc") as one,
        mrcfile.open(tmp_path / "dark/outputs/consensus.mrc") as two,
    ):
        np.testing.assert_allclose(one.data, two.data, atol=1e-5 * np.abs(one.data).max())
    forced = run_frazil("reconstruct", "--no-report", small_stack, "--contrast", "dark", "--out", tmp_path / "forced")
    assert "particles are dark" in forced.stdout
    with (
        mrcfile.open(tmp_path / "forced/outputs/half_a.mrc") as one,
        mrcfile.open(tmp_path / "dark/outputs/half_a.mrc") as two,
    ):
        np.testing.assert_allclose(one.data, -two.data, atol=1e-5 * np.abs(one.data).max())


def test_symmetry_makes_the_map_symmetric(run_frazil, small_stack, tmp_path):
    flags = ("--symmetry", "C2", "--poses", "given", "--density", "voxels", "--latent-dim", 0, "--device", "cpu")
    assert run_frazil("reconstruct", "--no-report", small_stack, *flags, "--out", tmp_path / "job").code == 0
    with mrcfile.open(tmp_path / "job/outputs/half_a.mrc") as file:
        volume = torch.from_numpy(file.data.copy())
    turned = volume.flip(1, 2).roll((1, 1), (1, 2))
    assert float(shell_correlation(volume, turned)[1:10].min()) > 0.95


def test_a_given_mask_is_used(run_frazil, small_stack, tmp_path):
    write_volume(tmp_path / "sphere.mrc", soft_sphere(24, 6, 3), 8.0)
    mask = ("--mask", tmp_path / "sphere.mrc")
    assert (
        run_frazil("reconstruct", "--no-report", small_stack, *mask, "--out", tmp_path / "job", "--memory", 8).code == 0
    )
    with mrcfile.open(tmp_path / "job/outputs/mask.mrc") as file:
        np.testing.assert_allclose(file.data, soft_sphere(24, 6, 3).numpy(), atol=1e-6)


def test_images_are_found_in_another_folder(run_frazil, small_stack, tmp_path):
    (tmp_path / "moved").mkdir()
    shutil.copy(small_stack, tmp_path / "particles.star")
    shutil.copy(small_stack.parent / "particles.mrcs", tmp_path / "moved")
    done = run_frazil(
        "reconstruct",
        tmp_path / "particles.star",
        "--images",
        tmp_path / "moved",
        "--out",
        tmp_path / "job",
        "--seed",
        3,
    )
    assert done.code == 0, done.stderr


def _star_without(star: Path, target: Path, columns: tuple[str, ...]) -> Path:
    """A copy of a star file that lacks some columns of its last block."""
    lines = star.read_text().splitlines()
    start = max(number for number, line in enumerate(lines) if line.startswith("loop_")) + 1
    end = next(number for number in range(start, len(lines)) if not lines[number].startswith("_"))
    names = [line.split()[0][1:] for line in lines[start:end]]
    keep = [number for number, name in enumerate(names) if name not in columns]
    body = [" ".join(line.split()[number] for number in keep) for line in lines[end:] if line.strip()]
    target.write_text("\n".join([*lines[:start], *(f"_{names[number]}" for number in keep), *body, ""]))
    shutil.copy(star.parent / "particles.mrcs", target.parent)
    return target


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--symmetry", "X7"), "is not a point group"),
        (("--density", "voxels", "--latent-dim", 4), "add --preset cryodrgn"),
        (("--density", "field"), "needs a latent coordinate"),
        (("--latent-dim", 2, "--density", "basis", "--basis.components", 3), "states bring their own coordinates"),
        (("--latent-dim", -1), "greater than or equal to 0"),
        (("--mask", "nowhere.mrc"), "nowhere.mrc"),
        (("--preset", "cryodragon"), "did you mean cryodrgn"),
    ],
)
def test_wrong_settings_are_one_clear_line(run_frazil, small_stack, tmp_path, flags, words):
    done = run_frazil("reconstruct", "--no-report", small_stack, *flags, "--out", tmp_path / "job")
    assert done.code == 2
    assert words.lower() in done.stderr.lower()
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_mask_of_another_box_is_refused(run_frazil, small_stack, tmp_path):
    write_volume(tmp_path / "mask.mrc", soft_sphere(30, 6, 3), 8.0)
    done = run_frazil(
        "reconstruct", "--no-report", small_stack, "--mask", tmp_path / "mask.mrc", "--out", tmp_path / "job"
    )
    assert done.code == 2
    assert "the mask has a box of 30 px, the map one of 24 px" in done.stderr


def test_a_stack_without_poses_is_refused_where_they_are_said_to_be_given(run_frazil, small_stack, tmp_path):
    star = _star_without(small_stack, tmp_path / "p.star", ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"))
    done = run_frazil("reconstruct", "--no-report", star, "--poses", "given", "--out", tmp_path / "job")
    assert done.code == 2
    assert "the stack has no poses. Leave out --poses given and they are searched" in done.stderr


def test_particles_all_in_one_half_set_are_refused(run_frazil, small_stack, tmp_path):
    lines = small_stack.read_text().splitlines()
    place = next(line for line in lines if line.startswith("_rlnRandomSubset"))
    names = [
        line.split()[0] for line in lines[lines.index("loop_", lines.index("data_particles")) + 1 :] if line[:1] == "_"
    ]
    column = names.index(place.split()[0])
    changed = []
    for line in lines:
        words = line.split()
        if "@" in line and len(words) == len(names):
            words[column] = "1"
            line = " ".join(words)
        changed.append(line)
    (tmp_path / "p.star").write_text("\n".join(changed) + "\n")
    shutil.copy(small_stack.parent / "particles.mrcs", tmp_path)
    done = run_frazil("reconstruct", "--no-report", tmp_path / "p.star", "--out", tmp_path / "job")
    assert (done.code, "all particles are in one half-set" in done.stderr) == (2, True)


def test_half_sets_are_drawn_where_the_stack_has_none(run_frazil, small_stack, tmp_path):
    star = _star_without(small_stack, tmp_path / "p.star", ("rlnRandomSubset",))
    assert run_frazil("reconstruct", "--no-report", star, "--out", tmp_path / "job").code == 0
    halves = read_particles(tmp_path / "job/outputs/particles.star").half_set
    assert halves.bincount().tolist() == [40, 40]


def test_an_image_that_is_not_a_number_is_named(run_frazil, small_stack, tmp_path):
    shutil.copytree(small_stack.parent, tmp_path / "sim")
    with mrcfile.open(tmp_path / "sim/particles.mrcs", mode="r+") as file:
        file.data[41, 3, 5] = np.nan
    done = run_frazil("reconstruct", "--no-report", tmp_path / "sim/particles.star", "--out", tmp_path / "job")
    assert done.code == 2
    assert "000042@" in done.stderr or "42" in done.stderr
    assert json.loads((tmp_path / "job/status.json").read_text())["state"] == "failed"


def test_apoferritin_reaches_the_resolution_of_relion(run_frazil, data_folder, tmp_path):
    folder = data_folder / "apoferritin" / "particles"
    assert (
        run_frazil(
            "reconstruct", "--no-report", folder / "particles.star", "--symmetry", "O", "--out", tmp_path / "job"
        ).code
        == 0
    )

    def read(path: Path) -> torch.Tensor:
        with mrcfile.open(path) as file:
            return torch.from_numpy(file.data.copy())

    outputs = tmp_path / "job" / "outputs"
    a, b, ours = (read(outputs / f"{name}.mrc") for name in ("half_a", "half_b", "consensus"))
    extent, sphere = 240.0, soft_sphere(96, 30, 3)
    assert extent / first_shell_below(shell_correlation(a, b), 0.143) <= 7.1
    assert extent / first_shell_below(shell_correlation(a * sphere, b * sphere), 0.5) <= 7.4
    assert float(shell_correlation(ours, read(folder / "map.mrc"))[1:35].min()) >= 0.95
