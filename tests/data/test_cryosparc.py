"""cryoSPARC tables: units, passthrough files, and what is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from frazil.data.cs import read_cs, write_cs
from frazil.data.stack import read_particles, write_particles_star
from frazil.data.table import Block
from frazil.errors import InputError

N = 5


def structured(**fields: np.ndarray) -> np.ndarray:
    columns = {name.replace("__", "/"): np.asarray(values) for name, values in fields.items()}
    rows = np.empty(N, [(name, values.dtype, values.shape[1:]) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    return rows


def blob(path: bytes = b">images.mrcs") -> dict[str, np.ndarray]:
    return {
        "uid": np.arange(N, dtype=np.uint64) + np.uint64(2**63),
        "blob__path": np.array([path] * N),
        "blob__idx": np.arange(N, dtype=np.uint32),
        "blob__shape": np.full((N, 2), 16, np.uint32),
        "blob__psize_A": np.full(N, 2.5, np.float32),
        "blob__sign": np.full(N, -1, np.float32),
    }


def ctf() -> dict[str, np.ndarray]:
    return {
        "ctf__exp_group_id": np.array([3, 3, 3, 9, 9], np.uint32),
        "ctf__accel_kv": np.full(N, 300, np.float32),
        "ctf__cs_mm": np.full(N, 2.7, np.float32),
        "ctf__amp_contrast": np.full(N, 0.1, np.float32),
        "ctf__df1_A": np.full(N, 15000, np.float32),
        "ctf__df2_A": np.full(N, 14000, np.float32),
        "ctf__df_angle_rad": np.full(N, np.pi / 6, np.float32),
        "ctf__phase_shift_rad": np.full(N, np.pi / 2, np.float32),
        "ctf__tilt_A": np.full((N, 2), [2.7e7 * 1e-4, 0], np.float32),
        "ctf__bfactor": np.full(N, 40, np.float32),
    }


def alignments(prefix: str = "alignments3D") -> dict[str, np.ndarray]:
    return {
        f"{prefix}__split": np.array([0, 1, 0, 1, 0], np.uint32),
        f"{prefix}__pose": np.random.default_rng(1).normal(size=(N, 3)).astype(np.float32),
        f"{prefix}__shift": np.full((N, 2), [2.0, -4.0], np.float32),
        f"{prefix}__psize_A": np.full(N, 1.25, np.float32),
    }


@pytest.fixture
def folder(tmp_path: Path, images: np.ndarray, write_mrc: Callable) -> Path:
    write_mrc(tmp_path / "images.mrcs", images)
    return tmp_path


def save(path: Path, **fields: np.ndarray) -> Path:
    with open(path, "wb") as file:
        np.save(file, structured(**fields))
    return path


def test_fields_are_read_in_their_units(folder: Path, images: np.ndarray) -> None:
    poses = alignments()
    particles = read_particles(save(folder / "p.cs", **blob(), **ctf(), **poses))
    assert (particles.count, particles.grid.box_size, particles.grid.pixel_size) == (N, 16, 2.5)
    assert particles.uid.tolist() == [2**63 + row for row in range(N)]
    assert particles.optics is not None and particles.pose is not None and particles.half_set is not None
    first = {name: float(value[0]) for name, value in particles.optics.__dict__.items()}
    assert first["defocus_u"] == 15000 and first["defocus_angle"] == pytest.approx(30, abs=1e-4)
    assert first["phase_shift"] == pytest.approx(90, abs=1e-4) and first["b_factor"] == 40
    assert first["beam_tilt_x"] == pytest.approx(0.1, abs=1e-6)
    # exposure groups with the same sampling are one group
    assert particles.group.tolist() == [0] * N
    assert particles.half_set.tolist() == [0, 1, 0, 1, 0]
    assert particles.sign is not None and particles.sign.tolist() == [-1] * N
    # shifts are in pixels of alignments3D/psize_A and centre the particle: ours is its displacement
    assert torch.allclose(particles.pose.shift, torch.tensor([[-2.5, 5.0]]))
    # their rotation takes the view to the object
    expected = Rotation.from_rotvec(poses["alignments3D__pose"]).as_matrix().transpose(0, 2, 1)
    assert np.allclose(particles.pose.rotation, expected, atol=1e-6)
    assert np.array_equal(particles.images(slice(None)), images[:N])


def test_a_passthrough_file_beside_it_is_joined_by_uid_in_the_rows_order(folder: Path) -> None:
    passed = blob()
    passed["uid"] = passed["uid"][::-1].copy()
    passed["blob__idx"] = passed["blob__idx"][::-1].copy()
    save(folder / "P3_J24_passthrough_particles.cs", **passed, **ctf())
    main = save(folder / "cryosparc_P3_J24_particles.cs", uid=blob()["uid"], **alignments())
    particles = read_particles(main)
    assert particles.listing.index.tolist() == list(range(N))
    assert particles.optics is not None and particles.pose is not None


def test_a_passthrough_of_other_particles_is_left_alone_and_refused_when_given(folder: Path) -> None:
    other = blob()
    other["uid"] = other["uid"] + np.uint64(100)
    strange = save(folder / "P3_J9_passthrough_particles.cs", **other)
    main = save(folder / "main.cs", uid=blob()["uid"], **alignments())
    with pytest.raises(InputError, match="no blob/path field, so these rows are no particle images"):
        read_particles(main)
    with pytest.raises(InputError, match="5 of 5 particles of main.cs are not in this passthrough file"):
        read_cs(main, strange)


def test_an_exported_group_needs_no_passthrough(folder: Path) -> None:
    save(folder / "P3_J24_passthrough_particles.cs", uid=blob()["uid"] + np.uint64(7))
    assert read_particles(save(folder / "exported.cs", **blob(), **ctf(), **alignments())).pose is not None


def test_an_ab_initio_job_gives_the_pose_of_the_likeliest_class(folder: Path) -> None:
    zero, one = alignments("alignments_class_0"), alignments("alignments_class_1")
    one["alignments_class_1__shift"] = np.zeros((N, 2), np.float32)
    zero["alignments_class_0__class_posterior"] = np.array([0.9, 0.1, 0.9, 0.9, 0.1], np.float32)
    one["alignments_class_1__class_posterior"] = 1 - zero["alignments_class_0__class_posterior"]
    pose = read_particles(save(folder / "p.cs", **blob(), **zero, **one)).pose
    assert pose is not None and (pose.shift[:, 0] == 0).tolist() == [False, True, False, False, True]


def test_aberrations_that_are_not_used_are_said(folder: Path) -> None:
    trefoil = {"ctf__trefoil_A": np.ones((N, 2), np.float32), "ctf__tetra_A": np.zeros((N, 4), np.float32)}
    assert read_particles(save(folder / "p.cs", **blob(), **ctf(), **trefoil)).warnings == (
        "ctf/trefoil_A is kept but not used",
    )


def test_a_table_survives_writing_and_reading(tmp_path: Path) -> None:
    path = save(tmp_path / "a.cs", **blob(), **ctf(), **alignments())
    write_cs(tmp_path / "b.cs", read_cs(path)["particles"])
    assert np.array_equal(np.load(tmp_path / "a.cs"), np.load(tmp_path / "b.cs"))
    write_cs(tmp_path / "c.cs", Block("p", {"blob/path": ["a", "bcd"]}, 2))
    assert np.load(tmp_path / "c.cs")["blob/path"].tolist() == [b"a", b"bcd"]


def test_particles_go_to_a_star_with_uid_and_micrograph(folder: Path) -> None:
    location = {
        "location__micrograph_path": np.array([b"motion/mic.mrc"] * N),
        "location__micrograph_shape": np.full((N, 2), [1000, 2000], np.uint32),
        "location__center_x_frac": np.full(N, 0.25, np.float32),
        "location__center_y_frac": np.full(N, 0.5, np.float32),
    }
    particles = read_particles(save(folder / "p.cs", **blob(), **ctf(), **alignments(), **location))
    write_particles_star(particles, folder / "out/p.star")
    again = read_particles(folder / "out/p.star")
    block = again.table["particles"]
    assert again.uid.tolist() == particles.uid.tolist()
    assert block.text("rlnMicrographName") == ["motion/mic.mrc"] * N
    assert (block.numbers("rlnCoordinateX")[0], block.numbers("rlnCoordinateY")[0]) == (500, 500)
    assert again.pose is not None and particles.pose is not None
    assert torch.allclose(again.pose.rotation, particles.pose.rotation, atol=1e-5)
    assert torch.allclose(again.pose.shift, particles.pose.shift, atol=1e-5)
    assert again.half_set is not None and again.half_set.tolist() == [0, 1, 0, 1, 0]


def broken(name: str, value: object) -> dict[str, np.ndarray]:
    fields = {**blob(), **ctf(), **alignments()}
    fields[name] = fields[name].copy()
    fields[name][2] = value
    return fields


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (broken("alignments3D__pose", np.nan), r"p\.cs:3 .*this pose is not a number"),
        (broken("ctf__df1_A", np.inf), r"p\.cs:3 .*a CTF value here is not a number"),
        ({"uid": blob()["uid"], "location__center_x_frac": np.zeros(N)}, "no blob/path field"),
    ],
)
def test_a_wrong_table_is_told_in_one_line(folder: Path, fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_particles(save(folder / "p.cs", **fields))


def test_what_is_no_table_of_plain_values_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.cs").write_bytes(b"\x94CSDAT\x01")
    with pytest.raises(InputError, match=r"not a cryoSPARC \.cs file"):
        read_cs(tmp_path / "a.cs")
    with open(tmp_path / "b.cs", "wb") as file:
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read safely"):
        read_cs(tmp_path / "b.cs")
    with open(tmp_path / "c.cs", "wb") as file:
        np.save(file, np.zeros(4))
    with pytest.raises(InputError, match="a plain array"):
        read_cs(tmp_path / "c.cs")
    save(tmp_path / "d.cs", **blob())
    (tmp_path / "d.cs").write_bytes((tmp_path / "d.cs").read_bytes()[:-8])
    with pytest.raises(InputError, match="cannot be read safely"):
        read_cs(tmp_path / "d.cs")
