"""`frazil decode`: the maps it writes are the ensemble's, and what cannot be decoded is told in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from frazil.cli import main
from frazil.data.mrc import read_volume


def _decode(job: Path, out: Path, *flags: str) -> int:
    return main(["decode", str(job), "--out", str(out), "--device", "cpu", *flags])


def test_maps_of_latent_points_are_those_of_the_ensemble(ensemble_job: Path, straight, tmp_path: Path) -> None:
    points = np.array([[0.0, 0, 0], [1.5, -1, 0.5]])
    np.save(tmp_path / "z.npy", points)
    assert _decode(ensemble_job, tmp_path / "decoded", "--latent", str(tmp_path / "z.npy")) == 0
    outputs = tmp_path / "decoded" / "outputs"
    assert sorted(path.name for path in (outputs / "volumes").iterdir()) == ["volume_000.mrc", "volume_001.mrc"]
    for i, point in enumerate(points):
        values, grid = read_volume(outputs / "volumes" / f"volume_{i:03d}.mrc")
        expected = straight.density(torch.tensor(point, dtype=torch.float32)).voxels(straight.grid)
        torch.testing.assert_close(values, expected)
        assert (grid.box_size, grid.pixel_size) == (16, 3.0)
    np.testing.assert_array_equal(np.load(outputs / "latent.npy"), points.astype(np.float32))


def test_particles_are_decoded_at_their_own_latent(ensemble_job: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("7\n3\n")
    latent = np.load(ensemble_job / "outputs" / "latent.npy")
    for name, flag, rows in (("a", "2,4-5", [2, 4, 5]), ("b", str(tmp_path / "rows.txt"), [7, 3])):
        assert _decode(ensemble_job, tmp_path / name, "--particles", flag) == 0
        np.testing.assert_array_equal(np.load(tmp_path / name / "outputs" / "latent.npy"), latent[rows])


def test_a_smaller_box_has_larger_voxels(ensemble_job: Path, tmp_path: Path) -> None:
    assert _decode(ensemble_job, tmp_path / "small", "--particles", "0", "--box", "8") == 0
    assert read_volume(tmp_path / "small" / "outputs" / "volumes" / "volume_000.mrc")[1].pixel_size == 6.0


def test_the_closing_lines_name_the_maps_and_the_next_command(ensemble_job: Path, tmp_path: Path, capsys) -> None:
    _decode(ensemble_job, tmp_path / "d", "--particles", "0-1")
    made, good, following = capsys.readouterr().out.splitlines()[-3:]
    assert "volumes" in made and "2 maps of 16³ voxels at 3 Å" in good and "chimerax" in following
    script = (tmp_path / "d" / "open.cxc").read_text()
    assert "open outputs/volumes/volume_001.mrc id 2" in script


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((2, 5)), "points of 5 coordinates, the ensemble has 3. Give an array of shape (points, 3)."),
        (np.array([[0, 0, 0], [0, np.nan, 0]]), "point 1 is not finite (1 of 2 are not). Leave it out."),
        (np.zeros((0, 3)), "there is no point in it"),
    ],
)
def test_points_that_do_not_fit_are_refused(ensemble_job: Path, tmp_path: Path, capsys, points, message) -> None:
    np.save(tmp_path / "z.npy", points)
    assert _decode(ensemble_job, tmp_path / "d", "--latent", str(tmp_path / "z.npy")) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and message in errors[0] and str(tmp_path / "z.npy") in errors[0]


def test_a_job_without_ensemble_is_refused(rigid_job: Path, tmp_path: Path, capsys) -> None:
    assert _decode(rigid_job, tmp_path / "d", "--particles", "0") == 2
    assert "this job holds no ensemble, only one rigid map" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--particles", "0", "--latent", "z.npy"]])
def test_points_or_particles_but_not_both(ensemble_job: Path, tmp_path: Path, capsys, flags, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("z.npy", np.zeros((1, 3)))
    assert _decode(ensemble_job, tmp_path / "d", *flags) == 2
    assert "give either --latent or --particles" in capsys.readouterr().err


def test_particles_of_a_job_without_latents_are_refused(ensemble_job: Path, tmp_path: Path, capsys) -> None:
    (ensemble_job / "outputs" / "latent.npy").unlink()
    assert _decode(ensemble_job, tmp_path / "d", "--particles", "0") == 2
    assert "this job holds no latent.npy. Give the points with --latent." in capsys.readouterr().err


def test_decoding_the_same_again_is_already_done(ensemble_job: Path, tmp_path: Path, capsys) -> None:
    _decode(ensemble_job, tmp_path / "d", "--particles", "0")
    assert _decode(ensemble_job, tmp_path / "d", "--particles", "0") == 0
    assert "already done" in capsys.readouterr().out
