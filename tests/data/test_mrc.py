"""MRC files against mrcfile: every mode, both byte orders, extended headers, and what is broken."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frazil.data.mrc import StackFile, StackWriter, read_array, read_volume, write_stack, write_volume
from frazil.data.mrc_header import read_header
from frazil.errors import InputError

MODES = {0: np.int8, 1: np.int16, 2: np.float32, 4: np.complex64, 6: np.uint16, 12: np.float16}


def raw_mrc(values: np.ndarray, mode: int, order: str = "<", **words: int) -> bytes:
    """An MRC file put together by hand from the specification; `words` are 4-byte words by 1-based number, w57=..."""
    header = np.zeros(256, order + "i4")
    z, y, x = values.shape
    header[:4] = x, y, z, mode
    header[7:10] = x, y, z
    header[10:13] = np.array([x, y, z], order + "f4").view(order + "i4")
    header[16:19] = 1, 2, 3
    data = bytearray(header.tobytes())
    data[208:212] = b"MAP "
    data[212:216] = bytes((0x44, 0x44, 0, 0)) if order == "<" else bytes((0x11, 0x11, 0, 0))
    for name, value in words.items():
        place = 4 * (int(name[1:]) - 1)
        kind = "f4" if isinstance(value, float) else "i4"
        data[place : place + 4] = np.array([value], order + kind).tobytes()
    return bytes(data) + values.astype(values.dtype.newbyteorder(order)).tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", sorted(MODES))
def test_every_mode_in_either_byte_order_reads_as_mrcfile_reads_it(tmp_path: Path, mode: int, order: str) -> None:
    values = (np.random.default_rng(mode).normal(size=(3, 4, 5)) * 20).astype(MODES[mode])
    values = np.abs(values) if mode == 6 else values
    path = tmp_path / "a.mrc"
    path.write_bytes(raw_mrc(values, mode, order, w28=20140))
    with mrcfile.open(path) as reference:
        assert np.array_equal(read_array(path)[0], reference.data)
    assert np.array_equal(read_array(path)[0], values)


def test_a_wrong_machine_stamp_does_not_turn_the_bytes(tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    data = bytearray(raw_mrc(values, 2, ">"))
    data[212:216] = bytes((0x44, 0x44, 0, 0))
    (tmp_path / "a.mrc").write_bytes(data)
    assert np.array_equal(read_array(tmp_path / "a.mrc")[0], values)


@pytest.mark.parametrize(
    ("words", "unsigned"),
    [
        ({"w28": 20140}, False),
        ({"w39": 1146047817, "w40": 0}, True),
        ({"w39": 1146047817, "w40": 1}, False),
        ({"w20": 0.0, "w21": 250.0}, True),
        ({"w20": -100.0, "w21": 100.0}, False),
    ],
    ids=["MRC2014", "IMOD unsigned", "IMOD signed", "header range above 127", "header range below 0"],
)
def test_mode_0_is_signed_unless_the_file_says_otherwise(tmp_path: Path, words: dict, unsigned: bool) -> None:
    stored = np.array([0, 1, 127, 128, 200, 255], np.uint8).reshape(1, 2, 3)
    (tmp_path / "a.mrc").write_bytes(raw_mrc(stored, 0, **words))
    expected = stored if unsigned else stored.view(np.int8)
    assert np.array_equal(read_array(tmp_path / "a.mrc")[0], expected)


def test_an_old_mode_0_file_is_read_with_the_sign_that_makes_it_smooth(tmp_path: Path) -> None:
    ramp = np.linspace(90, 160, 400).astype(np.uint8).reshape(1, 20, 20)
    (tmp_path / "a.mrc").write_bytes(raw_mrc(ramp, 0))
    assert np.array_equal(read_array(tmp_path / "a.mrc")[0], ramp)
    wave = (20 * np.sin(np.arange(400) / 9)).astype(np.int8).reshape(1, 20, 20)
    (tmp_path / "b.mrc").write_bytes(raw_mrc(wave, 0))
    assert np.array_equal(read_array(tmp_path / "b.mrc")[0], wave)


def test_an_extended_header_is_passed_over(tmp_path: Path, images: np.ndarray) -> None:
    path = tmp_path / "a.mrcs"
    with mrcfile.new(path) as file:
        file.set_data(images)
        file.set_extended_header(np.arange(64, dtype=np.float32))
        file.set_image_stack()
    assert np.array_equal(StackFile(path).read([4, 1]), images[[4, 1]])


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress], ids=["gzip", "bzip2"])
def test_packed_maps_and_stacks_read(tmp_path: Path, images: np.ndarray, write_mrc: Callable, pack: Callable) -> None:
    plain = write_mrc(tmp_path / "a.mrcs", images)
    packed = tmp_path / "a.mrcs.packed"
    packed.write_bytes(pack(plain.read_bytes()))
    assert np.array_equal(read_array(packed)[0], images)
    assert np.array_equal(StackFile(packed).read([3]), images[[3]])


def test_a_map_with_turned_axes_comes_out_as_z_y_x(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)  # (z, y, x)
    # columns run along z, rows along x, sections along y, as in EMDB's EMD-3001
    stored = values.transpose(1, 2, 0)
    (tmp_path / "a.map").write_bytes(raw_mrc(stored, 2, w17=3, w18=1, w19=2))
    assert np.array_equal(read_array(tmp_path / "a.map")[0], values)


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 9), st.floats(0.3, 20), st.integers(0, 2**31))
def test_a_written_map_is_valid_and_reads_back(
    tmp_path_factory: pytest.TempPathFactory, box: int, pixel_size: float, seed: int
) -> None:
    path = tmp_path_factory.mktemp("map") / "a.mrc"
    values = torch.randn(box, box, box, generator=torch.Generator().manual_seed(seed))
    write_volume(path, values, pixel_size)
    assert mrcfile.validate(str(path))
    with mrcfile.open(path) as reference:
        assert np.array_equal(reference.data, values.numpy())
        assert reference.is_volume()
        assert float(reference.voxel_size.x) == pytest.approx(pixel_size, rel=1e-6)
    back, grid = read_volume(path)
    assert torch.equal(back, values)
    assert grid.pixel_size == pytest.approx(pixel_size, rel=1e-5)


def test_a_streamed_stack_is_valid_and_its_statistics_are_right(tmp_path: Path, images: np.ndarray) -> None:
    path = tmp_path / "a.mrcs"
    with StackWriter(path, 16, 2.5) as stack:
        stack.append(torch.from_numpy(images[:4]))
        assert not path.exists()
        stack.append(images[4:])
    assert mrcfile.validate(str(path))
    with mrcfile.open(path) as reference:
        assert np.array_equal(reference.data, images)
        assert reference.is_image_stack()
        assert float(reference.voxel_size.x) == pytest.approx(2.5)
        assert float(reference.header.rms) == pytest.approx(images.std(), rel=1e-5)
        assert float(reference.header.dmin) == images.min()


def test_a_stack_whose_writing_fails_leaves_nothing(tmp_path: Path, images: np.ndarray) -> None:
    with pytest.raises(RuntimeError, match="stop"), StackWriter(tmp_path / "a.mrcs", 16, 1.0) as stack:
        stack.append(images)
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_float16_stacks_are_written_and_read(tmp_path: Path, images: np.ndarray) -> None:
    with StackWriter(tmp_path / "a.mrcs", 16, 1.5, dtype="float16") as stack:
        stack.append(images)
    with mrcfile.open(tmp_path / "a.mrcs") as reference:
        assert reference.header.mode == 12
    assert np.array_equal(StackFile(tmp_path / "a.mrcs").read(range(6)), images.astype(np.float16).astype(np.float32))


def test_images_read_in_any_order_with_repeats(tmp_path: Path, images: np.ndarray) -> None:
    write_stack(tmp_path / "a.mrcs", images, 1.5)
    stack = StackFile(tmp_path / "a.mrcs")
    for rows in ([0, 1, 2], [5, 4, 3], [2, 2, 0, 1, 5], []):
        assert np.array_equal(stack.read(rows), images[rows])
    stack.close()
    assert np.array_equal(stack.read([5]), images[[5]])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("mode", "kind"), [(0, np.int8), (1, np.int16), (2, np.float32), (6, np.uint16), (12, np.float16)]
)
def test_a_stack_of_any_mode_and_byte_order_reads_image_by_image(
    tmp_path: Path, mode: int, kind: type, order: str
) -> None:
    values = np.random.default_rng(2).integers(0, 100, (5, 6, 6)).astype(kind)
    (tmp_path / "a.mrcs").write_bytes(raw_mrc(values, mode, order, w28=20140))
    found = StackFile(tmp_path / "a.mrcs").read([1, 2, 4])
    assert found.dtype == np.float32 and np.array_equal(found, values[[1, 2, 4]].astype(np.float32))


def test_stacks_of_fourier_transforms_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mrcs").write_bytes(raw_mrc(np.zeros((2, 4, 4), np.complex64), 4))
    with pytest.raises(InputError, match="this stack holds complex numbers"):
        StackFile(tmp_path / "a.mrcs")


def test_an_unknown_pixel_size_is_zero(tmp_path: Path, images: np.ndarray, write_mrc: Callable) -> None:
    assert read_header(write_mrc(tmp_path / "a.mrcs", images, 0.0)).pixel_size == (0, 0, 0)


def with_size(images: np.ndarray, count: int) -> bytes:
    data = bytearray(raw_mrc(images, 2))
    data[8:12] = np.array([count], "<i4").tobytes()
    return bytes(data)


def test_a_stack_cut_short_says_what_it_should_hold_and_what_it_does(tmp_path: Path, images: np.ndarray) -> None:
    (tmp_path / "a.mrcs").write_bytes(with_size(images, 11029))
    with pytest.raises(
        InputError, match=r"a\.mrcs: the header says 11029 images of 16 × 16, the file holds 6: it is cut"
    ):
        StackFile(tmp_path / "a.mrcs")
    (tmp_path / "b.mrc").write_bytes(raw_mrc(images, 2)[:-1])
    with pytest.raises(InputError, match="the file holds 5"):
        read_array(tmp_path / "b.mrc")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes, an MRC header alone has 1024"),
        (b"x" * 2000, "not an MRC file"),
        (raw_mrc(np.zeros((1, 2, 2), np.int8), 101), r"MRC mode 101 \(4-bit integers\) cannot be read"),
        (raw_mrc(np.zeros((1, 2, 2), np.int8), 17), "MRC mode 17"),
        (b"II*\0" + b"\xff" * 2000, "TIFF"),
        (gzip.compress(b"a" * 5000)[:30], "damaged compressed file"),
    ],
    ids=["empty", "noise", "4 bit", "private", "tiff", "cut gzip"],
)
def test_what_is_no_mrc_file_is_refused_with_a_reason(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.mrc").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_array(tmp_path / "a.mrc")


def test_a_spider_file_is_named_as_such(tmp_path: Path) -> None:
    header = np.zeros(300, "<f4")
    header[[0, 1, 4, 11]] = 8, 9, 3, 10
    (tmp_path / "a.vol").write_bytes(header.tobytes() + bytes(4 * 720))
    with pytest.raises(InputError, match=r"SPIDER file \(10 × 9 × 8\).*Convert it"):
        read_array(tmp_path / "a.vol")


def test_volumes_that_cannot_be_used_say_why(tmp_path: Path, write_mrc: Callable) -> None:
    cube = np.ones((4, 4, 4), np.float32)
    with pytest.raises(InputError, match="4 × 3 × 2 voxels and is no cube"):
        read_volume(write_mrc(tmp_path / "a.mrc", np.ones((2, 3, 4), np.float32), 2.0, stack=False))
    with pytest.raises(InputError, match="no pixel size.*--pixel-size"):
        read_volume(write_mrc(tmp_path / "b.mrc", cube, 0.0, stack=False))
    with pytest.raises(InputError, match="complex numbers"):
        read_volume(write_mrc(tmp_path / "c.mrc", cube.astype(np.complex64), 2.0, stack=False))
    cube[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="1 voxels are not numbers"):
        read_volume(write_mrc(tmp_path / "d.mrc", cube, 2.0, stack=False))
    with pytest.raises(InputError, match="no such file"):
        read_volume(tmp_path / "none.mrc")


def test_an_image_that_is_not_in_the_stack_is_refused(tmp_path: Path, images: np.ndarray, write_mrc: Callable) -> None:
    stack = StackFile(write_mrc(tmp_path / "a.mrcs", images))
    with pytest.raises(InputError, match="image 7 is asked for, the file holds 6"):
        stack.read([0, 6])
