"""`frazil evaluate` as typed: a perfect result is perfect, a turned one is turned back, a wrong one is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from frazil.cli import main
from frazil.data.ensemble import load_ensemble, save_ensemble
from frazil.data.mrc import read_volume, write_volume
from frazil.data.particle_star import write_new_particles_star
from frazil.data.stack import read_particles
from frazil.data.truth import read_truth
from frazil.evaluate import Config
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.jointed import JointedGaussians
from frazil.physics.pose import Pose

GRID = Grid(24, 9.0)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("simulate") / "J001"
    flags = ["--count", "120", "--box", "24", "--pixel-size", "9", "--states", "4", "--seed", "3"]
    assert main(["simulate", "particles", *flags, "--out", str(folder)]) == 0
    return folder


def perfect(simulated: Path, folder: Path) -> Path:
    """What a flawless reconstruction would leave."""
    outputs, truth = folder / "outputs", read_truth(simulated)
    outputs.mkdir(parents=True)
    save_ensemble(outputs, load_ensemble(simulated / "outputs/truth"))
    np.save(outputs / "latent.npy", truth.latent.astype(np.float32))
    share = np.bincount(truth.state) / truth.count
    mean = sum(part * read_volume(path)[0] for part, path in zip(share, truth.volumes, strict=True))
    for name in ("consensus.mrc", "half_a.mrc", "half_b.mrc"):
        write_volume(outputs / name, mean, 9.0)
    star = simulated / "outputs/particles.star"
    write_new_particles_star(
        outputs / "particles.star", star.with_suffix(".mrcs"), GRID, pose=read_particles(star).pose
    )
    return folder


def figures_of(capsys, *arguments: object) -> dict:
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def complaint(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    return said


def test_a_perfect_result_has_perfect_figures(simulated, tmp_path, capsys):
    figures = figures_of(capsys, perfect(simulated, tmp_path / "J"), "--truth", simulated, "--images", 5)
    assert figures["poses"]["rotation_error_median"] < 1e-3
    assert figures["poses"]["shift_error_rms_px"] < 1e-3
    assert figures["consensus"]["resolution_0.5_px"] == pytest.approx(2.0)
    assert figures["half_maps"]["fsc_auc"] == pytest.approx(figures["half_maps"]["perfect_fsc_auc"])
    assert figures["latent"]["spearman_pc1"] > 0.999
    assert figures["latent"]["spearman_isomap"] > 0.999
    assert figures["states"]["difference_map_correlation"]["median"] > 0.97
    assert figures["states"]["fsc_auc"]["mean"] == pytest.approx(11 / 24, abs=0.004)
    assert figures["images"]["fsc_auc"]["mean"] == pytest.approx(11 / 24, abs=1e-4)
    assert figures["images"]["exact"] is True
    assert figures["images"]["count"] == 5


def test_without_json_there_is_a_table_for_reading(simulated, tmp_path, capsys):
    folder = perfect(simulated, tmp_path / "J")
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--truth", str(simulated), "--images", "0", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "rotation error median" in said
    assert "{" not in said


def test_a_result_in_another_frame_and_hand_is_turned_back(simulated, tmp_path, capsys):
    """The whole reconstruction turned, moved and mirrored: only interpolation may cost anything."""
    folder = perfect(simulated, tmp_path / "J")
    outputs, truth = folder / "outputs", read_truth(simulated)
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    frame = Pose.random(1, 0.0, torch.Generator().manual_seed(1), torch.float64).rotation[0]
    offset = torch.tensor([7.0, -4.0, 5.0], dtype=torch.float64)
    # x_result = frame mirror (x_true + offset)
    turn = frame @ mirror
    rotation = mirror @ torch.from_numpy(truth.rotation) @ turn.T
    shift = torch.from_numpy(truth.shift) - (torch.from_numpy(truth.rotation) @ offset)[:, :2]
    write_new_particles_star(outputs / "particles.star", outputs / "p.mrcs", GRID, pose=Pose(rotation, shift))
    molecule = load_ensemble(outputs)
    assert isinstance(molecule, JointedGaussians)
    (outputs / "ensemble.json").unlink()
    centres = molecule.centres(torch.from_numpy(truth.volume_latents)).double()
    amount = torch.from_numpy(np.bincount(truth.state) / truth.count)
    still = Gaussians(
        ((centres + offset) @ turn.T).flatten(0, 1),
        (amount[:, None] * molecule.rest.amplitudes).flatten(),
        molecule.rest.sigmas.repeat(len(centres)).double(),
    )
    write_volume(outputs / "consensus.mrc", still.voxels(GRID), 9.0)
    figures = figures_of(capsys, folder, "--truth", simulated)
    assert figures["poses"]["mirrored"] is True
    assert figures["poses"]["rotation_error_median"] < 1e-3
    assert figures["poses"]["shift_error_median"] < 1e-3
    # splines of sharp Gaussians lose the last shells only
    assert figures["consensus"]["shell_0.5"] > 8
    assert min(figures["consensus"]["fsc"][:6]) > 0.97


def test_a_rigid_job_is_judged_by_its_map_alone(simulated, tmp_path, capsys):
    outputs = tmp_path / "J/outputs"
    outputs.mkdir(parents=True)
    shutil.copy(read_truth(simulated).volumes[0], outputs / "consensus.mrc")
    figures = figures_of(capsys, tmp_path / "J", "--truth", simulated)
    assert set(figures) == {"particles", "consensus"}
    assert figures["consensus"]["masked"]["fsc_auc"] < figures["consensus"]["perfect_fsc_auc"]


def test_ten_separate_states_are_judged_by_their_labels(tmp_path, capsys):
    sim, outputs = tmp_path / "sim", tmp_path / "J/outputs"
    flags = ["--set", "discrete-10", "--count", "60", "--box", "16", "--pixel-size", "14"]
    assert main(["simulate", "particles", *flags, "--out", str(sim)]) == 0
    outputs.mkdir(parents=True)
    np.save(outputs / "latent.npy", 10.0 * np.eye(10)[read_truth(sim).state])
    figures = figures_of(capsys, tmp_path / "J", "--truth", sim)
    assert figures["latent"]["adjusted_rand_index"] == 1.0
    assert figures["latent"]["imbalance_latent_to_pose"] > 0.8


def test_maps_are_compared_with_and_without_a_mask(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(16, 16, 16, generator=generator)
    for name in ("a.mrc", "b.mrc"):
        write_volume(tmp_path / name, signal + torch.randn(16, 16, 16, generator=generator), 2.0)
    write_volume(tmp_path / "mask.mrc", torch.ones(16, 16, 16), 2.0)
    pair = (tmp_path / "a.mrc", "--truth", tmp_path / "b.mrc")
    plain = figures_of(capsys, *pair)["map"]
    assert np.mean(plain["fsc"][3:]) == pytest.approx(0.5, abs=0.08)
    masked = figures_of(capsys, *pair, "--mask", tmp_path / "mask.mrc")["map"]
    assert masked["masked"]["fsc_auc"] == pytest.approx(plain["fsc_auc"])
    assert "corrected" in masked


def test_a_map_is_compared_with_the_mean_of_the_true_states(simulated, capsys):
    truth = read_truth(simulated)
    figures = figures_of(capsys, truth.volumes[1], "--truth", simulated)
    assert 0 < figures["map"]["fsc_auc"] < figures["map"]["perfect_fsc_auc"]


def test_a_job_is_compared_with_a_map(simulated, tmp_path, capsys):
    folder = perfect(simulated, tmp_path / "J")
    figures = figures_of(capsys, folder, "--truth", folder / "outputs/half_a.mrc")
    assert figures["map"]["fsc_auc"] == pytest.approx(figures["map"]["perfect_fsc_auc"])


def test_symmetry_is_taken_into_account_for_poses(simulated, tmp_path, capsys):
    folder = perfect(simulated, tmp_path / "J")
    outputs, truth = folder / "outputs", read_truth(simulated)
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    rotation = torch.from_numpy(truth.rotation).clone()
    rotation[1::2] = rotation[1::2] @ half_turn
    pose = Pose(rotation, torch.from_numpy(truth.shift))
    write_new_particles_star(outputs / "particles.star", outputs / "p.mrcs", GRID, pose=pose)
    given = (folder, "--truth", simulated, "--images", 0)
    assert figures_of(capsys, *given, "--symmetry", "C2")["poses"]["rotation_error_mean"] < 1e-3
    assert figures_of(capsys, *given)["poses"]["rotation_error_mean"] > 20


def test_wrong_input_is_one_clear_line(simulated, tmp_path, capsys):
    folder = perfect(simulated, tmp_path / "J")
    outputs = folder / "outputs"
    assert "--truth" in complaint(capsys, folder)
    assert "no such file" in complaint(capsys, tmp_path / "nowhere", "--truth", simulated)
    assert "no such file" in complaint(capsys, folder, "--truth", tmp_path / "nowhere")
    assert "truth.json" in complaint(capsys, folder, "--truth", folder)
    assert "--symmetry" in complaint(capsys, folder, "--truth", simulated, "--symmetry", "Q7")
    (tmp_path / "empty").mkdir()
    assert "nothing here" in complaint(capsys, tmp_path / "empty", "--truth", simulated)
    write_volume(tmp_path / "small.mrc", torch.rand(12, 12, 12), 9.0)
    assert "one grid" in complaint(capsys, tmp_path / "small.mrc", "--truth", outputs / "half_a.mrc")
    assert "12 voxels" in complaint(capsys, folder, "--truth", simulated, "--mask", tmp_path / "small.mrc")


def test_a_job_of_other_particles_is_refused(simulated, tmp_path, capsys):
    folder = perfect(simulated, tmp_path / "J")
    latent = np.load(folder / "outputs/latent.npy")
    np.save(folder / "outputs/latent.npy", latent[:50])
    assert "120 particles" in complaint(capsys, folder, "--truth", simulated)
    latent[7] = np.nan
    np.save(folder / "outputs/latent.npy", latent)
    assert "row 8" in complaint(capsys, folder, "--truth", simulated)
    few = Pose.random(5)
    write_new_particles_star(folder / "outputs/particles.star", folder / "p.mrcs", GRID, pose=few)
    assert "5 particles" in complaint(capsys, folder, "--truth", simulated)
    (folder / "outputs/particles.star").unlink()
    np.save(folder / "outputs/latent.npy", np.nan_to_num(latent))
    write_volume(folder / "outputs/consensus.mrc", torch.rand(24, 24, 24), 4.0)
    assert "wide" in complaint(capsys, folder, "--truth", simulated)


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory) -> dict[str, Path]:
    """A hinge and ten states with so little noise that the oracle must come close."""
    folder = tmp_path_factory.mktemp("sets")
    flags = ["--count", "600", "--box", "24", "--pixel-size", "9", "--snr", "3", "--states", "4"]
    for name in ("linear-1d", "discrete-10"):
        assert main(["simulate", "particles", "--set", name, *flags, "--out", str(folder / name)]) == 0
    return {name: folder / name for name in ("linear-1d", "discrete-10")}


@pytest.mark.parametrize("name", ["linear-1d", "discrete-10"])
def test_the_oracle_stands_beside_every_figure_and_is_good_where_there_is_little_noise(
    two_sets, tmp_path, capsys, name
):
    outputs = tmp_path / "J/outputs"
    outputs.mkdir(parents=True)
    np.save(outputs / "latent.npy", np.random.default_rng(0).normal(size=(600, 2)))
    figures = figures_of(capsys, tmp_path / "J", "--truth", two_sets[name], "--images", 4, "--oracle")["oracle"]
    assert figures["images"]["count"] == 4
    for group in ("states", "images"):
        assert 0.38 < figures[group]["fsc_auc"]["mean"] < figures[group]["perfect_fsc_auc"]
        assert figures[group]["difference_map_correlation"]["median"] > 0.85
        assert figures[group]["resolution_0.5_px"]["mean"] < 2.4
    assert len(figures["states"]["per_state_fsc_auc"]) == (10 if name == "discrete-10" else 4)
    if name == "discrete-10":
        assert figures["classes"]["accuracy"] > 0.99


def test_an_oracle_without_images_is_refused(simulated, tmp_path, capsys):
    shutil.copytree(simulated / "outputs/truth", tmp_path / "truth")
    folder = perfect(simulated, tmp_path / "J")
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--truth", str(tmp_path / "truth"), "--oracle"]) == 2
    said = capsys.readouterr().err
    assert "particles.star" in said and "--oracle" in said


def test_stated_uncertainty_components_and_projected_truth_are_judged(simulated, two_sets, tmp_path, capsys):
    folder = perfect(simulated, tmp_path / "J")
    latent = np.load(folder / "outputs/latent.npy")
    noise = 0.05 * np.random.default_rng(1).normal(size=latent.shape)
    np.save(folder / "outputs/latent.npy", (latent + noise).astype(np.float32))
    np.save(folder / "outputs/latent_covariance.npy", np.full((120, 1, 1), 0.05**2, np.float32))
    figures = figures_of(capsys, folder, "--truth", simulated, "--images", 0)
    assert 0.8 < figures["calibration"]["coverage_90"] < 0.97
    outputs = tmp_path / "K/outputs"
    outputs.mkdir(parents=True)
    np.save(outputs / "component.npy", 9 - read_truth(two_sets["discrete-10"]).state)
    assert figures_of(capsys, tmp_path / "K", "--truth", two_sets["discrete-10"])["components"]["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("latent_covariance.npy", np.zeros((120, 2)), ["covariances of shape (120, 2)", "120 particles"]),
        ("component.npy", np.zeros(7), ["components of shape (7,)", "120 particles"]),
        ("latent.npy", np.full((120, 1), np.nan), ["row 1 is not a number"]),
    ],
)
def test_rows_that_are_not_of_these_particles_are_refused(simulated, tmp_path, capsys, name, values, words):
    folder = perfect(simulated, tmp_path / "J")
    np.save(folder / "outputs" / name, values)
    said = complaint(capsys, folder, "--truth", simulated)
    assert name in said
    for word in words:
        assert word in said


def test_every_flag_of_the_verb_is_typed_somewhere_in_these_files():
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    flags = [name.removeprefix("as_") for name in Config.model_fields if name != "result"]
    assert [name for name in flags if f'"--{name}"' not in text] == []


def test_noise_alone_is_judged_inside_the_sphere_of_the_box_and_agrees_with_nothing(tmp_path, capsys):
    flags = ["--set", "rigid", "--snr", "0", "--count", "60", "--box", "16", "--pixel-size", "14"]
    assert main(["simulate", "particles", *flags, "--out", str(tmp_path / "sim")]) == 0
    (tmp_path / "J/outputs").mkdir(parents=True)
    figures = figures_of(capsys, tmp_path / "J", "--truth", tmp_path / "sim", "--images", 2, "--oracle")["oracle"]
    # shell 0 counts as 1 by definition: half a step of area
    assert figures["images"]["fsc_auc"]["mean"] == pytest.approx(0.5 / 16)
    assert "difference_map_correlation" not in figures["images"]
