"""cryoSPARC's `.cs` files: a NumPy structured array, one row per particle, fields named `group/field`.

A job writes what it changed to one file and passes the rest through in another (`*_passthrough_particles.cs`); the two are
joined by uid here. Fields as in cryoSPARC 2 to 4: poses are rotation vectors, shifts pixels of `psize_A`, angles radians.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from frazil.data.listing import ImageFiles, Listing, OpticsGroup, number_files
from frazil.data.npy import read_npy
from frazil.data.relion import sorted_defocus
from frazil.data.table import Block, Table, shown
from frazil.engine.files import atomic_write
from frazil.errors import InputError
from frazil.physics.optics import ANGSTROM_PER_MILLIMETRE, Optics
from frazil.physics.pose import Pose

DEGREE = np.pi / 180
_GROUPS_OF_A_PARTICLE = ("blob", "ctf", "alignments3D")
_NPY = b"\x93NUMPY"


def read_cs(path: Path, passthrough: Path | None = None) -> Table:
    """Read a `.cs` file, joined with its passthrough file when it lacks images, CTF or poses and one lies beside it.

    The block is called `particles` when it has `blob/path`, else after its first group (`micrograph_blob`, `location`, ...).
    Raises InputError when the file is no array of plain values, or when the passthrough file lacks rows.
    """
    rows = _load(path)
    columns = {name: rows[name] for name in rows.dtype.names or ()}
    present = {name.partition("/")[0] for name in columns}
    if passthrough is not None:
        columns |= _joined(columns, _load(passthrough), path, passthrough)
    elif any(group not in present for group in _GROUPS_OF_A_PARTICLE) and "uid" in columns:
        for beside in sorted(Path(path).parent.glob("*passthrough*.cs")):
            if beside != Path(path):
                extra = _load(beside)
                if "uid" in (extra.dtype.names or ()) and np.isin(columns["uid"], extra["uid"]).all():
                    columns |= _joined(columns, extra, path, beside)
    name = "particles" if "blob/path" in columns else next((c.partition("/")[0] for c in columns if "/" in c), "")
    return Table((Block(name, columns, len(rows), path=Path(path)),), Path(path))


def list_particles_cs(
    table: Table, images: Path | None = None, pixel_size: float | None = None, box_size: int | None = None
) -> Listing:
    """Read the particle rows of a cryoSPARC table.

    `pixel_size` (Å) and `box_size` take the place of what the table says. Raises InputError when the table has no
    `blob/path`, or a pose or CTF value that is no number.
    """
    block = table.blocks[0]
    if "blob/path" not in block:
        raise InputError(
            f"no blob/path field, so these rows are no particle images (fields: {shown(block.columns, 6)})",
            where=table.path,
            remedy="give the job's exported particles, or the file that goes with this passthrough file",
        )
    if block.count == 0:
        raise InputError("the particle table has no rows", where=table.path, remedy="select again with more particles")
    names, file = number_files([name.removeprefix(">") for name in block.text("blob/path")])
    files = ImageFiles(names, table.path or Path("."), images)
    sizes = _column(block, "blob/psize_A", 0.0) if pixel_size is None else np.full(block.count, pixel_size)
    boxes = block.numbers("blob/shape")[:, 0] if "blob/shape" in block else np.zeros(block.count)
    boxes = boxes if box_size is None else np.full(block.count, box_size)
    # exposure groups can be thousands; what must stay apart is the sampling
    keys, group = np.unique(np.stack([sizes, boxes], 1), axis=0, return_inverse=True)
    # psize_A is single precision: six digits are all it knows
    sampling = [(float(f"{size:.6g}"), int(box)) for size, box in keys]
    groups = tuple(OpticsGroup(f"opticsGroup{number}", *pair) for number, pair in enumerate(sampling, 1))
    return Listing(
        table=table,
        block=block,
        files=files,
        file=file,
        index=block.integers("blob/idx") if "blob/idx" in block else np.zeros(block.count, np.int64),
        groups=groups,
        group=group.reshape(-1),
        uid=_uids(block),
        pose=_pose(block, sizes),
        optics=_optics(block),
        half_set=_half_set(block),
        sign=np.where(block.numbers("blob/sign") < 0, -1, 1) if "blob/sign" in block else None,
        warnings=tuple(_unused(block)),
    )


def write_cs(path: Path, block: Block) -> None:
    """Write a block as a `.cs` file, atomically: numbers and vectors as they are, text as bytes."""
    columns = {}
    for name in block.columns:
        values = block.raw(name)
        columns[name] = values if isinstance(values, np.ndarray) else np.array([text.encode() for text in values])
    fields = [(name, values.dtype, values.shape[1:]) for name, values in columns.items()]
    rows = np.empty(block.count, np.dtype(fields))
    for name, values in columns.items():
        rows[name] = values
    with atomic_write(Path(path)) as temporary, open(temporary, "wb") as file:
        np.save(file, rows, allow_pickle=False)


def cs_columns(
    listing: Listing, rows: np.ndarray, pose: Pose | None, optics: Optics | None, half_set: torch.Tensor | None
) -> dict[str, np.ndarray]:
    """The fields cryoSPARC needs to import these rows: uid, blob, and ctf and alignments3D where known.

    `pose`, `optics` and `half_set` have one entry per row asked for.
    """
    count, group = len(rows), listing.group[rows]
    sizes = np.array([known.pixel_size for known in listing.groups])[group]
    boxes = np.array([known.box_size for known in listing.groups])[group]
    names = np.array([name.encode() for name in listing.files.names])
    sign = np.ones(count) if listing.sign is None else listing.sign[rows]
    columns: dict[str, np.ndarray] = {
        "uid": listing.uid[rows],
        "blob/path": names[listing.file[rows]],
        "blob/idx": listing.index[rows].astype(np.uint32),
        "blob/shape": np.stack([boxes, boxes], 1).astype(np.uint32),
        "blob/psize_A": sizes.astype(np.float32),
        "blob/sign": sign.astype(np.float32),
    }
    if optics is not None:
        columns |= _optics_columns(optics, group)
    if pose is not None:
        if (sizes <= 0).any():
            raise InputError(
                "shifts need a pixel size, and none is stated", where=listing.table.path, remedy="give --pixel-size"
            )
        vector, shift = pose.to(torch.float64).to_cryosparc(torch.from_numpy(sizes))
        columns |= {
            "alignments3D/split": (np.zeros(count) if half_set is None else half_set.numpy()).astype(np.uint32),
            "alignments3D/shift": shift.numpy().astype(np.float32),
            "alignments3D/pose": vector.numpy().astype(np.float32),
            "alignments3D/psize_A": sizes.astype(np.float32),
        }
    return columns


def _load(path: Path) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            start = file.read(len(_NPY))
        if start != _NPY:
            raise InputError(
                "not a cryoSPARC .cs file (it does not begin as a NumPy array)",
                where=path,
                remedy="export the particle group again from cryoSPARC",
            )
    except FileNotFoundError:
        raise InputError("no such file", where=path, remedy="check the path") from None
    rows = read_npy(path, "export the particle group again from cryoSPARC")
    if rows.dtype.names is None or rows.ndim != 1:
        raise InputError("a plain array, not cryoSPARC's table of fields", where=path, remedy="try frazil inspect")
    return rows


def _joined(columns: dict[str, np.ndarray], extra: np.ndarray, path: Path, other: Path) -> dict[str, np.ndarray]:
    """The fields of `extra` that `columns` lacks, in the row order of `columns`."""
    for name, names in ((path, columns), (other, extra.dtype.names or ())):
        if "uid" not in names:
            raise InputError("no uid field to join by", where=name, remedy="export the particle group again")
    order = np.argsort(extra["uid"])
    place = np.searchsorted(extra["uid"], columns["uid"], sorter=order).clip(max=max(len(extra) - 1, 0))
    found = extra["uid"][order[place]] == columns["uid"] if len(extra) else np.zeros(len(columns["uid"]), bool)
    if not found.all():
        raise InputError(
            f"{int((~found).sum())} of {len(found)} particles of {Path(path).name} are not in this passthrough file",
            where=other,
            remedy="give the passthrough file of the same job and class",
        )
    return {name: extra[name][order[place]] for name in extra.dtype.names or () if name not in columns}


def _column(block: Block, name: str, default: float) -> np.ndarray:
    return block.numbers(name) if name in block else np.full(block.count, default)


def _uids(block: Block) -> np.ndarray:
    raw = block.raw("uid") if "uid" in block else np.arange(block.count)
    return np.ascontiguousarray(raw).astype(np.uint64)


def _half_set(block: Block) -> np.ndarray | None:
    split = block.integers("alignments3D/split") if "alignments3D/split" in block else None
    return split if split is not None and np.isin(split, (0, 1)).all() else None


def _pose(block: Block, sizes: np.ndarray) -> Pose | None:
    """alignments3D; else, of an ab-initio or heterogeneous job, the class with the largest posterior of each particle."""
    if "alignments3D/pose" in block and "alignments3D/shift" in block:
        vector, shift = block.numbers("alignments3D/pose"), block.numbers("alignments3D/shift")
        sizes = _column(block, "alignments3D/psize_A", 0.0) if "alignments3D/psize_A" in block else sizes
    else:
        classes = sorted(
            name.removesuffix("/pose")
            for name in block.columns
            if name.startswith("alignments_class") and name.endswith("/pose")
        )
        if not classes:
            return None
        best = np.stack([_column(block, f"{name}/class_posterior", 1.0) for name in classes]).argmax(0)
        rows = np.arange(block.count)
        vector = np.stack([block.numbers(f"{name}/pose") for name in classes])[best, rows]
        shift = np.stack([block.numbers(f"{name}/shift") for name in classes])[best, rows]
        stated = np.stack([_column(block, f"{name}/psize_A", 0.0) for name in classes])[best, rows]
        sizes = np.where(stated > 0, stated, sizes)
    bad = ~(np.isfinite(vector).all(1) & np.isfinite(shift).all(1))
    if bad.any():
        raise InputError(
            "this pose is not a number", where=block.where(int(np.argmax(bad))), remedy="leave that particle out"
        )
    vectors, shifts = torch.from_numpy(vector.copy()), torch.from_numpy(shift.copy())
    return Pose.from_cryosparc(vectors, shifts, torch.from_numpy(sizes.copy())).to(torch.float32)


def _optics(block: Block) -> Optics | None:
    if "ctf/df1_A" not in block:
        return None
    cs = block.numbers("ctf/cs_mm")
    tilt = block.numbers("ctf/tilt_A") if "ctf/tilt_A" in block else np.zeros((block.count, 2))
    # tilt_A is the shift in Å that a tilt gives at Cs: sine of the tilt times Cs
    scale = np.where(cs > 0, cs, np.inf)[:, None] * ANGSTROM_PER_MILLIMETRE
    tilt = np.arcsin(np.clip(tilt / scale, -1, 1)) * 1e3
    values = {
        "voltage": block.numbers("ctf/accel_kv"),
        "cs": cs,
        "amplitude_contrast": block.numbers("ctf/amp_contrast"),
        "defocus_u": block.numbers("ctf/df1_A"),
        "defocus_v": block.numbers("ctf/df2_A"),
        "defocus_angle": _column(block, "ctf/df_angle_rad", 0.0) / DEGREE,
        "phase_shift": _column(block, "ctf/phase_shift_rad", 0.0) / DEGREE,
        "b_factor": _column(block, "ctf/bfactor", 0.0),
        "beam_tilt_x": tilt[:, 0],
        "beam_tilt_y": tilt[:, 1],
    }
    bad = ~np.isfinite(np.stack(list(values.values()))).all(0)
    if bad.any():
        raise InputError(
            "a CTF value here is not a number", where=block.where(int(np.argmax(bad))), remedy="leave that particle out"
        )
    tensors = {name: torch.from_numpy(found.copy()) for name, found in values.items()}
    return sorted_defocus(Optics.make(dtype=torch.float64, **tensors)).to(torch.float32)


def _optics_columns(optics: Optics, group: np.ndarray) -> dict[str, np.ndarray]:
    def single(values: torch.Tensor, scale: float = 1.0) -> np.ndarray:
        return (values.double().numpy() * scale).astype(np.float32)

    count, cs = len(optics), optics.cs.double().numpy()
    tilt = np.stack([optics.beam_tilt_x.double().numpy(), optics.beam_tilt_y.double().numpy()], 1)
    return {
        "ctf/type": np.full(count, b"imported"),
        "ctf/exp_group_id": group.astype(np.uint32) + np.uint32(1),
        "ctf/accel_kv": single(optics.voltage),
        "ctf/cs_mm": single(optics.cs),
        "ctf/amp_contrast": single(optics.amplitude_contrast),
        "ctf/df1_A": single(optics.defocus_u),
        "ctf/df2_A": single(optics.defocus_v),
        "ctf/df_angle_rad": single(optics.defocus_angle, DEGREE),
        "ctf/phase_shift_rad": single(optics.phase_shift, DEGREE),
        "ctf/scale": np.ones(count, np.float32),
        "ctf/scale_const": np.zeros(count, np.float32),
        "ctf/shift_A": np.zeros((count, 2), np.float32),
        "ctf/tilt_A": (np.sin(tilt * 1e-3) * (cs * ANGSTROM_PER_MILLIMETRE)[:, None]).astype(np.float32),
        "ctf/trefoil_A": np.zeros((count, 2), np.float32),
        "ctf/tetra_A": np.zeros((count, 4), np.float32),
        "ctf/anisomag": np.zeros((count, 4), np.float32),
        "ctf/bfactor": single(optics.b_factor),
    }


def _unused(block: Block) -> list[str]:
    names = ("ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag", "ctf/shift_A")
    return [
        f"{name} is kept but not used" for name in names if name in block and bool((block.numbers(name) != 0).any())
    ]
