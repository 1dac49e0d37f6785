"""Particles: lazy, indexable, bounded; written out without losing a column."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from gemmi import cif

from frazil.data.mrc import StackWriter
from frazil.data.stack import read_particles, write_new_particles_star, write_particles_star
from frazil.data.star import read_star
from frazil.errors import InputError
from frazil.physics.grid import Grid
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose


def test_a_subset_takes_rows_of_everything_in_the_order_asked(star: Path, images: np.ndarray) -> None:
    whole = read_particles(star)
    part = whole[torch.tensor([4, 1])][np.array([True, True])]
    assert part.uid.tolist() == whole.uid[[4, 1]].tolist()
    assert part.table["particles"].text("rlnSomethingElse") == ["kept4", "kept1"]
    assert (
        part.pose is not None
        and whole.pose is not None
        and torch.equal(part.pose.rotation, whole.pose.rotation[[4, 1]])
    )
    assert part.half_set is not None and part.half_set.tolist() == [0, 1]
    assert np.array_equal(part.images(slice(None)), images[[4, 1]])


@pytest.mark.parametrize("size", [1, 4, 100])
def test_chunks_cover_every_image_once_in_order(star: Path, images: np.ndarray, size: int) -> None:
    chunks = list(read_particles(star).chunks(size))
    assert torch.cat([rows for rows, _ in chunks]).tolist() == list(range(6))
    assert np.array_equal(torch.cat([part for _, part in chunks]), images)
    assert max(len(rows) for rows, _ in chunks) <= size


def test_chunks_of_chosen_rows_keep_their_order(star: Path, images: np.ndarray) -> None:
    rows = torch.tensor([5, 0, 3])
    found = torch.cat([part for _, part in read_particles(star).chunks(2, rows)])
    assert np.array_equal(found, images[rows])


def test_images_from_interleaved_stacks_come_in_row_order(
    tmp_path: Path, images: np.ndarray, write_mrc: Callable
) -> None:
    write_mrc(tmp_path / "a.mrcs", images[:3])
    write_mrc(tmp_path / "b.mrcs", images[3:])
    names = ["2@a.mrcs", "1@b.mrcs", "1@a.mrcs", "3@b.mrcs", "3@a.mrcs"]
    (tmp_path / "p.star").write_text("data_\nloop_\n_rlnImageName #1\n" + "\n".join(names) + "\n")
    assert np.array_equal(read_particles(tmp_path / "p.star").images(slice(None)), images[[1, 3, 0, 5, 2]])


def test_more_stacks_than_may_be_open_at_once_read_in_any_order(tmp_path: Path, write_mrc: Callable) -> None:
    count = 150
    for number in range(count):
        write_mrc(tmp_path / f"{number}.mrcs", np.full((1, 4, 4), number, np.float32))
    rows = "\n".join(f"1@{number}.mrcs" for number in range(count))
    (tmp_path / "p.star").write_text(f"data_\nloop_\n_rlnImageName #1\n{rows}\n")
    particles = read_particles(tmp_path / "p.star")
    order = np.random.default_rng(0).permutation(count)
    assert particles.images(order)[:, 0, 0].tolist() == order.tolist()
    assert particles.images(order[::-1].copy())[:, 0, 0].tolist() == order[::-1].tolist()


def test_nothing_is_read_until_it_is_asked_for(star: Path) -> None:
    particles = read_particles(star)
    (star.parent / "images.mrcs").write_bytes(b"")
    assert particles.count == 6
    with pytest.raises(InputError, match="the file became shorter while it was read"):
        particles.images([0])


def test_a_stack_cut_short_is_found_before_any_work(star: Path) -> None:
    stack = star.parent / "images.mrcs"
    stack.write_bytes(stack.read_bytes()[:4000])
    with pytest.raises(InputError, match="the header says 6 images of 16 × 16, the file holds 2"):
        read_particles(star)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_nan_image_names_index_file_and_row(
    star: Path, images: np.ndarray, write_mrc: Callable, value: float
) -> None:
    images[3, 2, 5] = value
    write_mrc(star.parent / "images.mrcs", images)
    particles = read_particles(star)
    with pytest.raises(
        InputError, match=r"particles\.star:4 .*image 000004@images.mrcs holds 1 pixels that are not numbers"
    ):
        particles.images(slice(None))
    assert not bool(particles.images(slice(None), check=False)[3].isfinite().all())
    assert particles.images([0, 1, 2, 4, 5]).shape == (5, 16, 16)


def test_values_that_overflow_a_sum_are_no_nan(star: Path, images: np.ndarray, write_mrc: Callable) -> None:
    images[2] = 3e38
    write_mrc(star.parent / "images.mrcs", images)
    assert read_particles(star).images([2]).isfinite().all()


def test_images_that_are_not_square_are_refused(tmp_path: Path, write_mrc: Callable) -> None:
    write_mrc(tmp_path / "a.mrcs", np.zeros((2, 6, 8), np.float32))
    with pytest.raises(InputError, match="images of 8 × 6 pixels are not square"):
        read_particles(tmp_path / "a.mrcs").images([0])


def test_uids_do_not_depend_on_order_and_tell_repeated_images_apart(
    tmp_path: Path, images, write_mrc: Callable
) -> None:
    write_mrc(tmp_path / "a.mrcs", images)
    table = "data_\nloop_\n_rlnImageName #1\n"
    (tmp_path / "a.star").write_text(table + "1@a.mrcs\n2@a.mrcs\n1@a.mrcs\n")
    (tmp_path / "b.star").write_text(table + "2@a.mrcs\n1@a.mrcs\n")
    a, b = read_particles(tmp_path / "a.star").uid, read_particles(tmp_path / "b.star").uid
    assert a.dtype == np.uint64 and len(set(a.tolist())) == 3
    assert a[:2].tolist() == b[::-1].tolist()
    # a fixed value: uids must not change from version to version
    assert int(a[0]) == 0xC1553175D15FC16D


def test_a_written_star_keeps_every_column_letter_for_letter(star: Path, tmp_path: Path) -> None:
    out = tmp_path / "sub/deeper/out.star"
    particles = read_particles(star)
    write_particles_star(particles, out)
    before, after = read_star(star), read_star(out)
    for name in ("optics", "particles"):
        for column in before[name].columns:
            if column != "rlnImageName":
                assert after[name].text(column) == before[name].text(column)
    again = read_particles(out)
    assert again.uid.tolist() == particles.uid.tolist()
    assert after["particles"].text("rlnImageName")[0] == "000001@../../images.mrcs"
    assert torch.equal(again.images(slice(None)), particles.images(slice(None)))


def test_a_star_written_through_a_symbolic_link_still_finds_its_images(star: Path, tmp_path: Path) -> None:
    (tmp_path / "real/folder").mkdir(parents=True)
    os.symlink(tmp_path / "real/folder", tmp_path / "link")
    write_particles_star(read_particles(star), tmp_path / "link/out.star")
    assert read_particles(tmp_path / "real/folder/out.star").images([0]).shape == (1, 16, 16)


def test_new_poses_optics_halves_and_columns_replace_or_join_the_others(star: Path, tmp_path: Path) -> None:
    particles = read_particles(star)
    pose = Pose.random(6, 5.0, torch.Generator().manual_seed(1))
    optics = Optics.make(voltage=300.0, cs=2.7, amplitude_contrast=0.07, defocus_u=torch.arange(6) * 10.0 + 9000)
    extra = {"frazilState": torch.arange(6), "rlnSomethingElse": ["x"] * 6}
    halves = torch.tensor([0, 0, 0, 1, 1, 1])
    write_particles_star(particles, tmp_path / "o.star", pose=pose, optics=optics, half_set=halves, extra=extra)
    again = read_particles(tmp_path / "o.star")
    assert again.pose is not None and again.optics is not None and again.half_set is not None
    assert torch.allclose(again.pose.rotation, pose.rotation, atol=1e-6)
    assert torch.allclose(again.pose.shift, pose.shift, atol=1e-5)
    assert torch.allclose(again.optics.defocus_u, optics.defocus_u.float())
    assert again.half_set.tolist() == halves.tolist()
    assert again.table["particles"].integers("frazilState").tolist() == list(range(6))
    assert again.table["particles"].text("rlnSomethingElse") == ["x"] * 6
    assert again.table["particles"].columns.index("rlnSomethingElse") == 13


def test_no_particle_at_all_still_makes_a_file(star: Path, tmp_path: Path) -> None:
    nobody = read_particles(star)[[]]
    assert nobody.count == 0 and list(nobody.chunks(4)) == [] and nobody.images([]).shape == (0, 16, 16)
    write_particles_star(nobody, tmp_path / "o.star")
    assert read_star(tmp_path / "o.star")["particles"].count == 0


def test_a_pixel_size_given_in_place_of_the_files_is_written(star: Path, tmp_path: Path) -> None:
    write_particles_star(read_particles(star, pixel_size=3.25), tmp_path / "o.star")
    assert read_particles(tmp_path / "o.star").grid.pixel_size == 3.25
    assert read_star(tmp_path / "o.star")["optics"].text("rlnImageSize") == ["16"]


def test_optics_as_pairs_are_written_as_a_table(star: Path, tmp_path: Path) -> None:
    head, rows = star.read_text().split("data_particles")
    names = [line.split()[0] for line in head.splitlines() if line.startswith("_")]
    values = next(line for line in head.splitlines() if line.startswith("opticsGroup1")).split()
    pairs = "\n".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
    star.write_text(f"data_optics\n\n{pairs}\n\ndata_particles{rows}")
    particles = read_particles(star)
    write_particles_star(particles, tmp_path / "o.star")
    assert read_star(tmp_path / "o.star")["optics"].is_loop
    assert read_particles(tmp_path / "o.star").grid == particles.grid


def test_given_poses_are_written_and_wrong_counts_refused(star: Path, tmp_path: Path) -> None:
    pose = Pose.random(6, 5.0, torch.Generator().manual_seed(2))
    particles = read_particles(star).given(pose=pose)
    write_particles_star(particles.with_half_set(torch.zeros(6, dtype=torch.int64)), tmp_path / "o.star")
    again = read_particles(tmp_path / "o.star")
    assert again.pose is not None and torch.allclose(again.pose.rotation, pose.rotation, atol=1e-6)
    assert again.half_set is not None and again.half_set.sum() == 0
    with pytest.raises(InputError, match="4 rows of pose for 6 particles"):
        particles.given(pose=pose[:4])


def test_a_relion_3_0_table_becomes_3_1_with_shifts_in_angstrom(tmp_path: Path, images, write_mrc: Callable) -> None:
    write_mrc(tmp_path / "a.mrcs", images)
    columns = (
        "rlnImageName rlnDetectorPixelSize rlnMagnification rlnVoltage rlnSphericalAberration rlnAmplitudeContrast"
    )
    columns += " rlnDefocusU rlnDefocusV rlnDefocusAngle rlnAngleRot rlnAngleTilt rlnAnglePsi rlnOriginX rlnOriginY"
    rows = [f"{i + 1}@a.mrcs 5.0 20000.0 {200 + 100 * (i % 2)} 2.7 0.1 9000 8000 5 1 2 3 1.5 -2" for i in range(4)]
    head = "data_\nloop_\n" + "".join(f"_{name} #{i}\n" for i, name in enumerate(columns.split(), 1))
    (tmp_path / "old.star").write_text(head + "\n".join(rows) + "\n")
    old = read_particles(tmp_path / "old.star")
    write_particles_star(old, tmp_path / "new.star")
    table = read_star(tmp_path / "new.star")
    assert set(columns.split()) <= set(table["particles"].columns)
    assert table["particles"].numbers("rlnOriginXAngst").tolist() == [3.75] * 4
    assert table["optics"].numbers("rlnVoltage").tolist() == [200, 300]
    assert table["optics"].numbers("rlnImagePixelSize").tolist() == [2.5, 2.5]
    new = read_particles(tmp_path / "new.star")
    assert old.pose is not None and new.pose is not None and torch.allclose(old.pose.shift, new.pose.shift)
    assert old.optics is not None and new.optics is not None
    assert all(
        torch.equal(a, b) for a, b in zip(old.optics.__dict__.values(), new.optics.__dict__.values(), strict=True)
    )


def test_a_written_star_is_what_other_readers_expect_of_relion_3_1(star: Path, tmp_path: Path) -> None:
    write_particles_star(read_particles(star), tmp_path / "o.star")
    document = cif.read(str(tmp_path / "o.star"))
    assert [block.name for block in document] == ["optics", "particles"]
    assert len(document[1].find_loop("_rlnImageName")) == 6
    # a letter in front: no reader takes a uid for a number and rounds it
    assert all(uid.startswith("u") and len(uid) == 17 for uid in document[1].find_loop("_frazilUid"))
    assert (tmp_path / "o.star").read_text().startswith("# version 30001")


def test_a_list_of_stacks_is_all_their_images(tmp_path: Path, images: np.ndarray, write_mrc: Callable) -> None:
    (tmp_path / "data").mkdir()
    write_mrc(tmp_path / "data/a.mrcs", images[:2])
    write_mrc(tmp_path / "data/b.mrcs", images[2:])
    (tmp_path / "all.txt").write_text("data/a.mrcs\n\n# a comment\ndata/b.mrcs\n")
    particles = read_particles(tmp_path / "all.txt")
    assert (particles.count, particles.grid, particles.pose) == (6, Grid(16, 2.5), None)
    assert np.array_equal(particles.images(slice(None)), images)
    write_particles_star(particles[1:4], tmp_path / "o.star")
    assert np.array_equal(read_particles(tmp_path / "o.star").images(slice(None)), images[1:4])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the list names no stack"),
        ("a.mrcs\nnotes about things\n", r"l\.txt:2: 'notes about things' is no image stack"),
        ("gone.mrcs\n", "image stack gone.mrcs is not there"),
    ],
)
def test_a_wrong_list_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_particles(tmp_path / "l.txt")


def test_a_bare_stack_reads_and_doubts_a_pixel_size_of_one(tmp_path: Path, images, write_mrc: Callable) -> None:
    assert read_particles(write_mrc(tmp_path / "a.mrcs", images)).warnings == ()
    particles = read_particles(write_mrc(tmp_path / "b.mrcs", images, 1.0))
    assert "1 Å is probably not meant" in particles.warnings[0]
    assert read_particles(tmp_path / "b.mrcs", pixel_size=3.0).grid == Grid(16, 3.0)


def test_unknown_sampling_is_an_error_only_when_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text("data_\nloop_\n_rlnImageName #1\n1@gone.mrcs\n")
    particles = read_particles(tmp_path / "a.star", need_images=False)
    with pytest.raises(InputError, match="nothing states the box size"):
        _ = particles.grid
    assert read_particles(tmp_path / "a.star", need_images=False, box_size=8, pixel_size=2.0).grid == Grid(8, 2.0)
    with pytest.raises(InputError, match="states the pixel size"):
        _ = read_particles(tmp_path / "a.star", need_images=False, box_size=8).grid


def test_a_job_folder_stands_for_its_particles(star: Path, tmp_path: Path) -> None:
    write_particles_star(read_particles(star), tmp_path / "J001/outputs/particles.star")
    assert read_particles(tmp_path / "J001").count == 6
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no outputs/particles.star"):
        read_particles(tmp_path / "empty")


def test_other_files_and_missing_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(InputError, match=r"particles are read from \.star"):
        read_particles(tmp_path / "a.pdf")
    for name in ("a.star", "a.cs", "a.txt", "a.mrcs", "a.xyz"):
        with pytest.raises(InputError, match="no such file|is not there"):
            read_particles(tmp_path / "none" / name)


def test_a_new_stack_is_described_with_its_truth(tmp_path: Path, images: np.ndarray) -> None:
    grid, pose = Grid(16, 2.5), Pose.random(6, 4.0, torch.Generator().manual_seed(3))
    optics = Optics.make(
        voltage=300.0, cs=2.7, amplitude_contrast=0.1, defocus_u=torch.full((6,), 12000.0), beam_tilt_x=0.5
    )
    with StackWriter(tmp_path / "stack.mrcs", 16, 2.5) as stack:
        stack.append(images)
    half = torch.arange(6) % 2
    write_new_particles_star(
        tmp_path / "p.star",
        tmp_path / "stack.mrcs",
        grid,
        pose=pose,
        optics=optics,
        half_set=half,
        extra={"rlnClassNumber": half},
    )
    again = read_particles(tmp_path / "p.star")
    assert again.grid == grid and again.half_set is not None and again.half_set.tolist() == half.tolist()
    assert again.pose is not None and torch.allclose(again.pose.rotation, pose.rotation, atol=1e-6)
    assert again.optics is not None and float(again.optics.beam_tilt_x[0]) == 0.5
    assert np.array_equal(again.images(slice(None)), images)
    with mrcfile.open(tmp_path / "stack.mrcs") as reference:
        assert reference.is_image_stack()


@pytest.mark.parametrize("in_rows", [False, True], ids=["in the table of optics", "in every row"])
def test_a_new_beam_tilt_is_written_where_the_input_keeps_it(tmp_path: Path, images: np.ndarray, in_rows: bool) -> None:
    optics = Optics.make(voltage=300.0, cs=2.7, amplitude_contrast=0.1, defocus_u=torch.full((6,), 12000.0))
    with StackWriter(tmp_path / "stack.mrcs", 16, 2.5) as stack:
        stack.append(images)
    old = {"rlnBeamTiltX": np.full(6, 0.1), "rlnBeamTiltY": np.full(6, -0.1)} if in_rows else None
    star = tmp_path / "p.star"
    write_new_particles_star(star, tmp_path / "stack.mrcs", Grid(16, 2.5), optics=optics, extra=old)
    particles = read_particles(star)
    tilted = replace(optics, beam_tilt_x=torch.full((6,), 0.5), beam_tilt_y=torch.full((6,), -0.25))
    write_particles_star(particles.given(optics=tilted), star)
    again = read_particles(star).optics
    assert again is not None
    assert again.beam_tilt_x.tolist() == [0.5] * 6 and again.beam_tilt_y.tolist() == [-0.25] * 6
    shared, rows = read_star(star).blocks
    assert ("rlnBeamTiltX" in rows) == in_rows
    assert shared.numbers("rlnBeamTiltX").tolist() == [0.5]
