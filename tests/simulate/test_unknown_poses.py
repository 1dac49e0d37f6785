"""What `frazil simulate particles` makes for reconstruction from unknown poses: orientations, junk, tilt pairs, errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from frazil.cli import main
from frazil.data.stack import read_particles, write_particles_star
from frazil.data.truth import read_truth
from frazil.numerics.rotations import geodesic_angle
from frazil.physics.grid import Grid
from frazil.simulate.junk import KINDS, Junk
from frazil.simulate.orientations import PREFERRED_AXIS, OrientationLaw

SMALL = ["--set", "rigid", "--box", "16", "--pixel-size", "14"]


def simulate(folder: Path, *flags: str) -> Path:
    assert main(["simulate", "particles", *SMALL, *flags, "--out", str(folder)]) == 0
    return folder / "outputs"


def facts(outputs: Path) -> dict:
    return json.loads((outputs / "truth/truth.json").read_text())["facts"]


def complaint(capsys, *flags: str) -> str:
    capsys.readouterr()
    assert main(["simulate", "particles", *SMALL, *flags]) == 2
    return capsys.readouterr().err


def degrees_from_axis(rotation) -> np.ndarray:
    cosine = np.asarray(rotation)[:, 2] @ np.array(PREFERRED_AXIS)
    return np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))


# --- orientations -------------------------------------------------------------------------------------------------


def test_preferred_views_spread_about_their_axis_as_stated():
    rotation = OrientationLaw(spread=8.0, uniform=0.0).draw(4000, torch.Generator().manual_seed(0))
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).double().expand(4000, 3, 3), atol=1e-9)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(4000).double())
    away = degrees_from_axis(rotation)
    # two directions across the axis, 8 degrees each
    assert np.sqrt((away**2).mean()) == pytest.approx(8 * 2**0.5, rel=0.04)


def test_in_plane_angles_of_preferred_views_are_uniform():
    rotation = OrientationLaw(spread=8.0, uniform=0.0).draw(4000, torch.Generator().manual_seed(0))
    psi = Rotation.from_matrix(rotation.mT.numpy()).as_euler("ZYZ")[:, 2]
    assert abs(np.exp(1j * psi).mean()) < 0.05


def test_the_stated_share_of_particles_has_no_preference():
    rotation = OrientationLaw(spread=5.0, uniform=0.4).draw(4000, torch.Generator().manual_seed(1))
    # of uniform views one half lies on the far side
    assert np.mean(degrees_from_axis(rotation) > 90) == pytest.approx(0.2, abs=0.02)


def test_orientation_flags_reach_the_poses_and_leave_everything_else(tmp_path):
    flags = ["--orientations", "preferred", "--orientation-spread", "6", "--orientation-uniform", "0"]
    preferred = simulate(tmp_path / "a", "--count", "200", *flags)
    uniform = simulate(tmp_path / "b", "--count", "200", "--orientations", "uniform")
    truth, other = read_truth(preferred), read_truth(uniform)
    assert degrees_from_axis(truth.rotation).max() < 30
    assert degrees_from_axis(other.rotation).max() > 120
    assert np.array_equal(truth.shift, other.shift)
    assert np.array_equal(np.load(preferred / "truth/defocus.npy"), np.load(uniform / "truth/defocus.npy"))
    assert facts(preferred)["orientation_spread"] == 6
    assert "orientation_spread" not in facts(uniform)


# --- junk -----------------------------------------------------------------------------------------------------------


def test_the_truth_knows_the_stated_share_of_junk_and_the_rest_is_as_without(tmp_path):
    given = ["--count", "40", "--noise", "none", "--ctf", "on", "--seed", "2"]
    outputs, plain = simulate(tmp_path / "a", *given, "--junk", "0.3"), simulate(tmp_path / "b", *given)
    junk = read_truth(outputs).junk
    assert junk.dtype == bool and junk.sum() == 12
    assert read_truth(plain).junk is None
    assert facts(outputs)["junk"] == 0.3 and facts(outputs)["junk_kinds"] == list(KINDS)
    images, clean = (read_particles(one / "particles.star").images(slice(0, 40)) for one in (outputs, plain))
    assert torch.allclose(images[~junk], clean[~junk], atol=1e-4)
    likeness = [
        float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) for a, b in zip(images, clean, strict=True)
    ]
    assert np.nan_to_num(np.array(likeness))[junk].max() < 0.98


def test_noise_is_no_stronger_for_the_junk_among_the_images(tmp_path):
    given = ["--count", "60", "--snr", "0.2"]
    with_junk, plain = simulate(tmp_path / "a", *given, "--junk", "0.5"), simulate(tmp_path / "b", *given)
    assert facts(with_junk)["effective_snr"] == pytest.approx(facts(plain)["effective_snr"], rel=1e-6)


def test_kinds_of_junk_come_in_equal_parts():
    junk = Junk.draw(1000, 0.2, 100.0, torch.Generator().manual_seed(0))
    assert torch.bincount(junk.kind).tolist() == [800, 50, 50, 50, 50]


@pytest.fixture(scope="module")
def each_kind():
    """(clean images, images of each kind by its name) of a noise-free molecule, 3 Å per pixel, without a CTF."""
    from frazil.numerics.fourier import coefficients_to_images
    from frazil.simulate.molecules import generate
    from frazil.simulate.particles import draw_particles
    from frazil.simulate.specimen import RigidDensity, single

    grid = Grid(48, 3.0)
    specimen = RigidDensity(single(generate("rigid", grid, 70.0, 2.0).body.rest))
    drawn = draw_particles(specimen, grid, 80, optics=None, shift_range=6.0, states=1, seed=0, junk=0.9)
    images = coefficients_to_images(drawn.coefficients(slice(0, 80), grid), grid.half_plane())
    return {("molecule", *KINDS)[kind]: images[drawn.junk.kind == kind].double() for kind in range(5)}


def mass(images: torch.Tensor) -> torch.Tensor:
    return images.sum((1, 2))


def test_noise_alone_has_no_object(each_kind):
    assert float(each_kind["noise alone"].abs().max()) == 0


def test_a_piece_of_the_molecule_has_part_of_its_mass(each_kind):
    whole = float(mass(each_kind["molecule"]).mean())
    share = mass(each_kind["a piece of the molecule"]) / whole
    assert float(share.min()) > 0.05
    assert float(share.max()) < 0.95
    assert float(share.mean()) == pytest.approx(0.5, abs=0.12)


def test_two_molecules_have_twice_the_mass_and_stand_off_centre(each_kind):
    pairs = each_kind["two molecules side by side"]
    assert torch.allclose(mass(pairs), 2 * mass(each_kind["molecule"]).mean().expand(len(pairs)), rtol=0.02)
    x = torch.arange(48.0).double() - 24

    def radius(images: torch.Tensor) -> float:
        squared = (images * (x**2 + x[:, None] ** 2)).sum((1, 2)) / images.sum((1, 2))
        return float(squared.mean().sqrt())

    assert radius(pairs) > 1.25 * radius(each_kind["molecule"])


def test_another_object_has_the_contrast_of_the_molecule(each_kind):
    kinds = each_kind["another object of the same contrast"], each_kind["molecule"]
    other, molecule = (float(images.flatten(1).std(dim=1).mean()) for images in kinds)
    assert other == pytest.approx(molecule, rel=0.1)


# --- tilt pairs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    flags = ["--tilt-pairs", "45", "--count", "10", "--states", "4", "--junk", "0.2", "--seed", "1"]
    folder = tmp_path_factory.mktemp("pairs")
    assert main(["simulate", "particles", "--set", "linear-1d", *SMALL[2:], *flags, "--out", str(folder)]) == 0
    return folder / "outputs"


def test_both_views_of_a_particle_share_all_but_pose_and_optics(pairs):
    truth, particles = read_truth(pairs), read_particles(pairs / "particles.star")
    assert truth.count == particles.count == 20
    for values in (truth.latent, truth.state, truth.junk, particles.half_set.numpy(), particles.tilts.particle.numpy()):
        assert np.array_equal(values[::2], values[1::2])
    assert len(np.unique(particles.tilts.particle)) == 10
    assert not np.allclose(truth.shift[::2], truth.shift[1::2], atol=1.0)
    assert not np.allclose(*(particles.optics.defocus_u[first::2] for first in (0, 1)), atol=100)


def test_inspect_tells_of_tilted_views(pairs, capsys):
    capsys.readouterr()
    assert main(["inspect", str(pairs / "particles.star"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tilted_views"] == {"particles": 10, "angle_range": [0.0, 45.0]}


def test_the_second_view_is_the_first_turned_about_the_y_axis_of_the_image(pairs):
    truth, particles = read_truth(pairs), read_particles(pairs / "particles.star")
    first, second = truth.rotation[::2], truth.rotation[1::2]
    angle = np.deg2rad(45)
    y = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    assert np.allclose(second, y @ first, atol=1e-9)
    stage = particles.tilts.stage.numpy()
    assert np.allclose(stage[1::2] @ stage[::2].transpose(0, 2, 1), y, atol=1e-6)


def test_views_are_known_after_selecting_and_writing_again(pairs, tmp_path):
    particles = read_particles(pairs / "particles.star")[np.array([5, 4, 9])]
    write_particles_star(particles, tmp_path / "again.star")
    again = read_particles(tmp_path / "again.star", need_images=False)
    assert again.tilts.particle[0] == again.tilts.particle[1] != again.tilts.particle[2]
    assert again.tilts.angle.tolist() == [45, 0, 45]
    assert torch.allclose(again.tilts.stage, particles.tilts.stage)


@pytest.mark.parametrize("direction", [0.0, 90.0, 200.0])
def test_a_tilt_about_any_axis_of_the_image_leaves_that_axis(direction):
    from frazil.data.tilts import TiltViews

    one = torch.ones(1).double()
    stage = TiltViews(torch.zeros(1).long(), 30 * one, direction * one).stage[0]
    axis = torch.tensor([np.cos(np.deg2rad(direction)), np.sin(np.deg2rad(direction)), 0.0]).double()
    assert torch.allclose(stage @ axis, axis)
    assert float(torch.rad2deg(geodesic_angle(stage, torch.eye(3).double()))) == pytest.approx(30)


def test_groups_of_micrographs_at_one_tilt_each_are_no_views(pairs, tmp_path):
    text = (pairs / "particles.star").read_text()
    alike = tmp_path / "alike.star"
    alike.write_text(text.replace(" 45.0 ", " 0.0 "))
    assert " 45.0 " in text
    assert read_particles(alike, need_images=False).tilts is None
    assert read_particles(simulate(tmp_path / "plain", "--count", "3") / "particles.star").tilts is None


def test_a_tilt_that_is_no_number_is_named(pairs, tmp_path):
    from frazil.errors import InputError

    bad = tmp_path / "bad.star"
    bad.write_text((pairs / "particles.star").read_text().replace(" 45.0 ", " nan ", 1))
    with pytest.raises(InputError, match=r"tilt is not a number.*") as caught:
        read_particles(bad, need_images=False)
    assert "bad.star:2" in str(caught.value) and "rlnMicrographTiltAngle" in str(caught.value)


# --- errors of the table --------------------------------------------------------------------------------------------


def test_the_table_is_disturbed_as_stated_and_the_truth_is_not(tmp_path):
    given = ["--count", "400", "--seed", "3"]
    errors = ["--pose-error", "5", "--shift-error", "4", "--defocus-error", "300"]
    outputs, plain = simulate(tmp_path / "a", *given, *errors), simulate(tmp_path / "b", *given)
    truth, told = read_truth(outputs), read_particles(outputs / "particles.star")
    assert np.array_equal(truth.rotation, read_truth(plain).rotation)
    assert (outputs / "particles.mrcs").read_bytes() == (plain / "particles.mrcs").read_bytes()
    angle = torch.rad2deg(geodesic_angle(told.pose.rotation.double(), torch.from_numpy(truth.rotation)))
    assert float(angle.square().mean().sqrt()) == pytest.approx(5, rel=0.07)
    assert (told.pose.shift.numpy() - truth.shift).std(axis=0) == pytest.approx([4, 4], rel=0.1)
    defocus = np.load(outputs / "truth/defocus.npy")
    error = told.optics.defocus_u.numpy() - defocus[:, 0]
    assert error.std() == pytest.approx(300, rel=0.1)
    assert np.allclose(error, told.optics.defocus_v.numpy() - defocus[:, 1], atol=0.1)
    assert {name: facts(outputs)[name] for name in ("pose_error", "shift_error", "defocus_error")} == {
        "pose_error": 5,
        "shift_error": 4,
        "defocus_error": 300,
    }


def test_disturbed_views_of_a_pair_keep_their_known_tilt(tmp_path):
    outputs = simulate(tmp_path, "--count", "20", "--tilt-pairs", "30", "--pose-error", "10")
    particles, truth = read_particles(outputs / "particles.star"), read_truth(outputs)
    rotation, stage = particles.pose.rotation.double(), particles.tilts.stage
    assert torch.allclose(rotation[1::2], (stage[1::2] @ rotation[::2]), atol=1e-5)
    assert float(torch.rad2deg(geodesic_angle(rotation, torch.from_numpy(truth.rotation))).median()) > 3


def test_a_defocus_error_without_a_ctf_is_refused(tmp_path, capsys):
    said = complaint(capsys, "--defocus-error", "300", "--ctf", "off", "--out", str(tmp_path))
    assert "--defocus-error" in said and "without a CTF" in said


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--junk", "1.0"),
        ("--tilt-pairs", "0"),
        ("--tilt-pairs", "120"),
        ("--orientations", "edge-on"),
        ("--orientation-spread", "0"),
        ("--orientation-uniform", "2"),
        ("--pose-error", "-1"),
        ("--shift-error", "-1"),
    ],
)
def test_values_out_of_range_are_named(tmp_path, capsys, flag, value):
    said = complaint(capsys, flag, value, "--out", str(tmp_path))
    assert flag.removeprefix("--").replace("-", "_") in said and value in said


# --- mixtures -------------------------------------------------------------------------------------------------------


def test_eight_molecules_in_equal_parts_at_an_effective_ratio_are_made_by_flags_alone(tmp_path):
    flags = [
        "--set",
        "mix",
        "--states",
        "8",
        "--count",
        "240",
        "--box",
        "48",
        "--snr",
        "0.15",
        "--snr-pixel-size",
        "8",
    ]
    assert main(["simulate", "particles", *flags, "--out", str(tmp_path)]) == 0
    truth = read_truth(tmp_path)
    assert np.bincount(truth.state).tolist() == [30] * 8
    assert facts(tmp_path / "outputs")["effective_snr"] == pytest.approx(0.15)
    assert read_particles(tmp_path / "outputs/particles.star").grid == Grid(48, 8.0)
