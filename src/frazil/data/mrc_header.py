"""The 1,024 bytes at the start of an MRC file (Cheng et al. 2015, MRC2014), read in either byte order and written."""

from __future__ import annotations

import bz2
import gzip
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np

from frazil.errors import InputError

HEADER_BYTES = 1024

_FIELDS = np.dtype(
    [
        ("size", "<i4", 3), ("mode", "<i4"), ("start", "<i4", 3), ("intervals", "<i4", 3), ("cell", "<f4", 3),
        ("angles", "<f4", 3), ("axes", "<i4", 3), ("minimum", "<f4"), ("maximum", "<f4"), ("mean", "<f4"),
        ("space_group", "<i4"), ("extended", "<i4"), ("extra1", "V8"), ("extended_kind", "S4"), ("version", "<i4"),
        ("extra2", "V40"), ("imod_stamp", "<i4"), ("imod_flags", "<i4"), ("extra3", "V36"), ("origin", "<f4", 3),
        ("map", "S4"), ("stamp", "u1", 4), ("rms", "<f4"), ("label_count", "<i4"), ("labels", "S80", 10),
    ]
)  # fmt: skip

_TYPES = {0: "i1", 1: "i2", 2: "f4", 3: "i2", 4: "c8", 6: "u2", 12: "f2"}
_REFUSED = {16: "RGB colours", 17: "cryoDRGN's private 8-bit mode", 101: "4-bit integers"}
_IMOD_STAMP = 1146047817  # "IMOD" as an integer: the flags after it are meant
_LARGEST_SIDE = 1 << 20  # more pixels than this along one side means: wrong byte order, or no MRC file


@final
@dataclass(frozen=True)
class MrcHeader:
    """What an MRC header says, and what the file behind it holds.

    Attributes:
        size: (x, y, z) samples; in a stack z counts the images. mode: MRC mode. dtype: type on disk with byte order.
        offset: bytes before the first sample, extended header included. pixel_size: (x, y, z) Å, 0 when not stated.
        axes: which of x, y, z = 1, 2, 3 runs along columns, rows and sections. space_group: 0 image stack, 1 volume,
        401 and above a stack of volumes. held: sections that the file really holds. little: its byte order.
    """

    size: tuple[int, int, int]
    mode: int
    dtype: np.dtype
    offset: int
    pixel_size: tuple[float, float, float]
    axes: tuple[int, int, int]
    space_group: int
    held: int
    little: bool = True
    labels: tuple[str, ...] = ()

    @property
    def section_bytes(self) -> int:
        """Bytes of one image (or one section of a map)."""
        return self.size[0] * self.size[1] * self.dtype.itemsize * (2 if self.mode == 3 else 1)

    def checked(self, path: Path) -> MrcHeader:
        """The header itself; raises InputError when the file holds fewer sections than it says."""
        x, y, said = self.size
        if self.held < said:
            raise InputError(
                f"the header says {said} images of {x} × {y}, the file holds {self.held}: it is cut short",
                where=path,
                remedy="copy or write the file again, or correct the count in its header",
            )
        return self


def read_header(path: Path) -> MrcHeader:
    """Read and check the header of an MRC file (not compressed). Raises InputError when it is no MRC file."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(HEADER_BYTES)
            size = path.stat().st_size
            header = parse_header(start, size, path)
            if header.mode != 0:
                return header
            file.seek(header.offset)
            sample = file.read(min(header.section_bytes * header.size[2], 1 << 18))
    except FileNotFoundError:
        raise InputError("no such file", where=path, remedy="check the path") from None
    except IsADirectoryError:
        raise InputError("this is a folder, not an MRC file", where=path) from None
    return with_signedness(header, start, sample)


def read_bytes(path: Path) -> bytes:
    """The whole file, decompressed when it is gzip or bzip2 (told by its first bytes, not by its name)."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError("no such file", where=path, remedy="check the path") from None
    except IsADirectoryError:
        raise InputError("this is a folder, not an MRC file", where=path) from None
    try:
        return (
            gzip.decompress(data) if data[:2] == b"\x1f\x8b" else bz2.decompress(data) if data[:3] == b"BZh" else data
        )
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise InputError(f"damaged compressed file ({error})", where=path, remedy="copy it again") from None


def is_compressed(path: Path) -> bool:
    """Whether the file is gzip or bzip2."""
    try:
        with open(path, "rb") as file:
            start = file.read(3)
    except OSError:
        return False
    return start[:2] == b"\x1f\x8b" or start == b"BZh"


def parse_header(start: bytes, file_bytes: int, path: Path) -> MrcHeader:
    """The header in the first bytes of a file of `file_bytes` bytes."""
    if len(start) < HEADER_BYTES:
        raise InputError(
            f"the file has {len(start)} bytes, an MRC header alone has {HEADER_BYTES}",
            where=path,
            remedy="copy or write the file again",
        )
    fields = np.frombuffer(start, _FIELDS, count=1)[0]
    little = None if _is_spider(start) else _is_little(fields)
    if little is None:
        raise _not_mrc(start, path)
    if not little:
        fields = np.frombuffer(start, _FIELDS.newbyteorder(">"), count=1)[0]
    mode = int(fields["mode"])
    if mode not in _TYPES:
        what = _REFUSED.get(mode, "unknown")
        raise InputError(
            f"MRC mode {mode} ({what}) cannot be read", where=path, remedy="convert it to mode 2 (32-bit numbers)"
        )
    x, y, z = (int(value) for value in fields["size"])
    dtype = np.dtype(_TYPES[mode]).newbyteorder("<" if little else ">")
    offset = HEADER_BYTES + max(int(fields["extended"]), 0)
    section = x * y * dtype.itemsize * (2 if mode == 3 else 1)
    held = max(min((file_bytes - offset) // section, z), 0)
    columns, lines, sections = (int(axis) for axis in fields["axes"])
    # many programs leave these empty
    axes = (columns, lines, sections) if sorted((columns, lines, sections)) == [1, 2, 3] else (1, 2, 3)
    labels = tuple(_label(label) for label in fields["labels"][: max(0, min(int(fields["label_count"]), 10))])
    return MrcHeader(
        (x, y, z), mode, dtype, offset, _pixel_size(fields), axes, int(fields["space_group"]), held, little, labels
    )  # fmt: skip


def with_signedness(header: MrcHeader, start: bytes, sample: bytes) -> MrcHeader:
    """Mode 0 as signed or unsigned bytes.

    MRC2014 says signed. IMOD's stamp, where present, decides by its first flag bit. Otherwise the range in the header
    decides when it is set; in files older than MRC2014 the smoother of the two readings does, since reading bytes with the
    wrong sign tears neighbouring values 256 apart.
    """
    order = "<" if header.little else ">"
    fields = np.frombuffer(start, _FIELDS.newbyteorder(order), count=1)[0]
    if int(fields["imod_stamp"]) == _IMOD_STAMP:
        unsigned = not int(fields["imod_flags"]) & 1
    elif fields["maximum"] > 127.5 and 0 <= fields["minimum"] < fields["maximum"] <= 255.5:
        unsigned = True
    elif int(fields["version"]) >= 20140 or -128.5 < fields["minimum"] < -0.5:
        unsigned = False
    else:
        values = np.frombuffer(sample, np.uint8)
        rough = [np.abs(np.diff(values.view(kind).astype(np.int16))).mean() if values.size > 1 else 0.0
                 for kind in (np.int8, np.uint8)]  # fmt: skip
        unsigned = bool(rough[1] < 0.5 * rough[0])
    return replace(header, dtype=np.dtype(np.uint8)) if unsigned else header


def make_header(
    size: tuple[int, int, int],
    dtype: np.dtype,
    pixel_size: float,
    *,
    is_volume: bool,
    minimum: float,
    maximum: float,
    mean: float,
    rms: float,
    label: str = "frazil",
) -> bytes:
    """An MRC2014 header, little-endian, for float32 (mode 2), float16 (12), int16 (1), uint16 (6) or int8 (0)."""
    modes = {"f4": 2, "f2": 12, "i2": 1, "u2": 6, "i1": 0, "c8": 4}
    fields = np.zeros((), _FIELDS)
    sections = size[2] if is_volume else 1
    fields["size"], fields["mode"] = size, modes[np.dtype(dtype).str[1:]]
    fields["intervals"] = (size[0], size[1], sections)
    fields["cell"] = np.array([size[0], size[1], sections], np.float64) * pixel_size
    fields["angles"], fields["axes"] = 90, (1, 2, 3)
    fields["minimum"], fields["maximum"], fields["mean"], fields["rms"] = minimum, maximum, mean, rms
    fields["space_group"], fields["version"] = int(is_volume), 20140
    fields["map"], fields["stamp"] = b"MAP ", (0x44, 0x44, 0, 0)
    fields["label_count"] = 1
    fields["labels"][0] = label.encode("ascii", "replace")[:80].ljust(80)
    return fields.tobytes()


def _is_little(fields: np.void) -> bool | None:
    """The byte order in which size and mode make sense; the machine stamp is often wrong and only breaks a tie."""
    sensible = []
    for little, record in ((True, fields), (False, np.frombuffer(fields.tobytes(), _FIELDS.newbyteorder(">"))[0])):
        known = int(record["mode"]) in _TYPES or int(record["mode"]) in _REFUSED
        extended = 0 <= int(record["extended"]) < 1 << 30
        sides = (
            all(0 < int(side) < _LARGEST_SIDE for side in record["size"][:2]) and 0 < int(record["size"][2]) < 1 << 30
        )
        if known and sides and extended:
            sensible.append(little)
    if len(sensible) == 2:
        return int(fields["stamp"][0]) != 0x11
    return sensible[0] if sensible else None


def _is_spider(start: bytes) -> tuple[int, int, int] | None:
    """(x, y, z) of a SPIDER file: a header of floats with slices, rows, ..., kind (1 image, 3 volume), ..., columns."""
    if start[208:211] == b"MAP":
        return None
    for order in "<>":
        values = np.frombuffer(start[:96], order + "f4")
        slices, rows, kind, columns = (float(values[place]) for place in (0, 1, 4, 11))
        sides = all(
            side == int(side) and 0 < side < _LARGEST_SIDE for side in (slices, rows, columns) if np.isfinite(side)
        )
        if kind in (1, 3) and all(map(np.isfinite, (slices, rows, columns))) and sides:
            return int(columns), int(rows), int(slices)
    return None


def _not_mrc(start: bytes, path: Path) -> InputError:
    spider = _is_spider(start)
    if spider is not None:
        x, y, z = spider
        return InputError(
            f"this is a SPIDER file ({x} × {y} × {z}), not MRC",
            where=path,
            remedy="convert it, for example with relion_image_handler --i FILE --o FILE.mrc --angpix SIZE",
        )
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0"):
        return InputError("this is a TIFF file, not MRC", where=path, remedy="convert it to MRC")
    return InputError(
        "not an MRC file: neither byte order gives a sensible header",
        where=path,
        remedy="try frazil inspect, or copy it again",
    )


def _pixel_size(fields: np.void) -> tuple[float, float, float]:
    sizes = []
    for length, intervals in zip(fields["cell"], fields["intervals"], strict=True):
        stated = np.isfinite(length) and length > 0 and intervals > 0
        # the header holds single precision: six digits are all it knows
        sizes.append(float(f"{float(length) / int(intervals):.6g}") if stated else 0.0)
    return sizes[0], sizes[1], sizes[2]


def _label(label: bytes) -> str:
    return label.decode("latin-1").strip("\0 ")
