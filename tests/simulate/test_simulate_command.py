"""`frazil simulate particles` as typed: what it writes, and what it says to wrong input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from frazil.cli import main
from frazil.data.ensemble import load_ensemble
from frazil.data.mrc import read_volume, write_volume
from frazil.data.stack import read_particles
from frazil.data.truth import read_truth
from frazil.simulate import Config

SMALL = ["--count", "12", "--box", "16", "--pixel-size", "14", "--states", "3"]


def simulate(folder: Path, *flags: str) -> Path:
    assert main(["simulate", "particles", *flags, "--out", str(folder)]) == 0
    return folder


def facts(folder: Path) -> dict:
    return json.loads((folder / "outputs/truth/truth.json").read_text())["facts"]


def files(folder: Path) -> dict[str, bytes]:
    outputs = folder / "outputs"
    return {str(path.relative_to(outputs)): path.read_bytes() for path in sorted(outputs.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ["linear-1d", "linear-2d", "circular-1d", "discrete-10"])
def test_a_set_is_a_stack_with_its_truth(tmp_path, name):
    folder = simulate(tmp_path / "sim", "--set", name, *SMALL, "--seed", "4")
    particles, truth = read_particles(folder / "outputs/particles.star"), read_truth(folder)
    assert particles.count == truth.count == 12
    assert (particles.grid.box_size, particles.grid.pixel_size) == (16, 14.0)
    assert np.allclose(particles.pose.rotation, truth.rotation, atol=1e-6)
    assert np.allclose(particles.pose.shift, truth.shift, atol=1e-5)
    assert sorted(set(particles.half_set.tolist())) == [0, 1]
    assert len(truth.volumes) == (10 if name == "discrete-10" else 3)
    assert all(path.exists() for path in truth.volumes)
    defocus = np.load(folder / "outputs/truth/defocus.npy")
    assert np.allclose(defocus[:, 0], particles.optics.defocus_u, rtol=1e-5)
    images = particles.images(slice(0, 12))
    assert images.shape == (12, 16, 16)
    assert torch.isfinite(images).all()
    dimensions = {"linear-1d": 1, "linear-2d": 2, "circular-1d": 1}
    if name in dimensions:
        assert truth.latent.shape == (12, dimensions[name])
        assert facts(folder)["circular"] == [name == "circular-1d"] * dimensions[name]
    else:
        assert truth.latent is None
        assert sorted(truth.state.tolist()) == sorted([*range(10), 0, 1])


def test_the_volumes_of_the_truth_are_those_of_its_molecule(tmp_path):
    folder = simulate(tmp_path, *SMALL)
    truth, molecule = read_truth(folder), load_ensemble(folder / "outputs/truth")
    for path, latent in zip(truth.volumes, truth.volume_latents, strict=True):
        values, grid = read_volume(path)
        assert torch.allclose(molecule.density(torch.tensor(latent)).voxels(grid).float(), values, atol=1e-6)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_ones(tmp_path):
    runs = [simulate(tmp_path / name, *SMALL, "--seed", seed) for name, seed in (("a", "5"), ("b", "5"), ("c", "6"))]
    first, second, third = (files(run) for run in runs)
    assert first == second
    assert first["particles.mrcs"] != third["particles.mrcs"]


def test_without_a_ctf_there_are_no_optics_and_without_noise_images_have_unit_variance(tmp_path):
    folder = simulate(tmp_path, *SMALL, "--ctf", "off", "--noise", "none")
    particles = read_particles(folder / "outputs/particles.star")
    assert particles.optics is None
    assert float(particles.images(slice(0, 12)).flatten(1).var(dim=1).mean()) == pytest.approx(1, rel=0.02)
    assert "effective_snr" not in facts(folder)


def test_the_truth_states_the_ratio_its_definition_and_the_effective_ratio(tmp_path):
    folder = simulate(tmp_path, *SMALL, "--snr", "0.02", "--snr-pixel-size", "7")
    said = facts(folder)
    assert said["snr"] == 0.02
    assert said["snr_pixel_size"] == 7
    assert 0.02 < said["effective_snr"] < 0.081
    assert "after the CTF" in said["snr_definition"]
    assert said["noise_variance"] == pytest.approx(1)


def test_every_optics_flag_reaches_the_star(tmp_path):
    flags = ["--voltage", "200", "--cs", "1.4", "--amplitude-contrast", "0.07", "--defocus", "5000", "6000"]
    flags += ["--astigmatism", "0", "--phase-shift", "90", "--b-factor", "50", "--shift-range", "0"]
    particles = read_particles(simulate(tmp_path, *SMALL, *flags) / "outputs/particles.star")
    optics = particles.optics
    assert float(optics.voltage[0]) == 200
    assert float(optics.cs[0]) == pytest.approx(1.4)
    assert float(optics.amplitude_contrast[0]) == pytest.approx(0.07)
    assert 5000 <= float(optics.defocus_u.min()) <= float(optics.defocus_u.max()) <= 6000
    assert torch.equal(optics.defocus_u, optics.defocus_v)
    assert float(optics.phase_shift[0]) == 90
    assert float(optics.b_factor[0]) == 50
    assert float(particles.pose.shift.abs().max()) == 0


def test_coloured_noise_is_stronger_at_low_frequency(tmp_path):
    flags = ["--noise", "coloured", "--noise-excess", "20", "--noise-length", "60", "--snr", "0.001"]
    folder = simulate(tmp_path, "--count", "60", "--box", "16", "--pixel-size", "14", "--states", "1", *flags)
    images = read_particles(folder / "outputs/particles.star").images(slice(0, 60))
    power = torch.fft.rfft2(images).abs().square().mean(0)
    assert float(power[1, 1] / power[8, 8]) > 4
    assert facts(folder)["noise_excess"] == 20


def test_diameter_and_resolution_change_the_molecule(tmp_path):
    folder = simulate(tmp_path / "a", *SMALL, "--diameter", "60", "--resolution", "40")
    molecule = load_ensemble(folder / "outputs/truth")
    density = molecule.density(torch.tensor([0.5]))
    assert float(density.centres.norm(dim=1).max()) < 30.5
    assert float(density.sigmas[0]) == pytest.approx(9.0)


def test_a_map_gives_box_and_pixel_size_and_one_state(tmp_path):
    values = torch.zeros(16, 16, 16)
    values[5:11, 6:10, 7:12] = 1
    write_volume(tmp_path / "map.mrc", values, 3.0)
    folder = simulate(tmp_path / "sim", "--density", str(tmp_path / "map.mrc"), "--count", "4")
    particles, truth = read_particles(folder / "outputs/particles.star"), read_truth(folder)
    assert (particles.grid.box_size, particles.grid.pixel_size) == (16, 3.0)
    assert truth.state.tolist() == [0] * 4
    assert truth.latent is None
    written, _ = read_volume(truth.volumes[0])
    assert float((written * values).sum() / written.norm() / values.norm()) == pytest.approx(1, abs=1e-5)


def test_atoms_choose_a_box_around_them(tmp_path):
    line = "ATOM  {0:5d}  CA  ALA A{0:4d}    {1:8.3f}{2:8.3f}{3:8.3f}  1.00  0.00           C\n"
    places = np.random.default_rng(0).normal(size=(20, 3)) * 6
    model = tmp_path / "model.pdb"
    model.write_text("".join(line.format(row + 1, *place) for row, place in enumerate(places)) + "END\n")
    folder = simulate(tmp_path / "sim", "--atoms", str(model), "--count", "3", "--resolution", "6")
    grid = read_particles(folder / "outputs/particles.star").grid
    assert grid.pixel_size == 3
    assert 1.4 < grid.extent / (2 * np.linalg.norm(places - places.mean(0), axis=1).max()) < 1.8


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--snr", "-0.1"], ["snr", "greater than 0"]),
        (["--snr", "inf"], ["snr", "finite"]),
        (["--set", "linear-3d"], ["set", "linear-1d"]),
        (["--count", "0"], ["count", "1"]),
        (["--box", "4"], ["box", "8"]),
        (["--pixel-size", "0"], ["pixel_size", "greater than 0"]),
        (["--noise", "pink"], ["noise", "white"]),
        (["--amplitude-contrast", "1.5"], ["amplitude_contrast", "1"]),
        (["--defocus", "20000", "10000"], ["--defocus", "smaller defocus first"]),
        (["--atoms", "nowhere.pdb"], ["nowhere.pdb", "no such file"]),
        (["--density", "nowhere.mrc"], ["nowhere.mrc"]),
        (["--set", "linear-1d", "--atoms", __file__], ["--set", "--atoms", "one of them"]),
        (["--diameter", "1000"], ["--diameter", "does not fit"]),
        (["--states", "0"], ["states", "1"]),
        (["--volts", "3"], ["volts"]),
    ],
)
def test_wrong_input_is_one_clear_line_and_exit_code_two(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", "particles", *flags, "--out", str(tmp_path / "sim")]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    for word in words:
        assert word in said


def test_images_finer_than_the_map_are_refused(tmp_path, capsys):
    write_volume(tmp_path / "map.mrc", torch.rand(16, 16, 16), 3.0)
    flags = ["--density", str(tmp_path / "map.mrc"), "--pixel-size", "1", "--box", "48"]
    assert main(["simulate", "particles", *flags, "--out", str(tmp_path / "sim")]) == 2
    assert "more than the map" in capsys.readouterr().err


def test_atoms_that_do_not_fit_the_box_are_refused_with_a_box_that_does(tmp_path, capsys):
    line = "ATOM  {0:5d}  CA  ALA A{0:4d}    {1:8.3f}{1:8.3f}{1:8.3f}  1.00  0.00           C\n"
    (tmp_path / "model.pdb").write_text(line.format(1, 0.0) + line.format(2, 50.0) + "END\n")
    flags = ["--atoms", str(tmp_path / "model.pdb"), "--box", "20", "--pixel-size", "2"]
    assert main(["simulate", "particles", *flags, "--out", str(tmp_path / "sim")]) == 2
    assert "Use --box" in capsys.readouterr().err


def test_every_flag_of_the_verb_is_typed_somewhere_in_this_file():
    own = set(Config.model_fields) - {"what", "again", "device", "threads", "memory", "tensorboard"}
    text = Path(__file__).read_text()
    assert [name for name in own if f'"--{name.replace("_", "-")}"' not in text] == []
