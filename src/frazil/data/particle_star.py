"""Particles as a RELION 3.1 STAR file: every column that came in goes out, and what is new is added or updated."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from frazil.data.listing import Listing
from frazil.data.relion import UID_COLUMN, format_uids, optics_block, stable_uids
from frazil.data.star import write_star
from frazil.data.table import Block, Table
from frazil.physics.grid import Grid
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose

if TYPE_CHECKING:
    from frazil.data.stack import Particles

Columns = Mapping[str, np.ndarray | Tensor | Sequence[str]]
_DECIMALS = 6


def write_particles_star(
    particles: Particles,
    path: Path,
    *,
    pose: Pose | None = None,
    optics: Optics | None = None,
    half_set: Tensor | None = None,
    extra: Columns | None = None,
    images: Literal["link", "keep"] = "link",
) -> None:
    """Write particles as RELION 3.1 (`data_optics`, `data_particles`), atomically.

    Columns of a STAR input are kept as they are, letter for letter; only what is given here is changed or added. Tables of
    other origin get the columns that say the same in RELION's terms.

    Args:
        pose, optics: new values, one per row; without them those of `particles`. half_set: (N,) 0 or 1.
        extra: further columns, one value per row.
        images: "link" writes image paths relative to `path`'s folder; "keep" leaves them as the input has them (for
            tables whose images are elsewhere).
    """
    path = Path(path)
    listing = particles.listing
    known = optics_block(listing.table)
    is_star = "rlnImageName" in listing.block
    block = listing.block if is_star else Block("particles", {}, listing.block.count, path=particles.path)
    block = block.select(particles.rows)
    pose = particles.pose if pose is None and (not is_star or "pose" in particles.changed) else pose
    optics = particles.optics if optics is None and (not is_star or "optics" in particles.changed) else optics
    half_set = particles.half_set if half_set is None and (not is_star or "half_set" in particles.changed) else half_set
    shared, group = _optics_table(particles, optics)
    new: dict[str, np.ndarray | Sequence[str]] = {"rlnImageName": _image_names(particles, path, images)}
    new |= _pose_columns(pose, block, particles) | _optics_columns(optics)
    if optics is not None:
        tilts = {"rlnBeamTiltX": optics.beam_tilt_x, "rlnBeamTiltY": optics.beam_tilt_y}
        # as a rule the table of optics holds them
        new |= {name: _rounded(values) for name, values in tilts.items() if name in block}
    if half_set is not None:
        new["rlnRandomSubset"] = half_set.cpu().numpy() + 1
    if "rlnOpticsGroup" not in block:
        new["rlnOpticsGroup"] = group
    if UID_COLUMN not in block:
        new[UID_COLUMN] = format_uids(particles.uid)
    if "location/micrograph_path" in listing.block:
        new |= _locations(listing.block.select(particles.rows))
    new |= {name: _plain(values) for name, values in (extra or {}).items()}
    block = replace(block.with_columns(new), name="particles", is_loop=True)
    others = [other for other in listing.table.blocks if is_star and other is not listing.block and other is not known]
    write_star(path, Table((shared, block, *others), path), "version 30001")


def write_new_particles_star(
    path: Path,
    stack: Path,
    grid: Grid,
    *,
    pose: Pose | None = None,
    optics: Optics | None = None,
    half_set: np.ndarray | Tensor | None = None,
    extra: Columns | None = None,
    count: int | None = None,
) -> None:
    """Describe a stack that was just made (`stack` beside or below `path`) as RELION 3.1, one row per image in order."""
    size = len(pose) if pose is not None else len(optics) if optics is not None else count
    if size is None:
        raise ValueError("count is needed when neither pose nor optics is given")
    relative = os.path.relpath(Path(stack).resolve(), Path(path).parent.resolve())
    names = [f"{row:06d}@{relative}" for row in range(1, size + 1)]
    columns: dict[str, np.ndarray | Sequence[str]] = {"rlnImageName": names}
    columns |= _optics_columns(optics)
    if pose is not None:
        columns |= _relion_pose(pose)
    columns["rlnOpticsGroup"] = np.ones(size, np.int64)
    if half_set is not None:
        columns["rlnRandomSubset"] = np.asarray(half_set, np.int64) + 1
    columns[UID_COLUMN] = format_uids(stable_uids(names))
    columns |= {name: _plain(values) for name, values in (extra or {}).items()}
    shared = Block(
        "optics", _group_columns(["opticsGroup1"], [grid.pixel_size], [grid.box_size], optics, np.zeros(size, int)), 1
    )
    write_star(path, Table((shared, Block("particles", columns, size)), Path(path)), "version 30001")


def _image_names(particles: Particles, path: Path, images: str) -> list[str]:
    listing, at = particles.listing, particles.rows
    names = list(listing.files.names)
    if images == "link":
        # real paths: a `..` behind a symbolic link would lead elsewhere
        folder = path.parent.resolve()
        for number in np.unique(listing.file[at]).tolist():
            found = listing.files.find(number)
            if found is not None:
                names[number] = os.path.relpath(found.resolve(), folder)
    return [
        f"{i + 1:06d}@{names[f]}" for i, f in zip(listing.index[at].tolist(), listing.file[at].tolist(), strict=True)
    ]


def _locations(block: Block) -> dict[str, np.ndarray | Sequence[str]]:
    """Where cryoSPARC found each particle: micrograph, and pixels of it."""
    columns: dict[str, np.ndarray | Sequence[str]] = {"rlnMicrographName": block.text("location/micrograph_path")}
    if "location/center_x_frac" in block and "location/micrograph_shape" in block:
        shape = block.numbers("location/micrograph_shape")
        columns["rlnCoordinateX"] = np.round(block.numbers("location/center_x_frac") * shape[:, 1], 2)
        columns["rlnCoordinateY"] = np.round(block.numbers("location/center_y_frac") * shape[:, 0], 2)
    return columns


def _relion_pose(pose: Pose) -> dict[str, np.ndarray]:
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")
    return {name: _rounded(values) for name, values in zip(names, pose.to(torch.float64).to_relion(), strict=True)}


def _pose_columns(pose: Pose | None, block: Block, particles: Particles) -> dict[str, np.ndarray]:
    """Angles and shifts that are new; of a RELION 3.0 table whose poses stay as they are, only the shifts in Å."""
    if pose is None:
        if particles.pose is None or "rlnOriginXAngst" in block:
            return {}
        origins = ("rlnOriginXAngst", "rlnOriginYAngst")
        return {name: values for name, values in _relion_pose(particles.pose).items() if name in origins}
    columns = _relion_pose(pose)
    if "rlnOriginX" in block:
        # pixels, as RELION 3.0 has them: kept in step with the Å beside them
        sizes = np.array([group.pixel_size for group in particles.listing.groups])[particles.group.numpy()]
        for axis in "XY":
            columns[f"rlnOrigin{axis}"] = np.round(columns[f"rlnOrigin{axis}Angst"] / sizes, _DECIMALS)
    return columns


def _optics_columns(optics: Optics | None) -> dict[str, np.ndarray]:
    if optics is None:
        return {}
    columns = {
        "rlnDefocusU": optics.defocus_u,
        "rlnDefocusV": optics.defocus_v,
        "rlnDefocusAngle": optics.defocus_angle,
        "rlnPhaseShift": optics.phase_shift,
        "rlnCtfBfactor": optics.b_factor,
    }
    return {name: _rounded(values) for name, values in columns.items()}


def _optics_table(particles: Particles, optics: Optics | None) -> tuple[Block, np.ndarray]:
    """The optics block, and each particle's number in it. An input's own block is kept and completed."""
    listing = particles.listing
    known = optics_block(listing.table)
    group = particles.group.numpy()
    sizes, boxes = [g.pixel_size for g in listing.groups], [g.box_size for g in listing.groups]
    values = optics or particles.optics
    if known is None:
        group = _split_by_optics(group, values)
        used, first = np.unique(group, return_index=True)
        parents = particles.group.numpy()[first]
        columns = _group_columns(
            [f"opticsGroup{number}" for number in range(1, len(used) + 1)],
            [sizes[parent] for parent in parents],
            [boxes[parent] for parent in parents],
            values,
            group,
        )
        return Block("optics", columns, len(used)), group + 1
    first_id = int(known.integers("rlnOpticsGroup")[0]) if "rlnOpticsGroup" in known else 1
    block = _completed(known, listing, sizes, boxes)
    return _with_tilt(block, particles, optics), np.full(particles.count, first_id)


def _with_tilt(known: Block, particles: Particles, optics: Optics | None) -> Block:
    """The optics block with new beam tilts, if there are any: those of the first particle of each group."""
    if optics is None or not (optics.has_beam_tilt or "rlnBeamTiltX" in known):
        return known
    ids, rows = known.integers("rlnOpticsGroup"), particles.listing.block
    own = rows.integers("rlnOpticsGroup")[particles.rows] if "rlnOpticsGroup" in rows else np.full(len(optics), ids[0])
    columns: dict[str, np.ndarray | Sequence[str]] = {}
    for name, values in (("rlnBeamTiltX", optics.beam_tilt_x), ("rlnBeamTiltY", optics.beam_tilt_y)):
        tilt = known.numbers(name).copy() if name in known else np.zeros(known.count)
        for place, number in enumerate(ids):
            members = np.flatnonzero(own == number)
            if len(members):
                tilt[place] = _rounded(values)[members[0]]
        columns[name] = tilt
    return known.with_columns(columns)


def _completed(known: Block, listing: Listing, sizes: list[float], boxes: list[int]) -> Block:
    """The input's optics block, with pixel size and box where it had none."""
    ids = known.integers("rlnOpticsGroup").tolist() if "rlnOpticsGroup" in known else list(range(1, known.count + 1))
    column = "rlnOpticsGroup"
    rows = listing.block.integers(column).tolist() if column in listing.block else [ids[0]] * listing.block.count
    group_of = dict(zip(rows, listing.group.tolist(), strict=True))
    columns: dict[str, np.ndarray | Sequence[str]] = {}
    if "rlnOpticsGroup" not in known:
        columns["rlnOpticsGroup"] = np.array(ids)
    if "rlnOpticsGroupName" not in known:
        columns["rlnOpticsGroupName"] = [f"opticsGroup{number}" for number in ids]
    for name, values in (("rlnImagePixelSize", sizes), ("rlnImageSize", boxes)):
        found = np.array([values[group_of[number]] if number in group_of else 0 for number in ids])
        stated = known.numbers(name) if name in known else np.zeros(known.count)
        # what was given in place of the file's own value must be in the new file
        if (~np.isclose(found, stated, rtol=1e-6) & (found > 0)).any():
            columns[name] = np.where(found > 0, found, stated)
    if "rlnImageDimensionality" not in known:
        columns["rlnImageDimensionality"] = np.full(known.count, 2)
    return replace(known.with_columns(columns), name="optics", is_loop=True)


def _split_by_optics(group: np.ndarray, optics: Optics | None) -> np.ndarray:
    """Groups in which voltage, Cs and amplitude contrast are the same too, since RELION keeps these by group."""
    if optics is None:
        return np.unique(group, return_inverse=True)[1].reshape(-1)
    shared = (optics.voltage, optics.cs, optics.amplitude_contrast, optics.beam_tilt_x, optics.beam_tilt_y)
    keys = np.stack([group, *(value.double().numpy() for value in shared)], 1)
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)


def _group_columns(
    names: list[str], sizes: list[float], boxes: list[int], optics: Optics | None, group: np.ndarray
) -> dict[str, np.ndarray | list[str]]:
    count = len(names)
    columns: dict[str, np.ndarray | list[str]] = {
        "rlnOpticsGroup": np.arange(1, count + 1),
        "rlnOpticsGroupName": names,
    }
    if optics is not None:
        first = torch.from_numpy(np.unique(group, return_index=True)[1])
        columns["rlnVoltage"] = _rounded(optics.voltage[first])
        columns["rlnSphericalAberration"] = _rounded(optics.cs[first])
        columns["rlnAmplitudeContrast"] = _rounded(optics.amplitude_contrast[first])
        if optics.has_beam_tilt:
            columns["rlnBeamTiltX"] = _rounded(optics.beam_tilt_x[first])
            columns["rlnBeamTiltY"] = _rounded(optics.beam_tilt_y[first])
    if any(size > 0 for size in sizes):
        columns["rlnImagePixelSize"] = np.array(sizes)
    if any(box > 0 for box in boxes):
        columns["rlnImageSize"] = np.array(boxes)
    columns["rlnImageDimensionality"] = np.full(count, 2)
    return columns


def _rounded(values: Tensor) -> np.ndarray:
    return np.round(values.detach().cpu().double().numpy(), _DECIMALS)


def _plain(values: np.ndarray | Tensor | Sequence[str]) -> np.ndarray | Sequence[str]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
