"""cryoDRGN's pickles: read without being run, and written so that NumPy of any version reads them."""

from __future__ import annotations

import gzip
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from frazil.data.cryodrgn import (
    read_ctf,
    read_indices,
    read_latent,
    read_pickle,
    read_pose,
    write_ctf,
    write_indices,
    write_latent,
    write_pose,
)
from frazil.errors import InputError
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose


class Malicious:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.system, ("touch /tmp/frazil-was-here",)


class ThroughNumpy:
    """Hides a call behind a class that looks like NumPy's."""

    def __reduce__(self) -> tuple[Callable, tuple]:
        return np.load, ("anything",)


def save(path: Path, *values: object, protocol: int = 4) -> Path:
    path.write_bytes(b"".join(pickle.dumps(value, protocol=protocol) for value in values))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_of_every_protocol_read(tmp_path: Path, protocol: int) -> None:
    values = (np.arange(6.0).reshape(2, 3), np.float32(2.5), [1, "a", None])
    found = read_pickle(save(tmp_path / "a.pkl", values, protocol=protocol))[0]
    assert np.array_equal(found[0], values[0]) and found[1] == 2.5 and found[2] == [1, "a", None]
    (tmp_path / "b.pkl.gz").write_bytes(gzip.compress((tmp_path / "a.pkl").read_bytes()))
    assert len(read_pickle(tmp_path / "b.pkl.gz")) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Malicious(), r"this pickle would run (posix|nt)\.system: only NumPy arrays are read"),
        ((np.zeros((2, 3, 3)), Malicious()), "would run"),
        (ThroughNumpy(), r"would run numpy.*load"),
        (torch.zeros(2), "would run torch"),
        (np.array([Malicious()], dtype=object), "would run"),
        (np.array([1, "a"], dtype=object), "an array of Python objects"),
    ],
    ids=["command", "command beside an array", "numpy.load", "torch tensor", "command in an array", "object array"],
)
def test_a_pickle_that_would_run_anything_is_refused_unrun(tmp_path: Path, value: object, message: str) -> None:
    marker = Path("/tmp/frazil-was-here")
    marker.unlink(missing_ok=True)
    with pytest.raises(InputError, match=message):
        read_pickle(save(tmp_path / "a.pkl", value))
    assert not marker.exists()


def test_a_damaged_or_empty_pickle_is_an_input_error(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pkl", np.zeros(100))
    path.write_bytes(path.read_bytes()[:-50])
    for content, message in (
        (path.read_bytes(), "damaged"),
        (b"", "the file is empty"),
        (b"hello", "damaged or no pickle"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_pickle(path)
    with pytest.raises(InputError, match="no such file"):
        read_pickle(tmp_path / "none.pkl")


def test_poses_go_out_and_come_back(tmp_path: Path) -> None:
    pose = Pose.random(20, 8.0, torch.Generator().manual_seed(1))
    write_pose(tmp_path / "pose.pkl", pose, 100.0)
    again = read_pose(tmp_path / "pose.pkl", 100.0)
    assert torch.allclose(again.rotation, pose.rotation, atol=1e-6)
    assert torch.allclose(again.shift, pose.shift, atol=1e-5)
    with open(tmp_path / "pose.pkl", "rb") as file:
        rotation, translation = pickle.load(file)  # as cryoDRGN loads it
    assert rotation.dtype == translation.dtype == np.float32
    # fractions of the box, and the shift that centres: minus the displacement
    assert np.allclose(translation, -pose.shift.numpy() / 100, atol=1e-7)


def test_boxes_of_different_size_give_each_pose_its_own_fraction(tmp_path: Path) -> None:
    pose, extent = Pose.random(3, 8.0, torch.Generator().manual_seed(1)), torch.tensor([100.0, 200.0, 50.0])
    write_pose(tmp_path / "pose.pkl", pose, extent)
    assert torch.allclose(read_pose(tmp_path / "pose.pkl", extent).shift, pose.shift, atol=1e-5)


def test_ctf_goes_out_and_comes_back(tmp_path: Path) -> None:
    optics = Optics.make(
        voltage=300.0, cs=2.7, amplitude_contrast=0.07, defocus_u=torch.tensor([15000.5, 9000.25]), defocus_v=8000.0,
        defocus_angle=12.5, phase_shift=90.0, dtype=torch.float32,
    )  # fmt: skip
    write_ctf(tmp_path / "ctf.pkl", optics, np.array([128, 256]), np.array([1.31, 1.05]))
    boxes, sizes, again = read_ctf(tmp_path / "ctf.pkl")
    assert (boxes.tolist(), sizes.tolist()) == ([128, 256], [1.31, 1.05])
    assert all(torch.equal(a, b) for a, b in zip(again.__dict__.values(), optics.__dict__.values(), strict=True))
    with open(tmp_path / "ctf.pkl", "rb") as file:
        table = pickle.load(file)
    assert table[0].tolist() == pytest.approx([128, 1.31, 15000.5, 8000, 12.5, 300, 2.7, 0.07, 90])


def test_indices_and_latents_go_out_and_come_back(tmp_path: Path) -> None:
    write_indices(tmp_path / "ind.pkl", np.array([4, 0, 2]))
    assert read_indices(tmp_path / "ind.pkl").tolist() == [4, 0, 2]
    mean, log_variance = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    write_latent(tmp_path / "z.pkl", mean, log_variance)
    found = read_latent(tmp_path / "z.pkl")
    assert np.array_equal(found[0], mean) and found[1] is not None and np.array_equal(found[1], log_variance)
    write_latent(tmp_path / "z.pkl", mean)
    assert read_latent(tmp_path / "z.pkl")[1] is None


def test_a_written_pickle_names_the_module_that_old_numpy_has(tmp_path: Path) -> None:
    write_indices(tmp_path / "ind.pkl", np.arange(3))
    assert b"numpy._core" not in (tmp_path / "ind.pkl").read_bytes()


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (lambda path: read_pose(path, 1.0), np.zeros((3, 4)), r"shape \(3, 4\), not rotations"),
        (lambda path: read_pose(path, 1.0), (np.eye(3)[None], np.zeros((2, 2))), "1 rotations with translations"),
        (
            lambda path: read_pose(path, 1.0),
            (np.eye(3)[None], np.full((1, 2), 9.0)),
            "larger than the box: they are in pixels",
        ),
        (lambda path: read_pose(path, 1.0), np.full((2, 3, 3), 0.5), r"a\.pkl:1: not a rotation matrix"),
        (lambda path: read_pose(path, 1.0), {"a": 1}, "not a pose pickle"),
        (read_ctf, np.zeros((3, 8)), "not a CTF pickle"),
        (read_ctf, np.full((3, 9), np.nan), r"a\.pkl:1: a CTF value here is not a number"),
        (read_indices, np.zeros(3), "not a list of particle indices"),
        (read_latent, np.zeros(3), "not a latent pickle"),
    ],
)
def test_the_wrong_pickle_is_told_what_it_should_hold(
    tmp_path: Path, read: Callable, value: object, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(save(tmp_path / "a.pkl", value))


def test_a_bare_array_of_rotations_means_no_shifts(tmp_path: Path) -> None:
    pose = read_pose(save(tmp_path / "a.pkl", np.eye(3)[None].repeat(4, 0)), 100.0)
    assert len(pose) == 4 and float(pose.shift.abs().max()) == 0
