"""cryoDRGN's pickles, read without running them and written so that its tools read them.

Layouts (cryodrgn 4.3): poses `(rotation (N, 3, 3), translation (N, 2) as a fraction of the box)`; CTF `(N, 9)`: box, Å/px,
defocus U, V (Å), angle (°), kV, Cs (mm), amplitude contrast, phase shift (°); particle indices, 0-based; latents: the means,
and in the same file after them the log-variances.

A pickle is a program. Only the few constructors that NumPy arrays need are let through here; anything else is an error
before it runs.
"""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from frazil.data.relion import sorted_defocus
from frazil.engine.files import atomic_write
from frazil.errors import InputError
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose

_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
CTF_COLUMNS = 9


def read_pickle(path: Path) -> list[Any]:
    """Every object pickled in a file (gzip too), one after the other: arrays, numbers, strings and lists or tuples of them.

    Raises InputError, before anything runs, when the file would build anything else.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError("no such file", where=path, remedy="check the path") from None
    try:
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        stream, found = io.BytesIO(data), []
        while stream.tell() < len(data):
            found.append(_ArrayUnpickler(stream, Path(path)).load())
    except InputError:
        raise
    # a damaged pickle fails in as many ways as it has opcodes
    except Exception as error:
        raise InputError(
            f"damaged or no pickle ({type(error).__name__}: {str(error)[:80]})", where=path, remedy="write it again"
        ) from None
    if not found:
        raise InputError("the file is empty", where=path, remedy="write it again")
    for value in found:
        _refuse_objects(value, Path(path))
    return found


def read_pose(path: Path, extent: float | Tensor) -> Pose:
    """Poses; `extent` is the side of the box in Å, since the file has shifts as a fraction of it.

    A bare (N, 3, 3) array of rotations means no shifts. Raises InputError when the file is no pose pickle.
    """
    value = read_pickle(path)
    parts = value[0] if len(value) == 1 else value
    parts = [parts] if isinstance(parts, np.ndarray) else parts
    expected = "cryoDRGN poses are (rotations (N, 3, 3), translations (N, 2))"
    if not isinstance(parts, (tuple, list)) or not all(isinstance(part, np.ndarray) for part in parts):
        raise InputError("not a pose pickle", where=path, remedy=expected)
    rotation = parts[0]
    if rotation.ndim != 3 or rotation.shape[1:] != (3, 3):
        raise InputError(f"an array of shape {rotation.shape}, not rotations", where=path, remedy=expected)
    shift = parts[1] if len(parts) > 1 else np.zeros((len(rotation), 2))
    if shift.shape != (len(rotation), 2):
        raise InputError(f"{len(rotation)} rotations with translations {shift.shape}", where=path, remedy=expected)
    if len(shift) and np.abs(shift).max() > 1:
        raise InputError(
            "translations larger than the box: they are in pixels, as old versions wrote them",
            where=path,
            remedy="divide them by the box size",
        )
    crooked = np.abs(np.linalg.det(rotation) - 1) > 0.01
    if crooked.any():
        raise InputError("not a rotation matrix", where=f"{path}:{int(np.argmax(crooked)) + 1}", remedy=expected)
    return Pose.from_cryodrgn(_tensor(rotation), _tensor(shift), extent).to(torch.float32)


def read_ctf(path: Path) -> tuple[np.ndarray, np.ndarray, Optics]:
    """(box sizes (N,) int64, pixel sizes (N,) Å, optics). Raises InputError when the file is no CTF pickle."""
    table = read_pickle(path)[0]
    expected = "cryoDRGN's CTF is (N, 9): box, Å/px, defocus U, V, angle, kV, Cs, amplitude contrast, phase shift"
    if not isinstance(table, np.ndarray) or table.ndim != 2 or table.shape[1] != CTF_COLUMNS:
        raise InputError("not a CTF pickle", where=path, remedy=expected)
    bad = ~(np.isfinite(table).all(1) & (np.abs(table[:, 0]) < 1e6))
    if bad.any():
        raise InputError("a CTF value here is not a number", where=f"{path}:{int(np.argmax(bad)) + 1}", remedy=expected)
    _, _, u, v, angle, voltage, cs, contrast, phase = (_tensor(column) for column in table.T)
    optics = Optics.make(
        voltage=voltage, cs=cs, amplitude_contrast=contrast, defocus_u=u, defocus_v=v, defocus_angle=angle, phase_shift=phase
    )  # fmt: skip
    sizes = np.array([float(f"{size:.6g}") for size in table[:, 1].tolist()])
    return table[:, 0].astype(np.int64), sizes, sorted_defocus(optics).to(torch.float32)


def read_indices(path: Path) -> np.ndarray:
    """0-based particle rows, (K,) int64. Raises InputError when the file is no list of whole numbers."""
    value = np.asarray(read_pickle(path)[0])
    if value.ndim != 1 or value.dtype.kind not in "iu":
        raise InputError("not a list of particle indices", where=path, remedy="ind.pkl is a 1-D array of whole numbers")
    return value.astype(np.int64)


def read_latent(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """(means (N, d), log-variances (N, d) or None), float32. Raises InputError when the file is no latent pickle."""
    arrays = read_pickle(path)
    if not all(isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind == "f" for value in arrays):
        raise InputError("not a latent pickle", where=path, remedy="z.pkl is an array of (particles, dimensions)")
    if len(arrays) > 1 and arrays[1].shape != arrays[0].shape:
        raise InputError("means and log-variances differ in shape", where=path, remedy="write the file again")
    mean = arrays[0].astype(np.float32)
    return mean, arrays[1].astype(np.float32) if len(arrays) > 1 else None


def write_pose(path: Path, pose: Pose, extent: float | Float[Tensor, " count"]) -> None:
    """A pose pickle for boxes of side `extent` Å (one, or one per particle)."""
    rotation, translation = pose.to(torch.float64).to_cryodrgn(extent)
    _write(path, (rotation.float().numpy(), translation.float().numpy()))


def write_ctf(path: Path, optics: Optics, box_size: np.ndarray, pixel_size: np.ndarray) -> None:
    """A CTF pickle. B factors and beam tilt have no place in it."""
    values = [optics.defocus_u, optics.defocus_v, optics.defocus_angle, optics.voltage, optics.cs]
    values += [optics.amplitude_contrast, optics.phase_shift]
    columns = [
        np.asarray(box_size, np.float64),
        np.asarray(pixel_size, np.float64),
        *(value.numpy() for value in values),
    ]
    _write(path, np.stack(columns, 1).astype(np.float32))


def write_indices(path: Path, rows: np.ndarray) -> None:
    """An index pickle of 0-based rows."""
    _write(path, np.asarray(rows, np.int64))


def write_latent(path: Path, mean: np.ndarray, log_variance: np.ndarray | None = None) -> None:
    """A latent pickle: the means and, where known, the log-variances after them."""
    arrays = [mean] if log_variance is None else [mean, log_variance]
    _write(path, *(np.asarray(array, np.float32) for array in arrays))


@final
class _ArrayUnpickler(pickle.Unpickler):
    """Lets through what NumPy's own arrays need and nothing else."""

    def __init__(self, stream: io.BytesIO, path: Path) -> None:
        super().__init__(stream)
        self._path = path

    def find_class(self, module_name: str, global_name: str) -> Any:
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _latin1,
            **{(module, "_reconstruct"): _empty_array for module in _MULTIARRAY},
            **{(module, "scalar"): _scalar for module in _MULTIARRAY},
            **{(module, "_frombuffer"): _from_buffer for module in _NUMERIC},
        }
        if (module_name, global_name) not in allowed:
            raise InputError(
                f"this pickle would run {module_name}.{global_name}: only NumPy arrays are read",
                where=self._path,
                remedy="if you trust it, load it where it was made and save its arrays with numpy",
            )
        return allowed[module_name, global_name]

    def persistent_load(self, pid: Any) -> Any:
        raise InputError("this pickle refers to something outside itself", where=self._path, remedy="save plain arrays")


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    if kind is not np.ndarray:
        raise pickle.UnpicklingError("not a plain array")
    return np.ndarray((0,), "b")


def _scalar(dtype: np.dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype, 1)[0]


def _from_buffer(data: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError("only latin1 bytes")
    return text.encode("latin1")


def _refuse_objects(value: Any, path: Path) -> None:
    if isinstance(value, (list, tuple)):
        for part in value:
            _refuse_objects(part, path)
    elif isinstance(value, np.ndarray) and value.dtype.hasobject:
        raise InputError("an array of Python objects", where=path, remedy="save plain arrays of numbers")


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))


def _write(path: Path, *objects: Any) -> None:
    """Pickles that every NumPy reads: NumPy 2 names its module `numpy._core`, which versions before 1.26 do not know."""
    parts = [pickle.dumps(value, protocol=3).replace(b"cnumpy._core.", b"cnumpy.core.") for value in objects]
    with atomic_write(Path(path)) as temporary:
        Path(temporary).write_bytes(b"".join(parts))
