"""frazil inspect: one kind, the right facts, and warnings only where something is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frazil.data.inspect import Config, run
from frazil.data.mrc import StackWriter, write_volume
from frazil.data.plausibility import background_and_contrast
from frazil.data.recognise import recognise
from frazil.data.stack import read_particles, write_particles_star
from frazil.errors import InputError


def inspected(path: Path, **options: object) -> dict:
    found = run(Config(file=path, as_json=True, **options))  # type: ignore[arg-type]
    assert isinstance(found, dict)
    json.dumps(found, allow_nan=False)
    return found


def test_particles_give_count_sampling_optics_and_poses(star: Path) -> None:
    found = inspected(star)
    assert found["kind"] == "particles"
    assert (found["count"], found["box_size"], found["pixel_size"], found["voltage"]) == (6, 16, 2.5, 300.0)
    assert found["has_poses"] and found["has_ctf"]
    assert found["defocus_range"] == [14500.5, 15005.25]
    (group,) = found["optics_groups"]
    assert (group["name"], group["count"], group["box_size"], group["pixel_size"]) == ("opticsGroup1", 6, 16, 2.5)
    assert (group["voltage"], group["cs"], group["amplitude_contrast"]) == (300.0, 2.7, 0.07)
    assert found["half_sets"] == [3, 3]
    assert found["warnings"] == []


def test_what_scripts_ask_for_is_always_there(tmp_path: Path) -> None:
    (tmp_path / "picks.star").write_text("data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n")
    found = inspected(tmp_path / "picks.star")
    assert (found["count"], found["box_size"], found["optics_groups"], found["has_poses"]) == (1, None, [], False)
    assert {"pixel_size", "defocus_range", "voltage", "warnings"} <= set(found)


def test_the_text_for_people_has_units_and_warnings(star: Path) -> None:
    star.write_text(star.read_text().replace("15000.25", "1.5").replace("gone", "gone"))
    text = run(Config(file=star))
    assert isinstance(text, str)
    assert "pixel size      2.5 Å" in text and "particles (RELION 3.1 or later STAR)" in text


def changed(star: Path, *pairs: tuple[str, str]) -> list[str]:
    text = star.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    star.write_text(text)
    return inspected(star)["warnings"]


@pytest.mark.parametrize(
    ("pairs", "warning"),
    [
        ([(f"{15000 + row}.25 {14500 + row}.5", "1.5 1.4") for row in range(6)], "looks like µm"),
        (
            [(f"{15000 + row}.25 {14500 + row}.5", "-9000 -9500") for row in range(6)],
            "100% of the defocus values are negative",
        ),
        ([("15000.25", "150000.25")], "is unlikely: it must be in Å"),
        ([("300.000000 2.7", "300000 2.7")], "a voltage of 300000 is unlikely: it must be in kV"),
        ([("2.700000 0.07", "2700 0.07")], "a spherical aberration of 2700 is unlikely: it must be in mm"),
        ([("0.070000", "7.0")], "an amplitude contrast of 7 is unlikely"),
        ([("images.mrcs", "gone.mrcs")], "1 of 1 image stacks are not there, the first is gone.mrcs"),
        ([("000002@", "000001@")], "1 rows too many"),
        ([("000002@", "000009@")], "images.mrcs holds 6 images, the table asks for image 9"),
        ([("2.500000 16", "3.500000 16")], "the image header says 2.5 Å/px, the table 3.5: the table is believed"),
        ([(" 3.75 ", " 375 ")], "1 shifts reach beyond the edge of the box"),
        ([("2.500000 16", "0.020000 16")], "a pixel size of 0.02 Å is unlikely"),
        (
            [("_rlnSomethingElse", "_rlnCtfScalefactor"), *((f"kept{row}", "0.5") for row in range(6))],
            "rlnCtfScalefactor",
        ),
    ],
)
def test_what_looks_wrong_in_the_table_is_warned_of(star: Path, pairs: list, warning: str) -> None:
    assert any(warning in found for found in changed(star, *pairs))


def test_a_header_without_a_pixel_size_is_told_from_one_that_contradicts(
    star: Path, images, write_mrc: Callable
) -> None:
    write_mrc(star.parent / "images.mrcs", images, 1.0)
    assert inspected(star)["warnings"] == [
        "the image header says 1 Å/px, which programs write when they do not know: 2.5 is taken"
    ]


def many(folder: Path, images: np.ndarray, write_mrc: Callable, sign: int | None = None) -> list[str]:
    write_mrc(folder / "many.mrcs", images.astype(np.float32))
    return inspected(folder / "many.mrcs")["warnings"]


@pytest.fixture
def noisy_discs() -> np.ndarray:
    """40 images of a bright disc in noise, background mean 0 and deviation 1."""
    axis = np.arange(32) - 16
    disc = np.hypot(axis[:, None], axis) < 8
    return np.random.default_rng(5).normal(size=(40, 32, 32)) + 0.5 * disc


def test_bright_normalised_particles_raise_no_warning(tmp_path: Path, noisy_discs, write_mrc: Callable) -> None:
    assert many(tmp_path, noisy_discs, write_mrc) == []


def test_dark_particles_are_seen(tmp_path: Path, noisy_discs: np.ndarray, write_mrc: Callable) -> None:
    assert "particles look darker than the background" in many(tmp_path, -noisy_discs, write_mrc)[0]


def test_images_that_are_not_normalised_are_seen(tmp_path: Path, noisy_discs: np.ndarray, write_mrc: Callable) -> None:
    assert "background mean 200" in many(tmp_path, 200 + 10 * noisy_discs, write_mrc)[0]


def test_pure_noise_says_nothing_of_contrast(tmp_path: Path, write_mrc: Callable) -> None:
    assert many(tmp_path, np.random.default_rng(7).normal(size=(40, 32, 32)), write_mrc) == []


def test_nan_and_empty_images_are_counted_and_named(
    tmp_path: Path, noisy_discs: np.ndarray, write_mrc: Callable
) -> None:
    noisy_discs[3, 1, 1] = np.nan
    noisy_discs[7] = 0
    warnings = many(tmp_path, noisy_discs, write_mrc)
    assert warnings[0].endswith("hold NaN or infinity, the first is 000004@many.mrcs")
    assert warnings[1] == "1 of 40 images looked at are empty (one value throughout)"


def test_contrast_is_measured_in_deviations_of_the_background(noisy_discs: np.ndarray) -> None:
    import torch

    mean, deviation, contrast, certainty = background_and_contrast(torch.from_numpy(noisy_discs * 3 + 1).float())
    assert mean == pytest.approx(1, abs=0.05) and deviation == pytest.approx(3, rel=0.05)
    assert contrast == pytest.approx(0.5, abs=0.03) and certainty > 20


def test_maps_stacks_micrographs_and_folders_are_told_apart(
    tmp_path: Path, star: Path, images, write_mrc: Callable
) -> None:
    write_volume(tmp_path / "map.mrc", np.random.default_rng(0).normal(size=(16, 16, 16)), 1.7)
    write_mrc(tmp_path / "micrograph.mrc", np.ones((20, 30), np.float32) * 5, stack=False)
    write_particles_star(read_particles(star), tmp_path / "J001/outputs/particles.star")
    (tmp_path / "J001/status.json").write_text('{"verb": "reconstruct", "state": "finished"}')
    found = inspected(tmp_path / "map.mrc")
    assert (found["kind"], found["box_size"], found["pixel_size"], found["warnings"]) == ("map", 16, 1.7, [])
    found = inspected(tmp_path / "micrograph.mrc")
    assert (found["kind"], found["box_size"]) == ("micrograph", [30, 20, 1])
    found = inspected(tmp_path / "J001")
    assert (found["kind"], found["count"], found["verb"], found["state"]) == ("job", 6, "reconstruct", "finished")
    assert inspected(tmp_path / "images.mrcs")["kind"] == "particles"
    (tmp_path / "list.txt").write_text("images.mrcs\n")
    assert inspected(tmp_path / "list.txt")["count"] == 6


@pytest.mark.parametrize(
    ("name", "content", "kind", "count"),
    [
        ("a.star", "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n3 4\n", "picks", 2),
        ("a.star", "data_\nloop_\n_rlnMicrographName\n_rlnDefocusU\na.mrc 9000\n", "micrographs", 1),
        ("a.star", "data_movies\nloop_\n_rlnMicrographMovieName\na.tif\nb.tif\n", "movies", 2),
        ("a.star", "data_anything\n_x 1\n", "table", 1),
        ("a.box", "10 20 64 64\n30 40 64 64 0.5\n".replace(" 0.5", ""), "picks", 2),
        ("a.csv", "x,y\n1,2\n3,4\n", "picks", 2),
        ("a.tlt", "-60\n-58\n0\n", "tilt angles", 3),
        ("a.mdoc", "PixelSpacing = 1.5\n[ZValue = 0]\nTiltAngle = 3\n[ZValue = 1]\nTiltAngle = 6\n", "tilt series", 2),
        ("a.txt", "# Output from CTFFind version 4\n1 9000 8000 10 0 0.1 5\n", "ctf", 1),
        ("a.xml", "<?xml version='1.0'?><TiltSeries><Angles>1\n2</Angles></TiltSeries>", "tilt series", 2),
        ("a.pdb", "ATOM      1  N   MET A   1      27.340  24.430   2.614\n", "atomic model", 1),
        ("a.png", b"\x89PNG\r\n\x1a\n", "picture", 1),
    ],
)  # fmt: skip
def test_other_files_are_recognised(tmp_path: Path, name: str, content: str | bytes, kind: str, count: int) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = recognise(path)
    assert (found.kind, found.facts["count"]) == (kind, count)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", b"\0\1\2\3" * 500, "no kind of file that frazil knows"),
        ("a.txt", b"just some words\nand more\n", "no kind of file that frazil knows"),
        ("a.star", b"", "the file is empty"),
        ("a.box", b"10 20 64\n", "not the 4 numbers of EMAN boxes"),
        ("a.csv", b"1,2\n3,x\n", r"a\.csv:2: '3,x' is no row of 2 numbers"),
        ("a.xml", b"<a><b></a>", "damaged XML"),
        ("a.xml", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "XML with entities is not read"),
        ("a.mrc", b"abc" * 10, "an MRC header alone has 1024"),
        ("a.npy", b"\x93NUMPY broken", "cannot be read safely"),
        (
            "a.star",
            b"data_particles\nloop_\n_rlnImageName #1\n_rlnOpticsGroup #2\n\n",
            "the particle table has no rows",
        ),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        recognise(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_empty_folder_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        recognise(tmp_path / "none")
    with pytest.raises(InputError, match="no job folder and no single STAR file"):
        recognise(tmp_path)


def test_the_command_prints_json_alone_and_ends_with_2_on_bad_input(star: Path, run_frazil: Callable) -> None:
    done = run_frazil("inspect", star, "--json")
    assert done.code == 0 and json.loads(done.stdout)["count"] == 6
    done = run_frazil("inspect", star, "--images", star.parent / "images.mrcs", "--pixel-size", 3, "--json")
    assert json.loads(done.stdout)["pixel_size"] == 3
    done = run_frazil("inspect", star, "--box-size", 18, "--json")
    assert "the table says 18 pixels" in json.loads(done.stdout)["warnings"][0]
    done = run_frazil("inspect", star.parent / "none.star")
    assert done.code == 2 and done.stdout == "" and "no such file" in done.stderr


def test_a_stack_of_float16_is_inspected_too(tmp_path: Path, noisy_discs: np.ndarray) -> None:
    with StackWriter(tmp_path / "a.mrcs", 32, 2.0, dtype="float16") as stack:
        stack.append(noisy_discs)
    assert inspected(tmp_path / "a.mrcs")["format"] == "MRC stack, mode 12"
