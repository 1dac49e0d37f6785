"""What the columns of a RELION STAR file mean, from version 1 to 5 (labels as in RELION's metadata_label.h).

Up to 3.0 one table holds everything: the pixel size is rlnDetectorPixelSize (µm) × 10⁴ / rlnMagnification and shifts are in
pixels. From 3.1 an optics table holds what a group of images shares, and shifts are in Å. Files that mix the two are read
column by column.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import final

import numpy as np
import torch

from frazil.data.listing import ImageFiles, Listing, OpticsGroup, number_files, stable_uids
from frazil.data.table import Block, Table, shown
from frazil.data.tilts import read_tilts
from frazil.errors import InputError
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose

UID_COLUMN = "frazilUid"
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
UNSET = -999.0  # what RELION's pickers write for "not known"
ASSUMED_AMPLITUDE_CONTRAST = 0.1


def optics_block(table: Table) -> Block | None:
    """The table of optics groups, by name or by what it holds; None before RELION 3.1."""
    for block in table.blocks:
        if block.name == "optics" and block.columns:
            return block
    for block in table.blocks:
        if "rlnOpticsGroup" in block and "rlnImageName" not in block and "rlnMicrographName" not in block:
            return block
    return None


def particle_block(table: Table) -> Block:
    """The rows that name particle images. Raises InputError when no block does, saying what the table holds instead."""
    named = [block for block in table.blocks if "rlnImageName" in block]
    if not named:
        largest = max(table.blocks, key=lambda block: block.count)
        raise InputError(
            f"no rlnImageName column, so these rows are no particle images (columns: {shown(largest.columns, 6)})",
            where=table.path,
            remedy="give the particles.star of an extraction or refinement; frazil inspect says what this file is",
        )
    by_name = [block for block in named if block.name in ("particles", "images")]
    block = max(by_name or named, key=lambda block: block.count)
    if block.count == 0:
        raise InputError("the particle table has no rows", where=table.path, remedy="select again with more particles")
    return block


def list_particles(
    table: Table, images: Path | None = None, pixel_size: float | None = None, box_size: int | None = None
) -> Listing:
    """Read the particle rows of a RELION table.

    `pixel_size` (Å) and `box_size` take the place of what the table says. Raises InputError, naming file and row, for a table
    without images, a malformed image name, a value that is no number, an unknown optics group, subtomograms, or a CTF without
    voltage or spherical aberration.
    """
    _refuse_volumes(table)
    block, optics = particle_block(table), optics_block(table)
    names = block.text("rlnImageName")
    index, file_names = _split_image_names(names, block)
    files_named, file = number_files(file_names)
    files = ImageFiles(files_named, table.path or Path("."), images)
    rows = _Rows(block, optics, *_groups(block, optics))
    sizes = _pixel_sizes(rows) if pixel_size is None else np.full(block.count, pixel_size)
    groups, group = _sampling(rows, sizes, files, file, box_size)
    sizes = np.array([known.pixel_size for known in groups])[group]
    notes: list[str] = []
    half_set = _half_set(rows, notes)
    pose, contrast_transfer = _pose(rows, sizes), _optics(rows, notes)
    uids, warnings = _uids(block, names), (*notes, *_unused(rows))
    return Listing(
        table=table,
        block=block,
        files=files,
        file=file,
        index=index,
        groups=groups,
        group=group,
        uid=uids,
        pose=pose,
        optics=contrast_transfer,
        half_set=half_set,
        tilts=read_tilts(block),
        warnings=warnings,
    )


@final
@dataclass(frozen=True)
class _Rows:
    """Particle rows with the optics table behind them."""

    block: Block
    optics: Block | None
    group: np.ndarray  # row of the optics table for each particle
    group_names: tuple[str, ...]

    def get(self, column: str, optics_first: bool = False) -> np.ndarray | None:
        """A column as one number per particle, from the particle table or through the optics table."""
        shared = self.optics is not None and column in self.optics
        if column in self.block and not (shared and optics_first):
            return self.block.numbers(column)
        return self.optics.numbers(column)[self.group] if shared and self.optics is not None else None


def _split_image_names(names: list[str], block: Block) -> tuple[np.ndarray, list[str]]:
    index = np.zeros(len(names), np.int64)
    files = []
    for row, name in enumerate(names):
        number, at, file = name.partition("@")
        if not at:
            files.append(name)
            continue
        if not number.isdigit() or int(number) < 1 or not file:
            raise InputError(
                f"rlnImageName {name!r} is not of the form 000001@stack.mrcs",
                where=block.where(row),
                remedy="images are counted from 1",
            )
        index[row] = int(number) - 1
        files.append(file)
    return index, files


def _groups(block: Block, optics: Block | None) -> tuple[np.ndarray, tuple[str, ...]]:
    if optics is None:
        return np.zeros(block.count, np.int64), ("opticsGroup1",)
    count = optics.count
    ids = optics.integers("rlnOpticsGroup") if "rlnOpticsGroup" in optics else np.arange(1, count + 1)
    names = (
        tuple(optics.text("rlnOpticsGroupName")) if "rlnOpticsGroupName" in optics else tuple(map(str, ids.tolist()))
    )
    if "rlnOpticsGroup" not in block:
        if count > 1:
            raise InputError(
                f"{count} optics groups but no rlnOpticsGroup column", where=block.where(), remedy="add the column"
            )
        return np.zeros(block.count, np.int64), names
    wanted = block.integers("rlnOpticsGroup")
    position = {int(number): row for row, number in enumerate(ids)}
    unknown = ~np.isin(wanted, ids)
    if unknown.any():
        row = int(np.argmax(unknown))
        raise InputError(
            f"optics group {wanted[row]} is not in the optics table (it has {shown(map(str, position))})",
            where=block.where(row),
            remedy="add it to data_optics or correct rlnOpticsGroup",
        )
    return np.vectorize(position.__getitem__, otypes=[np.int64])(wanted), names


def is_tomography(table: Table) -> bool:
    """Whether a table lists subtomograms (3-D, or the 2-D stacks of a tilt series) rather than single-particle images."""
    for block in table.blocks:
        if "rlnImageDimensionality" in block and bool((block.numbers("rlnImageDimensionality") == 3).any()):
            return True
        if any(name in block for name in ("rlnTomoParticleName", "rlnTomoSubTomosAre2DStacks")):
            return True
        # before RELION 4: a volume and its missing wedge
        if all(name in block for name in ("rlnImageName", "rlnCtfImage", "rlnCoordinateZ")):
            return True
    return False


def _refuse_volumes(table: Table) -> None:
    if is_tomography(table):
        raise InputError(
            "these are subtomograms of a tilt series, not single-particle images",
            where=table.path,
            remedy="frazil works on single particles: give a table of 2-D images",
        )


def _pixel_sizes(rows: _Rows) -> np.ndarray:
    """Å per pixel of each row's image, 0 where the table does not say."""
    for column in ("rlnImagePixelSize", "rlnPixelSize"):
        found = rows.get(column, optics_first=True)
        if found is not None:
            return found
    detector, magnification = rows.get("rlnDetectorPixelSize"), rows.get("rlnMagnification")
    if detector is not None and magnification is not None:
        return np.round(
            np.divide(detector * 1e4, magnification, out=np.zeros_like(detector), where=magnification > 0), 6
        )
    return np.zeros(rows.block.count)


def _sampling(
    rows: _Rows, sizes: np.ndarray, files: ImageFiles, file: np.ndarray, box_size: int | None
) -> tuple[tuple[OpticsGroup, ...], np.ndarray]:
    """Optics groups of one pixel size and box each. A table without optics groups gets one for each pixel size."""
    boxes = rows.get("rlnImageSize", optics_first=True) if box_size is None else np.full(len(sizes), box_size)
    boxes = np.zeros(len(sizes)) if boxes is None else boxes
    keys, first, group = np.unique(
        np.stack([rows.group, sizes, boxes], 1), axis=0, return_index=True, return_inverse=True
    )
    groups = []
    for (number, size, box), row in zip(keys, first, strict=True):
        if (size <= 0 or box <= 0) and files.find(int(file[row])) is not None:
            header = files.open(int(file[row]))
            size, box = size if size > 0 else header.pixel_size, box if box > 0 else header.box[0]
        if not np.isfinite(size) or size < 0:
            raise InputError(
                f"a pixel size of {size:g} Å", where=rows.block.where(int(row)), remedy="give --pixel-size"
            )
        groups.append(OpticsGroup(rows.group_names[int(number)], float(size), int(box)))
    return tuple(groups), group.reshape(-1)


def _uids(block: Block, names: list[str]) -> np.ndarray:
    if UID_COLUMN not in block:
        return stable_uids(names)
    texts = block.text(UID_COLUMN)
    try:
        return np.array([int(text.removeprefix("u"), 16) for text in texts], dtype=np.uint64)
    except (ValueError, OverflowError):
        return stable_uids(names)


def format_uids(uids: np.ndarray) -> list[str]:
    """uids as text that no reader takes for a number: `u` and 16 hexadecimal digits."""
    return [f"u{uid:016x}" for uid in uids.tolist()]


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))


def _pose(rows: _Rows, sizes: np.ndarray) -> Pose | None:
    block = rows.block
    if not all(column in block for column in ANGLES):
        _refuse_half_a_pose(block)
        return None
    angles = [block.numbers(column) for column in ANGLES]
    if any((angle == UNSET).all() for angle in angles):
        return None
    shifts = []
    for axis in "XY":
        if f"rlnOrigin{axis}Angst" in block:
            shifts.append(block.numbers(f"rlnOrigin{axis}Angst"))
        elif f"rlnOrigin{axis}" in block:
            pixels = block.numbers(f"rlnOrigin{axis}")
            if (pixels != 0).any() and (sizes <= 0).any():
                raise InputError(
                    f"rlnOrigin{axis} is in pixels and nothing states the pixel size",
                    where=block.where(),
                    remedy="give it with --pixel-size, in Å",
                )
            shifts.append(pixels * sizes)
        else:
            shifts.append(np.zeros(block.count))
    bad = ~np.isfinite(np.stack(angles + shifts)).all(0)
    if bad.any():
        raise InputError("this pose is not a number", where=block.where(int(np.argmax(bad))), remedy="delete that row")
    return Pose.from_relion(*map(_tensor, (*angles, *shifts))).to(torch.float32)


def _refuse_half_a_pose(block: Block) -> None:
    """Psi alone is a pose in the plane, and no pose here. Rot or tilt without the others is a mistake."""
    present = [column for column in ANGLES if column in block]
    if present in ([], ["rlnAnglePsi"]):
        return
    absent = next(column for column in ANGLES if column not in block)
    near = get_close_matches(absent, [column for column in block.columns if column not in ANGLES], 1)
    raise InputError(
        f"{present[0]} without {absent}: a pose needs {', '.join(ANGLES)}",
        where=block.where(),
        remedy=f"rename {near[0]} to {absent}" if near else f"add the column {absent}",
    )


def _optics(rows: _Rows, notes: list[str]) -> Optics | None:
    defocus_u = rows.get("rlnDefocusU")
    if defocus_u is None:
        return None
    defocus_v = rows.get("rlnDefocusV")
    shared = {}
    for name, column in (("voltage", "rlnVoltage"), ("cs", "rlnSphericalAberration")):
        found = rows.get(column, optics_first=True)
        if found is None:
            raise InputError(
                f"rlnDefocusU without {column}: the CTF cannot be computed",
                where=rows.block.where(),
                remedy=f"add the column {column}" + (" to data_optics" if rows.optics is not None else ""),
            )
        shared[name] = _tensor(found)
    contrast = rows.get("rlnAmplitudeContrast", optics_first=True)
    if contrast is None:
        notes.append(f"no rlnAmplitudeContrast: {ASSUMED_AMPLITUDE_CONTRAST} is taken")
        contrast = np.full(rows.block.count, ASSUMED_AMPLITUDE_CONTRAST)
    rest = {
        name: _tensor(found)
        for name, column in (
            ("defocus_angle", "rlnDefocusAngle"),
            ("phase_shift", "rlnPhaseShift"),
            ("b_factor", "rlnCtfBfactor"),
            ("beam_tilt_x", "rlnBeamTiltX"),
            ("beam_tilt_y", "rlnBeamTiltY"),
        )
        if (found := rows.get(column)) is not None
    }
    optics = sorted_defocus(
        Optics.make(
            **shared,
            amplitude_contrast=_tensor(contrast),
            defocus_u=_tensor(defocus_u),
            defocus_v=_tensor(defocus_u if defocus_v is None else defocus_v),
            dtype=torch.float64,
            **rest,
        )
    )
    _check_finite(optics, rows.block)
    return optics.to(torch.float32)


def sorted_defocus(optics: Optics) -> Optics:
    """The same optics with defocus_u ≥ defocus_v: exchanged axes turn the angle by 90°."""
    swapped = optics.defocus_u < optics.defocus_v
    values = dict(optics.__dict__)
    values["defocus_u"] = torch.where(swapped, optics.defocus_v, optics.defocus_u)
    values["defocus_v"] = torch.where(swapped, optics.defocus_u, optics.defocus_v)
    turned = torch.remainder(optics.defocus_angle + 90 + 90, 180) - 90
    values["defocus_angle"] = torch.where(swapped, turned, optics.defocus_angle)
    return Optics(**values)


def _check_finite(optics: Optics, block: Block) -> None:
    bad = ~torch.stack([value.isfinite() for value in optics.__dict__.values()]).all(0)
    if bool(bad.any()):
        row = int(bad.int().argmax())
        raise InputError("a CTF value here is not a number", where=block.where(row), remedy="delete that row")


def _half_set(rows: _Rows, notes: list[str]) -> np.ndarray | None:
    if "rlnRandomSubset" not in rows.block:
        return None
    subset = rows.block.integers("rlnRandomSubset")
    if not np.isin(subset, (1, 2)).all():
        notes.append("rlnRandomSubset has values other than 1 and 2: it is not used")
        return None
    return subset - 1


def _unused(rows: _Rows) -> list[str]:
    """What the table says and frazil does not use, as far as it makes a difference."""
    notes = []

    def differs(column: str, neutral: float) -> bool:
        values = rows.get(column, optics_first=True)
        return values is not None and bool((values != neutral).any())

    for column, what in (("rlnOddZernike", "antisymmetric"), ("rlnEvenZernike", "symmetric")):
        block = rows.optics
        if block is not None and column in block and any(set(text) & set("123456789") for text in block.text(column)):
            notes.append(f"{column} ({what} aberrations) is kept but not used")
    if any(differs(f"rlnMagMat{place}", neutral) for place, neutral in (("00", 1), ("01", 0), ("10", 0), ("11", 1))):
        notes.append("rlnMagMat (anisotropic magnification) is kept but not used")
    if differs("rlnCtfDataAreCtfPremultiplied", 0):
        notes.append("rlnCtfDataAreCtfPremultiplied: images are already multiplied by their CTF; taken as they are")
    if differs("rlnCtfScalefactor", 1):
        notes.append("rlnCtfScalefactor is kept but not used")
    if differs("rlnCtfDataArePhaseFlipped", 0):
        notes.append("rlnCtfDataArePhaseFlipped: images are already phase-flipped; taken as they are")
    return notes
