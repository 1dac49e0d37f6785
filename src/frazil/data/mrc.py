"""Maps and image stacks in MRC files: read in part or whole, written as a stream, always put in place in one step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from frazil.data.mrc_header import (
    HEADER_BYTES,
    MrcHeader,
    is_compressed,
    make_header,
    parse_header,
    read_bytes,
    read_header,
    with_signedness,
)
from frazil.engine.files import atomic_write
from frazil.errors import InputError
from frazil.physics.grid import Grid

SMALLEST_BOX = 4
_UNSTATED = (0.0, 1.0)  # header pixel sizes that nobody set on purpose


def read_array(path: Path) -> tuple[np.ndarray, MrcHeader]:
    """The samples of an MRC file as they are on disk (native byte order), axes (z, y, x), with the header.

    gzip and bzip2 are unpacked. A map whose file runs along other axes is turned to (z, y, x). Mode 3 (pairs of integers)
    and 4 come as complex64. Raises InputError for anything that is no complete MRC file.
    """
    path = Path(path)
    data = read_bytes(path)
    header = parse_header(data[:HEADER_BYTES], len(data), path)
    if header.mode == 0:
        header = with_signedness(header, data[:HEADER_BYTES], data[header.offset : header.offset + (1 << 18)])
    header.checked(path)
    x, y, z = header.size
    count = x * y * z * (2 if header.mode == 3 else 1)
    values = np.frombuffer(data, header.dtype, count, header.offset)
    values = values.astype(header.dtype.newbyteorder("="))
    if header.mode == 3:
        values = values.astype(np.float32).view(np.complex64)
    values = values.reshape(z, y, x)
    # sections, rows, columns hold axes[2], axes[1], axes[0]: bring z first, then y, then x
    order = [header.axes[::-1].index(axis) for axis in (3, 2, 1)]
    return np.ascontiguousarray(values.transpose(order)), header


def read_map(path: Path, pixel_size: float | None = None) -> tuple[Tensor, float]:
    """A map of any shape as a float32 tensor (z, y, x), or complex64 in mode 4, with its pixel size in Å.

    `pixel_size` is needed only where the header states none. Raises InputError when there is none, or when the axes differ.
    """
    values, header = read_array(path)
    kind = np.complex64 if np.iscomplexobj(values) else np.float32
    return torch.from_numpy(values.astype(kind)), pixel_size or _pixel_size_of(header, Path(path))


def read_volume(path: Path, pixel_size: float | None = None) -> tuple[Float[Tensor, "n n n"], Grid]:
    """A cubic map, axes (z, y, x), and its grid.

    Raises InputError when the file is no complete MRC map, is not a cube, holds Fourier coefficients, or states no pixel
    size and none is given.
    """
    values, size = read_map(path, pixel_size)
    if values.is_complex():
        raise InputError(
            "this map holds complex numbers (MRC mode 4)", where=path, remedy="give the map, not its Fourier transform"
        )
    if len(set(values.shape)) != 1:
        z, y, x = values.shape
        raise InputError(f"this map has {x} × {y} × {z} voxels and is no cube", where=path, remedy="pad it to a cube")
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).sum())
        raise InputError(f"{bad} voxels are not numbers (NaN or infinite)", where=path, remedy="write the map again")
    if values.shape[0] < SMALLEST_BOX:
        raise InputError(f"a map of {values.shape[0]} voxels a side is too small", where=path, remedy="give a real map")
    return values, Grid(values.shape[0], size)


def write_volume(path: Path, values: Float[Tensor, "z y x"] | np.ndarray, pixel_size: float) -> None:
    """Write a map (z, y, x) as float32 MRC2014, atomically. `pixel_size` in Å."""
    array = np.ascontiguousarray(_numpy(values), dtype="<f4")
    header = make_header(
        (array.shape[2], array.shape[1], array.shape[0]), array.dtype, pixel_size, is_volume=True,
        minimum=float(array.min()), maximum=float(array.max()), mean=float(array.mean(dtype=np.float64)),
        rms=float(array.std(dtype=np.float64)),
    )  # fmt: skip
    with atomic_write(Path(path)) as temporary, open(temporary, "wb") as file:
        file.write(header)
        file.write(_bytes(array))


@final
class StackFile:
    """An image stack on disk: nothing is read but the images asked for. `header` spares reading it when it is known.

    Attributes:
        header: what the file says of itself. count: images. box: (rows, columns).
    """

    def __init__(self, path: Path, header: MrcHeader | None = None) -> None:
        self.path = Path(path)
        self._whole: np.ndarray | None = None
        self._descriptor: int | None = None
        if is_compressed(self.path):
            self._whole, self.header = read_array(self.path)
        else:
            self.header = header or read_header(self.path).checked(self.path)
        if self.header.mode in (3, 4):
            raise InputError(
                "this stack holds complex numbers",
                where=self.path,
                remedy="give the images, not their Fourier transforms",
            )

    @property
    def count(self) -> int:
        """Number of images."""
        return self.header.size[2]

    @property
    def box(self) -> tuple[int, int]:
        """Rows and columns of an image."""
        return self.header.size[1], self.header.size[0]

    @property
    def pixel_size(self) -> float:
        """Å per pixel as the header has it; 0 where it has none."""
        return self.header.pixel_size[0]

    def read(self, indices: Sequence[int] | np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Images by 0-based index as float32 (len, rows, columns); consecutive images are read in one go.

        Raises InputError when an index is not in the file.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if out is None:
            out = np.empty((len(indices), *self.box), np.float32)
        if len(indices) == 0:
            return out
        if indices.min() < 0 or indices.max() >= self.count:
            wrong = int(indices.max() if indices.max() >= self.count else indices.min())
            raise InputError(
                f"image {wrong + 1} is asked for, the file holds {self.count}",
                where=self.path,
                remedy="give the stack that belongs to this table",
            )
        if self._whole is not None:
            out[:] = self._whole[indices]
            return out
        starts = np.flatnonzero(np.diff(indices, prepend=indices[0] - 2) != 1)
        for start, stop in zip(starts, [*starts[1:], len(indices)], strict=True):
            self._read_run(int(indices[start]), out[start:stop])
        return out

    def _read_run(self, first: int, out: np.ndarray) -> None:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        direct = self.header.dtype == np.dtype("<f4") and out.flags.c_contiguous
        target = out if direct else np.empty(out.shape, self.header.dtype)
        view = _bytes(target)
        offset = self.header.offset + first * self.header.section_bytes
        done = 0
        while done < len(view):
            got = os.preadv(self._descriptor, [view[done:]], offset + done)
            if got == 0:
                raise InputError("the file became shorter while it was read", where=self.path, remedy="copy it again")
            done += got
        if not direct:
            out[:] = target

    def close(self) -> None:
        """Let go of the file; it opens again when read."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.close()


@final
class StackWriter:
    """Writes an image stack as it is made; the file appears under its name only when it is complete.

    >>> with StackWriter(path, box_size=64, pixel_size=4.0) as stack:  # doctest: +SKIP
    ...     stack.append(images)
    """

    def __init__(self, path: Path, box_size: int, pixel_size: float, dtype: str = "float32") -> None:
        self.path = Path(path)
        self.box_size = box_size
        self.pixel_size = pixel_size
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.count = 0
        self._sums = np.zeros(2)
        self._range = (np.inf, -np.inf)
        self._writing = atomic_write(self.path)

    def __enter__(self) -> Self:
        self._temporary = self._writing.__enter__()
        self._file = open(self._temporary, "wb")
        self._file.write(bytes(HEADER_BYTES))
        return self

    def append(self, images: Float[Tensor, "batch n n"] | np.ndarray) -> None:
        """Add images at the end."""
        array = _numpy(images)
        if array.shape[1:] != (self.box_size, self.box_size):
            raise ValueError(f"images of {array.shape[1:]} do not fit a stack of {self.box_size} pixels")
        self._sums += array.sum(dtype=np.float64), np.square(array, dtype=np.float64).sum()
        if array.size:
            self._range = min(self._range[0], float(array.min())), max(self._range[1], float(array.max()))
        self._file.write(_bytes(np.ascontiguousarray(array, dtype=self.dtype)))
        self.count += len(array)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._file.seek(0)
            self._file.write(self._header())
        self._file.close()
        self._writing.__exit__(kind, error, trace)

    def _header(self) -> bytes:
        samples = max(self.count * self.box_size**2, 1)
        mean = self._sums[0] / samples
        low, high = self._range if self.count else (0.0, -1.0)
        return make_header(
            (self.box_size, self.box_size, self.count), self.dtype, self.pixel_size, is_volume=False,
            minimum=low, maximum=high, mean=mean, rms=float(np.sqrt(max(self._sums[1] / samples - mean**2, 0.0))),
        )  # fmt: skip


def write_stack(path: Path, images: Float[Tensor, "count n n"] | np.ndarray, pixel_size: float) -> None:
    """Write images that are all in memory as a float32 MRC stack, atomically. `pixel_size` in Å."""
    with StackWriter(path, images.shape[-1], pixel_size) as stack:
        stack.append(images)


def states_pixel_size(pixel_size: float) -> bool:
    """Whether a header's pixel size was set on purpose: 0 and exactly 1.0 are what programs write when they do not know."""
    return pixel_size not in _UNSTATED and np.isfinite(pixel_size) and 0.05 < pixel_size < 200


def _pixel_size_of(header: MrcHeader, path: Path) -> float:
    x, y, z = header.pixel_size
    if x <= 0:
        raise InputError("the header states no pixel size", where=path, remedy="give it with --pixel-size, in Å")
    if max(abs(y / x - 1), abs(z / x - 1)) > 0.01 and header.size[2] > 1:
        raise InputError(
            f"the voxels are not cubes ({x:g} × {y:g} × {z:g} Å)",
            where=path,
            remedy="give the true size with --pixel-size",
        )
    return x


def _numpy(values: Tensor | np.ndarray) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _bytes(array: np.ndarray) -> memoryview:
    """A contiguous array's memory, in whatever byte order and type."""
    return array.reshape(-1).view(np.uint8).data
