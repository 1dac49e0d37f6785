"""Ensembles and truth on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from frazil.data.ensemble import load_ensemble, load_stored, register_ensemble, save_ensemble
from frazil.data.truth import read_truth, write_truth
from frazil.errors import InputError
from frazil.physics.density import Density, Gaussians
from frazil.physics.ensemble import Ensemble
from frazil.physics.grid import Grid


class Blob(Ensemble):
    """One Gaussian that z moves along x."""

    kind = "blob for a test"

    def __init__(self, reach: Tensor, grid: Grid) -> None:
        self.reach, self._grid = reach, grid

    @property
    def latent_dim(self) -> int:
        return 1

    @property
    def grid(self) -> Grid:
        return self._grid

    def density(self, latent: Tensor) -> Density:
        centre = torch.cat([latent * self.reach, torch.zeros(2)])[None]
        return Gaussians(centre, torch.ones(1), torch.full((1,), 3.0))

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"reach": self.reach}, {"box_size": self.grid.box_size, "pixel_size": self.grid.pixel_size}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Blob:
        return cls(tensors["reach"], Grid(**settings))


register_ensemble(Blob.kind, Blob)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_ensemble(tmp_path / "outputs", Blob(torch.tensor([7.0]), Grid(16, 2.5)))
    return tmp_path


def test_an_ensemble_comes_back_from_its_folder_or_its_jobs(saved: Path) -> None:
    for folder in (saved, saved / "outputs"):
        ensemble = load_ensemble(folder)
        assert isinstance(ensemble, Blob)
        assert (ensemble.grid, float(ensemble.reach)) == (Grid(16, 2.5), 7.0)


def test_an_unknown_kind_a_missing_setting_and_mixed_files_are_refused(saved: Path) -> None:
    path = saved / "outputs/ensemble.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "kind": "newer"}))
    with pytest.raises(InputError, match="an ensemble of kind 'newer' is not known here"):
        load_ensemble(saved)
    path.write_text(json.dumps({**said, "settings": {}}))
    with pytest.raises(InputError, match="lacks something of its kind"):
        load_ensemble(saved)
    path.write_text(json.dumps({**said, "tensors": {"reach": [2]}}))
    with pytest.raises(InputError, match="do not belong together"):
        load_stored(saved)
    path.write_text("{")
    with pytest.raises(InputError, match="damaged ensemble"):
        load_stored(saved)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        load_ensemble(saved)


def test_a_kind_nobody_registered_cannot_be_saved(tmp_path: Path) -> None:
    nameless = Blob(torch.tensor([1.0]), Grid(16, 2.5))
    nameless.kind = "stranger"
    with pytest.raises(ValueError, match="stranger"):
        save_ensemble(tmp_path, nameless)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    folder = tmp_path / "J001/outputs/truth"
    write_truth(
        folder,
        latent=np.arange(8.0).reshape(4, 2),
        state=np.array([0, 1, 1, 0]),
        rotation=np.eye(3)[None].repeat(4, 0),
        shift=np.ones((4, 2)),
        volumes=[folder / "volumes/volume_000.mrc", folder / "volumes/volume_001.mrc"],
        volume_latents=np.array([[0.0, 1.0], [2.0, 3.0]]),
        facts={"snr": 0.1},
    )
    return tmp_path / "J001"


def test_truth_reads_from_the_job_its_outputs_and_itself(truth: Path) -> None:
    for path in (truth, truth / "outputs", truth / "outputs/truth", truth / "outputs/particles.star"):
        found = read_truth(path)
        assert found.count == 4 and found.latent is not None and found.latent.shape == (4, 2)
        assert found.volumes[1] == truth / "outputs/truth/volumes/volume_001.mrc"
        assert found.volume_latents is not None and found.volume_latents.tolist() == [[0, 1], [2, 3]]
        assert found.facts == {"snr": 0.1}


def test_a_rigid_truth_has_no_latent(tmp_path: Path) -> None:
    write_truth(tmp_path, state=np.zeros(2, int), rotation=np.zeros((2, 3, 3)), shift=np.zeros((2, 2)))
    assert read_truth(tmp_path).latent is None


def test_broken_truth_is_told_in_one_line(truth: Path) -> None:
    folder = truth / "outputs/truth"
    np.save(folder / "shift.npy", np.ones((3, 2)))
    with pytest.raises(InputError, match=r"shift\.npy: shape \(3, 2\) for 4 particles"):
        read_truth(truth)
    (folder / "shift.npy").unlink()
    with pytest.raises(InputError, match=r"shift\.npy: no such file"):
        read_truth(truth)
    (folder / "truth.json").write_text("{}")
    with pytest.raises(InputError, match=r"damaged truth\.json"):
        read_truth(truth)
    (folder / "truth.json").unlink()
    with pytest.raises(InputError, match=r"no truth\.json here"):
        read_truth(truth)
    with pytest.raises(ValueError, match="different lengths"):
        write_truth(folder, state=np.zeros(2), rotation=np.zeros((1, 3, 3)), shift=np.zeros((2, 2)))
