"""`frazil decode`: half-maps and maps from images say what a decoded map is worth; foreign runs are decoded too."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from frazil.cli import main
from frazil.data.cryodrgn import write_latent
from frazil.data.mrc import read_volume
from frazil.physics.field import FieldEnsemble, FieldNetwork
from frazil.physics.grid import Grid


def decode(job: Path, out: Path, *flags: str) -> int:
    return main(["decode", str(job), "--out", str(out), "--device", "cpu", *flags])


def test_a_point_is_decoded_from_both_halves_with_its_resolution(halved_job: Path, tmp_path: Path, capsys) -> None:
    assert decode(halved_job, tmp_path / "d", "--particles", "3,7") == 0
    outputs = tmp_path / "d" / "outputs"
    names = {path.name for path in (outputs / "volumes").iterdir()}
    ends = ("", "_half_a", "_half_b", "_local_resolution")
    assert names == {f"volume_00{i}{end}.mrc" for i in range(2) for end in ends}
    mean, a, b = (read_volume(outputs / "volumes" / f"volume_001{end}.mrc")[0] for end in ends[:3])
    assert 0 < float((a - mean).std()) < 0.03 and float((a - b).std()) > 0
    rows = list(csv.DictReader((outputs / "resolution.csv").open()))
    assert len(rows) == 2 and 6.0 <= float(rows[0]["model_resolution"]) < 20
    assert "median resolution" in capsys.readouterr().out


def test_maps_from_images_show_what_the_model_shows(imaged_job: Path, straight, tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "z.npy", np.array([[-0.7], [0.7]]))
    assert decode(imaged_job, tmp_path / "d", "--latent", str(tmp_path / "z.npy"), "--from-images") == 0
    volumes = tmp_path / "d" / "outputs" / "volumes"
    first, second = (read_volume(volumes / f"volume_00{i}_from_images.mrc")[0] for i in range(2))
    match = torch.nn.functional.cosine_similarity((second - first).flatten(), straight.basis[0].flatten(), dim=0)
    assert float(match) > 0.8
    assert (volumes / "volume_001_from_images_half_b.mrc").exists()
    assert "as many from 300 to 300 images" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "d" / "outputs" / "resolution.csv").open()))
    assert list(rows[0]) == ["map", "images_resolution"]


def test_the_scripts_hold_a_morph_and_find_their_maps(ensemble_job: Path, tmp_path: Path) -> None:
    assert decode(ensemble_job, tmp_path / "d", "--particles", "0-2") == 0
    script = (tmp_path / "d" / "open.cxc").read_text()
    assert "# morph through the maps" in script and "volume morph #1000 frames 20" in script
    scene = json.loads((tmp_path / "d" / "open.mvsj").read_text())
    assert len(scene["snapshots"]) == 3


@pytest.fixture
def foreign_run(tmp_path: Path) -> tuple[Path, FieldEnsemble]:
    """A cryoDRGN run in the layout that train_vae writes, without its CTF and particles; and what it holds."""
    network = FieldNetwork(Grid(12, 2.0), 2, width=16, layers=2, generator=torch.Generator().manual_seed(0))
    state = {"decoder.rand_freqs": network.frequencies / 6}
    layers = [network.perceptron.entry, *network.perceptron.hidden, network.perceptron.output]
    for name, layer in zip(("0", "2.linear", "4.linear", "6"), layers, strict=True):
        state |= {f"decoder.decoder.main.{name}.{part}": value for part, value in layer.state_dict().items()}
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save({"epoch": 4, "model_state_dict": state}, folder / "weights.4.pkl")
    generator = np.random.default_rng(0)
    write_latent(folder / "z.4.pkl", generator.normal(size=(40, 2)), np.full((40, 2), -2.0))
    (folder / "config.yaml").write_text(
        "dataset_args: {norm: [0, 2.0], particles: gone.star}\nlattice_args: {D: 13}\n"
        "model_args: {zdim: 2, pe_type: gaussian, domain: fourier, activation: relu}\n"
    )
    return folder, FieldEnsemble(network)


def test_a_cryodrgn_run_is_decoded_as_a_job_is(foreign_run: tuple[Path, FieldEnsemble], tmp_path: Path) -> None:
    folder, ensemble = foreign_run
    assert decode(folder, tmp_path / "d", "--particles", "5", "--pixel-size", "2") == 0
    found, grid = read_volume(tmp_path / "d" / "outputs" / "volumes" / "volume_000.mrc")
    point = torch.from_numpy(np.load(tmp_path / "d" / "outputs" / "latent.npy")[0])
    expected = 2 * ensemble.density(point).voxels(ensemble.grid)  # images were divided by their norm
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert grid == Grid(12, 2.0)


@pytest.mark.usefixtures("fast_pictures")
def test_a_cryodrgn_run_is_analysed_without_its_particles(foreign_run, tmp_path: Path, capsys) -> None:
    folder, _ = foreign_run
    plain = ["--clusters", "2", "--components", "1", "--steps", "2", "--umap", "never", "--device", "cpu"]
    words = ["analyze", str(folder), "--out", str(tmp_path / "a"), "--pixel-size", "2", *plain]
    assert main(words) == 0
    assert "the particles of this run are no longer there: no tables" in capsys.readouterr().out
    assert (tmp_path / "a" / "report.html").exists() and not (tmp_path / "a" / "outputs" / "states.star").exists()
    assert main([*words[:3], str(tmp_path / "b"), *words[4:], "--keep", "pc1 > 0"]) == 2
    assert "the particles of this run are no longer there, so none can be selected" in capsys.readouterr().err
    assert main([*words[:3], str(tmp_path / "c"), *plain]) == 2
    assert "the pixel size of this run is not known" in capsys.readouterr().err


def test_images_of_a_job_without_latents_are_refused(imaged_job: Path, tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "z.npy", np.zeros((1, 1)))
    for name in ("latent.npy", "latent_covariance.npy"):
        (imaged_job / "outputs" / name).unlink()
    assert decode(imaged_job, tmp_path / "d", "--latent", str(tmp_path / "z.npy"), "--from-images") == 2
    assert "this job holds no latent.npy: its images have no place" in capsys.readouterr().err
