"""`frazil evaluate` of results whose poses were found: other frames, wrong poses, junk, references, maps onto maps."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from frazil.cli import main
from frazil.data.ensemble import load_ensemble, save_ensemble
from frazil.data.mrc import read_volume, write_volume
from frazil.data.particle_star import write_new_particles_star, write_particles_star
from frazil.data.stack import read_particles
from frazil.data.truth import read_truth
from frazil.evaluate.frame import Frame
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.jointed import JointedGaussians
from frazil.physics.pose import Pose

GRID = Grid(24, 9.0)
MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
OFFSET = torch.tensor([7.0, -4.0, 5.0], dtype=torch.float64)


def simulate(folder: Path, *flags: object) -> Path:
    given = ["--box", "24", "--pixel-size", "9", "--resolution", "36", "--seed", "3", *map(str, flags)]
    assert main(["simulate", "particles", *given, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    return simulate(tmp_path_factory.mktemp("simulate") / "J001", "--count", 160, "--states", 4, "--junk", 0.1)


def evaluate(capsys, *arguments: object) -> dict:
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def complaint(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    return said


def turn_of(mirrored: bool, seed: int = 1) -> torch.Tensor:
    turn = torch.from_numpy(Rotation.random(random_state=seed).as_matrix())
    return turn @ MIRROR if mirrored else turn


def seen_from(truth, turn: torch.Tensor, offset: torch.Tensor = OFFSET) -> Pose:
    """The true poses told by somebody whose molecule lies otherwise: x_result = turn (x_true + offset)."""
    true = torch.from_numpy(truth.rotation)
    hand = MIRROR if torch.det(turn) < 0 else torch.eye(3, dtype=torch.float64)
    return Pose(hand @ true @ turn.T, torch.from_numpy(truth.shift) - (true @ offset)[:, :2])


def turned_ensemble(molecule: JointedGaussians, turn: torch.Tensor) -> JointedGaussians:
    """The whole moving molecule turned, moved and, with a reflection, mirrored."""

    def place(point) -> tuple[float, float, float]:
        x, y, z = (turn @ (torch.tensor(point, dtype=torch.float64) + OFFSET)).tolist()
        return x, y, z

    def axis(direction) -> tuple[float, float, float]:
        x, y, z = (torch.det(turn) * turn @ torch.tensor(direction, dtype=torch.float64)).tolist()
        return x, y, z

    rest = molecule.straight
    moved = Gaussians((rest.centres.double() + OFFSET) @ turn.T, rest.amplitudes, rest.sigmas)
    joints = tuple(replace(joint, pivot=place(joint.pivot), axis=axis(joint.axis)) for joint in molecule.joints)
    return replace(molecule, straight=moved, joints=joints)


def result_in_its_own_frame(simulated: Path, folder: Path, turn: torch.Tensor, wrong: float = 0.0) -> Path:
    """A flawless reconstruction of an object that lies otherwise, but for a share of wrong poses."""
    outputs, truth = folder / "outputs", read_truth(simulated)
    outputs.mkdir(parents=True)
    molecule = load_ensemble(simulated / "outputs/truth")
    assert isinstance(molecule, JointedGaussians)
    ensemble = turned_ensemble(molecule, turn)
    save_ensemble(outputs, ensemble)
    np.save(outputs / "latent.npy", truth.latent.astype(np.float32))
    real = ~truth.junk
    share = np.bincount(truth.state[real]) / real.sum()
    states = [ensemble.density(torch.from_numpy(latent)).voxels(GRID) for latent in truth.volume_latents]
    mean = sum(part * state for part, state in zip(share, states, strict=True))
    for name in ("consensus.mrc", "half_a.mrc", "half_b.mrc"):
        write_volume(outputs / name, mean.float(), 9.0)
    pose = seen_from(truth, turn)
    lost = torch.randperm(truth.count, generator=torch.Generator().manual_seed(1))[: int(wrong * truth.count)]
    pose.rotation[lost] = torch.from_numpy(Rotation.random(len(lost), random_state=5).as_matrix())
    star = simulated / "outputs/particles.star"
    write_new_particles_star(outputs / "particles.star", star.with_suffix(".mrcs"), GRID, pose=pose)
    return folder


@pytest.mark.parametrize(("mirrored", "wrong"), [(False, 0.2), (True, 0.5)])
def test_everything_is_right_in_whatever_frame_and_with_many_wrong_poses(simulated, tmp_path, capsys, mirrored, wrong):
    folder = result_in_its_own_frame(simulated, tmp_path / "J", turn_of(mirrored), wrong)
    figures = evaluate(capsys, folder, "--truth", simulated, "--images", 6)
    assert figures["particles"]["count"] == 144
    assert figures["poses"]["mirrored"] is mirrored
    assert figures["poses"]["rotation_within_3"] == pytest.approx(1 - wrong, abs=0.06)
    assert figures["poses"]["shift_error_median_px"] < 1e-3
    perfect = figures["consensus"]["perfect_fsc_auc"]
    assert figures["consensus"]["masked"]["fsc_auc"] == pytest.approx(perfect, abs=0.01)
    assert figures["half_maps"]["resolution_0.5_px"] == pytest.approx(2.0)
    for group in ("states", "images"):
        assert figures[group]["fsc_auc"]["mean"] == pytest.approx(perfect, abs=0.01)
        assert figures[group]["resolution_0.5_px"] == {"mean": 2.0, "std": 0.0, "median": 2.0}
        assert figures[group]["difference_map_correlation"]["median"] > 0.97
    assert figures["images"]["exact"] is True


def test_without_poses_a_result_is_brought_into_the_frame_by_its_consensus(simulated, tmp_path, capsys):
    folder = result_in_its_own_frame(simulated, tmp_path / "J", turn_of(True))
    (folder / "outputs/particles.star").unlink()
    lost = evaluate(capsys, folder, "--truth", simulated, "--images", 2)
    assert lost["images"]["fsc_auc"]["mean"] < 0.35
    figures = evaluate(capsys, folder, "--truth", simulated, "--images", 2, "--align")
    assert figures["alignment"]["mirrored"] is True
    assert figures["images"]["fsc_auc"]["mean"] > 0.44


@pytest.mark.parametrize("kind", ["map", "job", "simulation"])
def test_a_map_is_aligned_before_it_is_compared(simulated, tmp_path, capsys, kind):
    folder = result_in_its_own_frame(simulated, tmp_path / "J", turn_of(False, seed=4))
    truth = read_truth(simulated)
    write_volume(tmp_path / "true.mrc", sum(read_volume(path)[0] for path in truth.volumes), 9.0)
    consensus, true_map = folder / "outputs/consensus.mrc", tmp_path / "true.mrc"
    pair = {"map": (consensus, true_map), "job": (folder, true_map), "simulation": (consensus, simulated)}[kind]
    assert evaluate(capsys, pair[0], "--truth", pair[1])["map"]["fsc_auc"] < 0.35
    figures = evaluate(capsys, pair[0], "--truth", pair[1], "--align")
    assert figures["map"]["fsc_auc"] > 0.44
    assert figures["alignment"]["mirrored"] is False
    assert figures["alignment"]["moved_by"] == pytest.approx(float(OFFSET.norm()), abs=1.0)
    expected = np.rad2deg(Rotation.random(random_state=4).magnitude())
    assert figures["alignment"]["turned_by"] == pytest.approx(expected, abs=1.5)


def test_junk_does_not_count_and_what_was_thrown_out_is_judged(simulated, tmp_path, capsys):
    folder = result_in_its_own_frame(simulated, tmp_path / "J", turn_of(False))
    truth, particles = read_truth(simulated), read_particles(simulated / "outputs/particles.star")
    assert truth.junk.sum() == 16
    kept = ~truth.junk
    kept[np.flatnonzero(truth.junk)[:4]] = True  # 4 of 16 are missed
    kept[np.flatnonzero(~truth.junk)[:12]] = False  # 12 of 144 are lost
    write_particles_star(particles[np.flatnonzero(kept)], folder / "outputs/good.star")
    figures = evaluate(capsys, folder, "--truth", simulated, "--images", 0)
    assert figures["junk"] == {"recall": 0.75, "precision": 0.5, "molecules_lost": pytest.approx(12 / 144)}


def test_a_result_of_some_of_the_particles_is_judged_by_those(simulated, tmp_path, capsys):
    truth, particles = read_truth(simulated), read_particles(simulated / "outputs/particles.star")
    rows = np.flatnonzero(~truth.junk)[5:100][::-1].copy()
    outputs = tmp_path / "J/outputs"
    outputs.mkdir(parents=True)
    write_particles_star(particles[rows], outputs / "particles.star")
    np.save(outputs / "latent.npy", truth.latent[rows])
    figures = evaluate(capsys, tmp_path / "J", "--truth", simulated)
    assert figures["particles"]["count"] == 95
    assert figures["poses"]["rotation_error_mean"] < 1e-3
    assert figures["latent"]["spearman_pc1"] > 0.999


def test_disturbed_tables_are_judged_by_what_was_put_in(tmp_path, capsys):
    sim = simulate(
        tmp_path / "sim", "--set", "rigid", "--count", 300, "--snr", 1, "--pose-error", 5, "--shift-error", 9
    )
    outputs = tmp_path / "J/outputs"
    outputs.mkdir(parents=True)
    write_particles_star(read_particles(sim / "outputs/particles.star"), outputs / "particles.star")
    figures = evaluate(capsys, tmp_path / "J", "--truth", sim, "--images", 2, "--oracle")
    # the angle of a turn with equal Gaussian components has a median of 0.888 of its root mean square
    assert figures["poses"]["rotation_error_median"] == pytest.approx(0.888 * 5, rel=0.1)
    assert figures["poses"]["shift_error_rms_px"] == pytest.approx(2**0.5, rel=0.1)
    assert figures["oracle"]["images"]["fsc_auc"]["mean"] > 0.42  # at true poses, not at those of the table


def test_classes_of_a_mixture_are_judged_in_frames_of_their_own(tmp_path, capsys):
    flags = [
        "--set",
        "mix",
        "--states",
        "3",
        "--count",
        "90",
        "--snr",
        "1",
        "--pixel-size",
        "16",
        "--snr-pixel-size",
        "16",
    ]
    sim = simulate(tmp_path / "sim", *flags)
    truth, outputs = read_truth(sim), tmp_path / "J/outputs"
    outputs.mkdir(parents=True)
    turns = [turn_of(mirrored, seed) for seed, mirrored in enumerate((True, False, True))]
    poses = [seen_from(truth, turn, 0 * OFFSET) for turn in turns]
    rotation = torch.stack([poses[state].rotation[row] for row, state in enumerate(truth.state)])
    pose = Pose(rotation, torch.from_numpy(truth.shift))
    star = sim / "outputs/particles.star"
    write_new_particles_star(outputs / "particles.star", star.with_suffix(".mrcs"), Grid(24, 16.0), pose=pose)
    component = np.array([2, 0, 1])[truth.state]
    np.save(outputs / "component.npy", component)
    for label, state in ((2, 0), (0, 1), (1, 2)):
        (outputs / f"component_{label:03d}").mkdir()
        there = Frame(turns[state].T, 0 * OFFSET).into_truth(read_volume(truth.volumes[state])[0], Grid(24, 16.0))
        write_volume(outputs / f"component_{label:03d}/consensus.mrc", there, 16.0)
    figures = evaluate(capsys, tmp_path / "J", "--truth", sim)
    assert figures["components"]["accuracy"] == 1.0
    assert figures["class_poses"]["rotation_error_mean"] < 1e-3
    assert figures["class_poses"]["classes_mirrored"] == 2
    assert figures["poses"]["rotation_within_10"] < 0.5
    assert figures["class_maps"]["count"] == 3
    assert figures["class_maps"]["fsc_auc"]["mean"] > 0.42


# --- another program's poses ----------------------------------------------------------------------------------------


@pytest.fixture
def two_tables(tmp_path) -> tuple[Path, Path]:
    """A reference of 60 particles with D2, and a result of 50 of them elsewhere, turned, every fifth pose wrong."""
    true = Pose.random(60, 10.0, torch.Generator().manual_seed(2), torch.float64)
    reference, result = tmp_path / "reference.star", tmp_path / "job/outputs/particles.star"
    write_new_particles_star(reference, tmp_path / "particles.mrcs", GRID, pose=true)
    result.parent.mkdir(parents=True)
    rows = np.arange(60)[::-1][:50].copy()
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    rotation = true.rotation.clone()
    rotation[::2] = rotation[::2] @ half_turn
    rotation[::5] = torch.from_numpy(Rotation.random(12, random_state=3).as_matrix())
    pose = Pose(rotation @ turn_of(False).T, true.shift)[torch.from_numpy(rows)]
    names = [f"{row + 1:06d}@elsewhere/particles.mrcs" for row in rows]
    write_new_particles_star(result, tmp_path / "other.mrcs", GRID, pose=pose)
    lines = result.read_text().splitlines()
    kept = [line for line in lines if "@" not in line and "frazilUid" not in line]
    where = [line for line in lines if "@" in line]
    renamed = [line.replace(line.split()[0], name) for line, name in zip(where, names, strict=True)]
    uids = {line.split()[-1] for line in where}
    renamed = [" ".join(word for word in line.split() if word not in uids) for line in renamed]
    result.write_text("\n".join([*kept, *renamed, ""]))
    return tmp_path / "job", reference


def test_poses_are_compared_with_those_of_another_table_by_image_and_modulo_symmetry(two_tables, capsys):
    job, reference = two_tables
    figures = evaluate(capsys, job, "--truth", reference, "--symmetry", "D2")
    assert figures["particles"] == {"count": 50, "in_result": 50, "in_reference": 60, "in_both": 50}
    assert figures["poses"]["rotation_within_3"] == pytest.approx(0.8)
    assert figures["poses"]["rotation_error_median"] < 1e-3
    alone = evaluate(capsys, job / "outputs/particles.star", "--truth", reference)
    assert alone["poses"]["rotation_within_3"] < 0.6


def test_only_listed_particles_count(two_tables, tmp_path, capsys):
    job, reference = two_tables
    right = [row for row in range(1, 61) if (row - 1) % 5]
    (tmp_path / "right.txt").write_text("".join(f"{row}\n" for row in right))
    (tmp_path / "names.txt").write_text("".join(f"{row:06d}@some/folder/particles.mrcs\n" for row in right))
    particles = read_particles(reference, need_images=False)
    write_particles_star(particles[np.array(right) - 1], tmp_path / "right.star", images="keep")
    for name in ("right.txt", "names.txt", "right.star"):
        listed = ("--particles", tmp_path / name, "--symmetry", "D2")
        figures = evaluate(capsys, job, "--truth", reference, *listed)
        assert figures["particles"]["count"] == 40
        assert figures["poses"]["rotation_within_3"] == 1.0


def test_listed_particles_of_a_simulation_count_alone(simulated, tmp_path, capsys):
    folder = result_in_its_own_frame(simulated, tmp_path / "J", turn_of(False))
    (tmp_path / "some.txt").write_text("\n".join(str(row) for row in range(1, 41)))
    figures = evaluate(capsys, folder, "--truth", simulated, "--images", 0, "--particles", tmp_path / "some.txt")
    assert figures["particles"]["count"] == int((~read_truth(simulated).junk[:40]).sum())
    assert figures["latent"]["spearman_pc1"] > 0.999


def test_lists_and_tables_that_do_not_fit_are_one_clear_line(two_tables, simulated, tmp_path, capsys):
    job, reference = two_tables
    bad = tmp_path / "bad.txt"
    for text in ("1\n61\n", "1\n000007@other.mrcs\n", "1\nparticle 7\n"):
        bad.write_text(text)
        said = complaint(capsys, job, "--truth", reference, "--particles", bad)
        assert "bad.txt:2" in said and "one per line" in said
    bad.write_text("5\n6\n")  # the result has the last 50
    assert "no listed particle" in complaint(capsys, job, "--truth", reference, "--particles", bad)
    assert "--particles" in complaint(capsys, job, "--truth", reference, "--particles", tmp_path / "nowhere.txt")
    strange = tmp_path / "strange.star"
    write_new_particles_star(strange, tmp_path / "strange.mrcs", GRID, pose=Pose.identity(60))
    said = complaint(capsys, job, "--truth", strange)
    assert "no image of it is in strange.star" in said
    without = tmp_path / "without.star"
    write_new_particles_star(without, tmp_path / "p.mrcs", GRID, count=3)
    said = complaint(capsys, job, "--truth", without)
    assert "without.star" in said and "no poses" in said
    bad.write_text("")
    folder = result_in_its_own_frame(simulated, tmp_path / "J", turn_of(False))
    assert "no particle is left" in complaint(capsys, folder, "--truth", simulated, "--particles", bad)
    volume = read_truth(simulated).volumes[0]
    for truth in (volume, simulated):
        said = complaint(capsys, volume, "--truth", truth, "--particles", bad)
        assert "--particles" in said and "no particles" in said


def test_alignment_of_what_has_no_map_is_refused(two_tables, simulated, tmp_path, capsys):
    job, reference = two_tables
    assert "--align" in complaint(capsys, job, "--truth", reference, "--align")
    folder = result_in_its_own_frame(simulated, tmp_path / "J", turn_of(False))
    (folder / "outputs/consensus.mrc").unlink()
    said = complaint(capsys, folder, "--truth", simulated, "--align")
    assert "no consensus.mrc" in said and "--align" in said


def test_an_empty_map_cannot_be_aligned(tmp_path, capsys):
    write_volume(tmp_path / "empty.mrc", torch.zeros(16, 16, 16), 2.0)
    write_volume(tmp_path / "full.mrc", torch.rand(16, 16, 16), 2.0)
    assert "empty map" in complaint(capsys, tmp_path / "empty.mrc", "--truth", tmp_path / "full.mrc", "--align")


def test_real_particles_are_compared_where_their_poses_are_trusted(data_folder, tmp_path, capsys):
    folder = data_folder / "apoferritin" / "particles"
    agreement = np.genfromtxt(folder / "pose_agreement.csv", delimiter=",", skip_header=1)
    consistent = agreement[(agreement[:, 1] < 8) & (agreement[:, 3] < 8), 0].astype(int)
    (tmp_path / "consistent.txt").write_text("\n".join(map(str, consistent)))
    particles = read_particles(folder / "particles.star", need_images=False)
    # told by somebody with another of the 24 frames and the other hand, who is wrong where nobody is sure
    rotation = MIRROR @ particles.pose.rotation.double() @ MIRROR
    doubtful = np.setdiff1d(np.arange(1000), consistent - 1)
    rotation[doubtful] = torch.from_numpy(Rotation.random(len(doubtful), random_state=1).as_matrix())
    write_particles_star(particles, tmp_path / "other.star", pose=Pose(rotation, particles.pose.shift.double()))
    given = (tmp_path / "other.star", "--truth", folder / "particles.star", "--symmetry", "O")
    trusted = evaluate(capsys, *given, "--particles", tmp_path / "consistent.txt")
    assert trusted["particles"]["count"] == len(consistent) < trusted["particles"]["in_both"] == 1000
    assert trusted["poses"]["rotation_error_mean"] < 0.01
    assert trusted["poses"]["mirrored"] is True
    assert evaluate(capsys, *given)["poses"]["rotation_within_3"] == pytest.approx(len(consistent) / 1000, abs=0.03)
