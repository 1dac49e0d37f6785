"""`frazil reconstruct --density basis` as its users meet it: files, flags, choices, messages."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from frazil.cli import main
from frazil.data.ensemble import load_ensemble
from frazil.data.mrc import read_volume, write_volume
from frazil.data.stack import read_particles
from frazil.engine.job import Job
from frazil.engine.processes import Processes
from frazil.numerics.masks import soft_sphere
from frazil.numerics.shells import low_pass
from frazil.numerics.statistics import spearman
from frazil.reconstruct import Config
from frazil.reconstruct.basis_job import band_that_fits


@pytest.fixture(scope="module")
def moving_stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The star file of 400 hinge images of 24 pixels with little noise."""
    folder = tmp_path_factory.mktemp("moving-stack") / "sim"
    flags = ["--set", "linear-1d", "--count", "400", "--box", "24", "--pixel-size", "8", "--snr", "0.5"]
    flags += ["--resolution", "32", "--seed", "1"]
    assert main(["simulate", "particles", *flags, "--out", str(folder)]) == 0
    return folder / "outputs" / "particles.star"


@pytest.fixture(scope="module")
def learnt(moving_stack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished job with everything chosen by itself."""
    out = tmp_path_factory.mktemp("basis") / "job"
    flags = ["--density", "basis", "--no-report", "--out", str(out), "--basis.passes", "2", "--basis.landmarks", "16"]
    assert main(["reconstruct", str(moving_stack), *flags]) == 0
    return out


def test_the_latent_orders_particles_by_their_true_angle(learnt, moving_stack):
    latent = torch.from_numpy(np.load(learnt / "outputs" / "latent.npy"))
    truth = torch.from_numpy(np.load(moving_stack.parent / "truth" / "latent.npy"))[:, 0]
    assert max(abs(spearman(column, truth)) for column in latent.T) > 0.9


def test_every_promised_file_is_there_and_fits(learnt):
    outputs = learnt / "outputs"
    latent, covariance = np.load(outputs / "latent.npy"), np.load(outputs / "latent_covariance.npy")
    assert latent.dtype == np.float32 and latent.shape[0] == 400
    assert covariance.shape == (400, latent.shape[1], latent.shape[1])
    assert (np.linalg.eigvalsh(covariance) > 0).all()
    whole, a, b = (load_ensemble(outputs / name) for name in ("", "half_a", "half_b"))
    assert whole.latent_dim == a.latent_dim == b.latent_dim == latent.shape[1]
    point = torch.from_numpy(latent[0])
    first, second = (half.density(point).voxels(whole.grid) for half in (a, b))
    assert torch.corrcoef(torch.stack((first.flatten(), second.flatten())))[0, 1] > 0.5
    assert "nats per image of the other half" in (learnt / "log.txt").read_text()


def test_decode_opens_the_ensemble(run_frazil, learnt, tmp_path):
    done = run_frazil("decode", learnt, "--particles", "0,7", "--out", tmp_path / "decoded")
    assert done.code == 0, done.stderr
    assert (tmp_path / "decoded" / "outputs" / "volumes" / "volume_000.mrc").exists()


def test_a_rigid_molecule_gets_no_latent(run_frazil, tmp_path):
    """The hinge at rest: one conformation, whatever is tried."""
    flags = ("--set", "linear-1d", "--count", 300, "--box", 24, "--pixel-size", 8, "--snr", 0.3, "--resolution", 32)
    assert run_frazil("simulate", "particles", *flags, "--out", tmp_path / "sim").code == 0
    volume = tmp_path / "sim" / "outputs" / "truth" / "volumes" / "volume_004.mrc"
    flags = ("--density", volume, "--count", 400, "--snr", 0.3, "--seed", 3)
    assert run_frazil("simulate", "particles", *flags, "--out", tmp_path / "rigid").code == 0
    star = tmp_path / "rigid" / "outputs" / "particles.star"
    words = ("--preset", "frazil", "--basis.most-dimensions", 3)
    done = run_frazil("reconstruct", star, *words, "--out", tmp_path / "job")
    assert done.code == 0, done.stderr
    assert "one rigid structure" in done.stdout
    assert not (tmp_path / "job" / "outputs" / "latent.npy").exists()
    page = (tmp_path / "job" / "report.html").read_text()
    assert "<h2>One rigid structure</h2>" in page and "Nothing moves in these images" in page
    assert json.loads((tmp_path / "job" / "figures" / "gains.json").read_text())["kept"] == 0


def test_a_latent_dimension_alone_means_a_basis_and_disk_gives_what_memory_gives(run_frazil, moving_stack, tmp_path):
    words = ("--latent-dim", 2, "--no-report", "--basis.model", "linear", "--threads", 1, "--basis.resolution", 24)
    for where in ("memory", "disk"):
        done = run_frazil("reconstruct", moving_stack, *words, "--basis.cache", where, "--out", tmp_path / where)
        assert done.code == 0, done.stderr
    for name in ("latent.npy", "latent_covariance.npy", "ensemble.safetensors"):
        one, other = (tmp_path / where / "outputs" / name for where in ("memory", "disk"))
        assert one.read_bytes() == other.read_bytes(), name
    assert np.load(tmp_path / "disk" / "outputs" / "latent.npy").shape == (400, 2)
    # learnt to shell 8, kept on 18 voxels, decoded on 24 as dense as the consensus
    ensemble, (consensus, grid) = (
        load_ensemble(tmp_path / "disk" / "outputs"),
        read_volume(tmp_path / "disk" / "outputs" / "consensus.mrc"),
    )
    assert ensemble.volumes.shape[-1] == 18  # type: ignore[attr-defined]
    decoded, coarse = ensemble.density(torch.zeros(2)).voxels(grid), low_pass(torch.as_tensor(consensus), 7)
    assert float((low_pass(decoded, 7) * coarse).sum() / coarse.square().sum()) == pytest.approx(1, abs=0.15)


def test_changes_are_looked_for_inside_the_focus_mask_only(run_frazil, moving_stack, tmp_path):
    mask = soft_sphere(24, 5.0, 1.0)
    write_volume(tmp_path / "focus.mrc", mask, 8.0)
    words = ("--latent-dim", 1, "--basis.volumes", 3, "--basis.no-scale", "--no-report", "--basis.passes", 1)
    words = (*words, "--basis.focus-mask", tmp_path / "focus.mrc", "--out", tmp_path / "job")
    assert run_frazil("reconstruct", moving_stack, *words).code == 0
    ensemble = load_ensemble(tmp_path / "job" / "outputs")
    directions = ensemble.volumes[1:]  # type: ignore[attr-defined]
    assert directions.shape[0] == 3
    assert float(directions[:, mask == 0].abs().max()) < 1e-3 * float(directions.abs().max())


def test_discrete_states_are_told_apart(run_frazil, tmp_path):
    flags = ("--set", "discrete-10", "--count", 600, "--box", 24, "--pixel-size", 8, "--snr", 1, "--resolution", 32)
    assert run_frazil("simulate", "particles", *flags, "--out", tmp_path / "sim").code == 0
    star = tmp_path / "sim" / "outputs" / "particles.star"
    words = ("--density", "basis", "--basis.components", 10, "--no-report", "--basis.passes", 1)
    done = run_frazil("reconstruct", star, *words, "--out", tmp_path / "job")
    assert done.code == 0, done.stderr
    outputs = tmp_path / "job" / "outputs"
    state = np.load(tmp_path / "sim" / "outputs" / "truth" / "state.npy")
    assert adjusted_rand_score(state, np.load(outputs / "component.npy")) > 0.8
    share, latent = np.load(outputs / "component_probability.npy"), np.load(outputs / "latent.npy")
    np.testing.assert_allclose(share.sum(1), 1, atol=1e-4)
    # states are rigid: their images differ in nothing, however much each of them tells
    for state in range(share.shape[1]):
        sure = latent[share[:, state] > 1 - 1e-6]
        assert len(sure) == 0 or np.ptp(sure, axis=0).max() < 1e-4 * latent.std()


def test_a_focus_mask_of_another_box_is_refused(run_frazil, moving_stack, tmp_path):
    write_volume(tmp_path / "focus.mrc", soft_sphere(20, 5.0, 1.0), 8.0)
    words = ("--latent-dim", 1, "--no-report", "--basis.focus-mask", tmp_path / "focus.mrc", "--out", tmp_path / "job")
    done = run_frazil("reconstruct", moving_stack, *words)
    assert done.code == 2
    assert "the focus mask has a box of 20 px, the map one of 24 px" in done.stderr
    assert not (tmp_path / "job" / "outputs" / "consensus.mrc").exists()


def test_more_states_than_particles_can_fill_are_refused(run_frazil, moving_stack, tmp_path):
    words = ("--density", "basis", "--basis.components", 300, "--out", tmp_path / "job")
    done = run_frazil("reconstruct", moving_stack, *words)
    assert done.code == 2
    assert "300 states of 400 particles" in done.stderr and "Give at most 200" in done.stderr
    assert not (tmp_path / "job" / "outputs" / "consensus.mrc").exists()


SHORT = ("--density", "basis", "--no-report", "--basis.passes", 1, "--basis.landmarks", 16)


def test_conformations_are_as_fine_as_memory_allows(run_frazil, moving_stack, tmp_path):
    done = run_frazil("reconstruct", moving_stack, *SHORT, "--memory", 0.7, "--out", tmp_path / "job")
    assert done.code == 0, done.stderr
    log = (tmp_path / "job" / "log.txt").read_text()
    assert "conformations to 19.2 Å, as memory allows; to 17.5 Å they need 0.71 GB (--memory)" in log
    assert np.load(tmp_path / "job" / "outputs" / "latent.npy").shape[0] == 400
    assert (tmp_path / "job" / "checkpoints" / "basis_band.txt").read_text() == "10\n"


def test_a_resolution_that_does_not_fit_in_memory_is_refused_with_one_that_does(run_frazil, moving_stack, tmp_path):
    words = (*SHORT, "--basis.resolution", 16, "--memory", 0.7, "--out", tmp_path / "job")
    done = run_frazil("reconstruct", moving_stack, *words)
    assert done.code == 2
    assert "conformations to 17.5 Å need 0.71 GB of memory" in done.stderr
    assert "Ask for 19.2 Å with --basis.resolution" in done.stderr
    # nothing has begun: the same command may have more memory the next time
    assert not (tmp_path / "job" / "checkpoints" / "basis_band.txt").exists()


def test_a_job_taken_up_again_is_as_fine_as_it_began(moving_stack, tmp_path):
    """Memory comes and goes; the result must not."""
    particles, config = read_particles(moving_stack), Config(particles=moving_stack, density="basis")
    bands, began = [], tmp_path / "basis_band.txt"
    began.write_text("10\n")
    for memory, resumed in ((0.7e9, True), (64e9, True), (64e9, False)):
        job = SimpleNamespace(
            resumed=resumed,
            processes=Processes(),
            log=print,
            memory_to_be_had=lambda memory=memory: memory,
        )
        bands.append(band_that_fits(12, particles, config, cast(Job, job), began))
    assert bands == [10, 10, 12]
