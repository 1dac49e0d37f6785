"""`frazil simulate particles` as typed: what it writes, and what it says to wrong input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from frazil.cli import main
from frazil.data.ensemble import load_ensemble
from frazil.data.mrc import read_volume, write_volume
from frazil.data.stack import read_particles
from frazil.data.truth import read_truth
from frazil.simulate import Config
from frazil.simulate.models import read_two_conformations
from frazil.simulate.plans import ASSEMBLY_SHARES

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


def test_the_antibody_stands_at_equal_steps_of_a_full_turn_in_equal_shares(tmp_path):
    flags = ["--set", "igg1d", "--count", "40", "--states", "8", "--box", "16", "--pixel-size", "24"]
    folder = simulate(tmp_path, *flags, "--snr-pixel-size", "24")
    truth, molecule = read_truth(folder), load_ensemble(folder / "outputs/truth")
    assert np.bincount(truth.state).tolist() == [5] * 8
    assert np.allclose(truth.latent[:, 0], truth.state / 8)
    assert molecule.joints[0].high - molecule.joints[0].low == 360
    assert facts(folder)["circular"] == [True]


def test_the_assembly_keeps_the_shares_of_its_states(tmp_path):
    flags = ["--set", "ribo16", "--count", "335", "--box", "16", "--pixel-size", "24", "--snr-pixel-size", "24"]
    truth = read_truth(simulate(tmp_path, *flags))
    found = np.bincount(truth.state, minlength=16)
    assert found.sum() == 335
    assert np.abs(found - 335 * np.array(ASSEMBLY_SHARES) / 335_240).max() < 1
    assert len(truth.volumes) == 16 and truth.latent is None


def test_a_mixture_has_as_many_molecules_as_asked_for(tmp_path):
    flags = ["--set", "mix", "--size", "s", "--states", "3", "--count", "9", "--snr-pixel-size", "12"]
    folder = simulate(tmp_path, *flags)
    truth = read_truth(folder)
    assert np.bincount(truth.state).tolist() == [3, 3, 3]
    volumes = torch.stack([read_volume(path)[0].flatten() for path in truth.volumes])
    assert float(torch.corrcoef(volumes).fill_diagonal_(0).max()) < 0.9


def test_a_rigid_set_has_one_state_and_no_latent(tmp_path):
    truth = read_truth(simulate(tmp_path, "--set", "rigid", *SMALL))
    assert truth.latent is None and len(truth.volumes) == 1 and set(truth.state) == {0}


def test_ratio_zero_is_noise_alone_of_unit_variance_and_the_truth_is_empty(tmp_path):
    folder = simulate(tmp_path, "--snr", "0", "--count", "60", "--box", "16", "--pixel-size", "14", "--states", "2")
    images = read_particles(folder / "outputs/particles.star").images(slice(0, 60))
    assert float(images.var()) == pytest.approx(1, rel=0.05)
    assert facts(folder)["effective_snr"] == 0
    assert all(float(read_volume(path)[0].abs().max()) == 0 for path in read_truth(folder).volumes)


def two_conformations(folder: Path) -> list[Path]:
    """A rod and a hook of the same 40 atoms; the hook is also turned, moved, and its chain has another name."""
    line = "ATOM  {0:5d}  CA  ALA {1}{0:4d}    {2:8.3f}{3:8.3f}{4:8.3f}  1.00  0.00           C\n"
    rod = np.zeros((40, 3))
    rod[:, 0] = 2.0 * np.arange(40)
    hook = rod.copy()
    hook[30:, 1], hook[30:, 0] = 2.0 * np.arange(1, 11), 58
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    paths = []
    for name, chain, points in (("rod.pdb", "A", rod), ("hook.pdb", "B", hook @ turn.T + 5)):
        paths.append(folder / name)
        paths[-1].write_text("".join(line.format(i + 1, chain, *point) for i, point in enumerate(points)) + "END\n")
    return paths


def test_two_models_are_the_ends_of_a_path_with_the_second_laid_on_the_first(tmp_path):
    rod, hook = two_conformations(tmp_path)
    flags = ["--atoms", str(rod), "--atoms-to", str(hook), "--count", "6", "--resolution", "8", "--states", "2"]
    folder = simulate(tmp_path / "sim", *flags)
    truth, path = read_truth(folder), load_ensemble(folder / "outputs/truth")
    assert truth.latent.shape == (6, 1)
    assert facts(folder)["circular"] == [False]
    start, middle, end = path.centres(torch.tensor([[0.0], [0.5], [1.0]]))
    assert torch.allclose(middle, (start + end) / 2, atol=1e-4)
    pairs = torch.cdist(end, end)
    assert float(pairs[0, 39]) == pytest.approx(float(np.hypot(58, 20)), rel=1e-3)
    # no turn brings the hook closer to the rod
    for axis in range(3):
        for angle in (-4.0, 4.0):
            turn = torch.from_numpy(Rotation.from_euler("xyz"[axis], angle, degrees=True).as_matrix())
            assert float((end @ turn.T - start).square().sum()) >= float((end - start).square().sum()) - 1e-6


def test_the_path_between_two_molecules_is_refused(tmp_path, capsys):
    rod, _ = two_conformations(tmp_path)
    other = tmp_path / "other.pdb"
    other.write_text(rod.read_text().replace(" CA ", " N  "))
    assert (
        main(["simulate", "particles", "--atoms", str(rod), "--atoms-to", str(other), "--out", str(tmp_path / "o")])
        == 2
    )
    said = capsys.readouterr().err
    assert "other.pdb" in said and "fewer than half" in said and "rod.pdb" in said


def test_the_path_of_a_real_kinase_has_its_atoms(tmp_path, data_folder):
    folder = data_folder / "models" / "adenylate_kinase"
    start, end = read_two_conformations(folder / "adk_open.pdb.gz", folder / "adk_closed.pdb.gz", 3.0)
    assert len(start.amplitudes) == len(end.amplitudes) > 1500
    moved = (start.centres - end.centres).square().sum(1).mean().sqrt()
    assert 5 < float(moved) < 9  # 7.1 Å between 4AKE and 1AKE


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
        (["--snr", "-0.1"], ["snr", "greater than or equal to 0"]),
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
        (["--size", "xl"], ["size", "'s'"]),
        (["--size", "s", "--atoms", __file__], ["--size", "--count"]),
        (["--atoms-to", __file__], ["--atoms-to", "--atoms"]),
        (["--snr", "0", "--noise", "none"], ["--snr", "empty"]),
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


def test_every_flag_of_the_verb_is_typed_somewhere_in_these_files():
    own = set(Config.model_fields) - {"what", "again", "device", "threads", "memory", "tensorboard"}
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in own if f'"--{name.replace("_", "-")}"' not in text] == []
