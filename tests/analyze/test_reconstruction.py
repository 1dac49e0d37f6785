"""A reconstruct job's folder is read as it is, or refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from frazil.analyze.reconstruction import read_reconstruction
from frazil.errors import InputError


def test_a_job_is_opened_by_its_folder_or_its_outputs(ensemble_job: Path) -> None:
    for path in (ensemble_job, ensemble_job / "outputs"):
        found = read_reconstruction(path)
        assert found.folder == ensemble_job and found.has_ensemble
        assert found.latent is not None and found.latent.shape == (60, 3)
        assert found.particles().count == 60


def test_fsc_curves_are_the_columns_that_are_no_place(rigid_job: Path) -> None:
    curves = read_reconstruction(rigid_job).correlations()
    assert list(curves) == ["unmasked", "masked"]
    np.testing.assert_allclose(curves["unmasked"], 1 - np.arange(9) / 10)


def test_metrics_are_read_in_order(ensemble_job: Path, rigid_job: Path) -> None:
    assert [record["epoch"] for record in read_reconstruction(ensemble_job).records()] == [0, 1, 2, 3, 4]


def test_a_rigid_job_has_no_ensemble(rigid_job: Path) -> None:
    found = read_reconstruction(rigid_job)
    assert found.latent is None and not found.has_ensemble
    with pytest.raises(InputError, match="holds no ensemble, only one rigid map. Run frazil reconstruct with --preset"):
        found.ensemble()


def test_a_state_is_opened_with_the_settings_of_its_job(ensemble_job: Path) -> None:
    (ensemble_job / "job.toml").write_text('[reconstruct]\nsymmetry = "D2"\n')
    state = ensemble_job / "outputs" / "component_001"
    shutil.copytree(ensemble_job / "outputs", state)
    (state / "metrics.jsonl").write_text('{"step": 1, "resolution": 12.5}\n')
    found = read_reconstruction(state)
    assert found.folder == found.outputs == state and found.has_ensemble
    assert found.symmetry == read_reconstruction(ensemble_job).symmetry == "D2"
    assert found.finest_resolution() == 12.5


def test_what_is_no_job_is_refused(tmp_path: Path, ensemble_job: Path) -> None:
    with pytest.raises(InputError, match="nowhere: there is no such folder. Give the folder that frazil reconstruct"):
        read_reconstruction(tmp_path / "nowhere")
    with pytest.raises(InputError, match="this is a file, not a job folder"):
        read_reconstruction(ensemble_job / "outputs" / "particles.star")
    with pytest.raises(InputError, match=r"not a finished reconstruct job: it has no outputs/particles.star"):
        read_reconstruction(tmp_path)


def test_damaged_latents_are_refused(ensemble_job: Path) -> None:
    outputs = ensemble_job / "outputs"
    np.save(outputs / "latent_covariance.npy", np.zeros((5, 3, 3)))
    with pytest.raises(InputError, match=r"covariance.npy has shape \(5, 3, 3\), latent.npy has \(60, 3\)"):
        read_reconstruction(ensemble_job)
    np.save(outputs / "latent.npy", np.zeros(60))
    with pytest.raises(InputError, match=r"latent.npy: an array of shape \(60,\), 2 dimensions were expected"):
        read_reconstruction(ensemble_job)
    (outputs / "latent.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match=r"latent.npy: not a readable NumPy array"):
        read_reconstruction(ensemble_job)


def test_the_symmetry_of_the_job_is_read_from_its_record(rigid_job: Path) -> None:
    assert read_reconstruction(rigid_job).symmetry == "C1"
    (rigid_job / "job.toml").write_text('[reconstruct]\nsymmetry = "O"\n')
    assert read_reconstruction(rigid_job).symmetry == "O"
