"""What a file is, told from what is in it; its name only breaks ties."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from frazil.data.cryodrgn import CTF_COLUMNS, read_ctf, read_pickle
from frazil.data.cryodrgn_run import is_cryodrgn_run, open_cryodrgn_run
from frazil.data.cs import read_cs
from frazil.data.description import Description
from frazil.data.mrc import read_array, states_pixel_size
from frazil.data.mrc_header import MrcHeader, is_compressed, read_bytes, read_header
from frazil.data.npy import read_npy
from frazil.data.plausibility import particle_facts, particle_warnings
from frazil.data.recognise_text import describe_text
from frazil.data.relion import is_tomography, optics_block, particle_block
from frazil.data.stack import read_particles
from frazil.data.star import read_star
from frazil.data.table import Block, Table, shown
from frazil.errors import InputError

_PICTURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "BigTIFF"}


def recognise(
    path: Path, images: Path | None = None, pixel_size: float | None = None, box_size: int | None = None
) -> Description:
    """Say what a file or folder is, with counts and plausibility warnings.

    `images`, `pixel_size` and `box_size` are passed on to `read_particles`. Raises InputError when the file is missing,
    damaged, or of no kind known here.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path, images, pixel_size, box_size)
    name = path.name.lower().removesuffix(".gz").removesuffix(".bz2")
    start = _first_bytes(path)
    if name.endswith(".star"):
        return _star(path, images, pixel_size, box_size)
    if name.endswith(".cs"):
        return _cs(path, images, pixel_size, box_size)
    if name.endswith((".pkl", ".pickle")):
        return _pickle(path)
    if name.endswith((".mrc", ".mrcs", ".map", ".st", ".rec", ".ali", ".vol", ".ctf")):
        return _mrc(path, pixel_size)
    if name.endswith((".npy", ".npz")) or start[:6] == b"\x93NUMPY":
        return _numpy(path)
    for magic, kind in _PICTURES.items():
        if start.startswith(magic):
            return Description(path, "picture", kind, {"count": 1})
    data = read_bytes(path)
    found = describe_text(path, data)
    if found.kind == "stack list":
        particles = read_particles(path, images, pixel_size=pixel_size, box_size=box_size)
        return Description(path, "particles", "list of stacks", particle_facts(particles), particle_warnings(particles))
    return found


def _first_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        raise InputError("no such file", where=path, remedy="check the path") from None
    if not start:
        raise InputError("the file is empty", where=path, remedy="write it again")
    return start


def _particles(
    path: Path, kind: str, images: Path | None, pixel_size: float | None, box_size: int | None
) -> Description:
    particles = read_particles(path, images, pixel_size=pixel_size, box_size=box_size, need_images=False)
    return Description(path, "particles", kind, particle_facts(particles), particle_warnings(particles))


def _star(path: Path, images: Path | None, pixel_size: float | None, box_size: int | None) -> Description:
    table = read_star(path)
    known = {block.name for block in table.blocks}
    columns = {column for block in table.blocks for column in block.columns}
    if "rlnImageName" in columns and not is_tomography(table):
        if particle_block(table).count == 0:
            raise InputError("the particle table has no rows", where=path, remedy="select again with more particles")
        version = "RELION 3.1 or later" if optics_block(table) is not None else "RELION 3.0 or earlier"
        return _particles(path, f"{version} STAR", images, pixel_size, box_size)
    for names, kind, counted in (
        ({"model_general"}, "refinement model", "model_classes"),
        ({"optimiser_general"}, "refinement settings", None),
        ({"sampling_general"}, "orientation sampling", "sampling_directions"),
        ({"pipeline_processes"}, "project", "pipeline_processes"),
        ({"fsc", "general"}, "postprocessing", "fsc"),
    ):
        if names <= known:
            block = table[counted] if counted in known and counted is not None else None
            return _relion_other(path, table, kind, 1 if block is None else block.count)
    return _by_columns(path, table, columns)


def _by_columns(path: Path, table: Table, columns: set[str]) -> Description:
    largest = max(table.blocks, key=lambda block: block.count)
    facts: dict[str, Any] = {"count": largest.count}
    blocks = {block.name or "(nameless)": block.count for block in table.blocks}
    if is_tomography(table):
        note = "subtomograms of a tilt series: frazil works on single particles"
        return Description(path, "subtomograms", "RELION STAR", facts | _sampling(table) | {"blocks": blocks}, (note,))
    if "rlnMtfValue" in largest and largest.count:
        values = largest.numbers("rlnMtfValue")
        return Description(path, "detector MTF", "RELION STAR", facts | {"mtf_range": [values.min(), values.max()]})
    tilt = next((name for name in ("rlnTomoNominalStageTiltAngle", "wrpAngleTilt") if name in largest), None)
    if tilt is not None and largest.count:
        tilts = largest.numbers(tilt)
        return Description(
            path, "tilt series", "STAR", facts | _defocus(largest) | {"tilt_range": [tilts.min(), tilts.max()]}
        )
    if "rlnCoordinateX" in columns and "rlnVoltage" not in columns:
        return Description(
            path, "picks", "STAR", facts | {"columns": list(largest.columns)}, tuple(_pick_notes(largest))
        )
    if columns & {"rlnMicrographName", "rlnMicrographMovieName"}:
        kind = "micrographs" if "rlnMicrographName" in columns else "movies"
        return Description(path, kind, "RELION STAR", facts | _sampling(table) | _defocus(largest))
    return Description(path, "table", "STAR", facts | {"blocks": blocks, "columns": list(largest.columns)})


def _pick_notes(block: Block) -> list[str]:
    notes = []
    if block.count == 0:
        notes.append("there is no row in it")
    unset = [name for name in block.columns if name != "rlnMicrographName" and _all_unset(block, name)]
    if unset:
        notes.append(f"{shown(unset)} hold -999 throughout, which means: not known")
    return notes


def _all_unset(block: Block, name: str) -> bool:
    texts = block.text(name)
    return bool(texts) and all(text.startswith("-999") for text in texts)


def _relion_other(path: Path, table: Table, kind: str, count: int) -> Description:
    blocks = {block.name: block.count for block in table.blocks}
    first = table.blocks[0]
    facts: dict[str, Any] = {"count": count}
    for name, column in (
        ("pixel_size", "rlnPixelSize"),
        ("box_size", "rlnOriginalImageSize"),
        ("resolution", "rlnFinalResolution"),
        ("resolution", "rlnCurrentResolution"),
        ("iteration", "rlnCurrentIteration"),
        ("symmetry", "rlnSymmetryGroup"),
    ):
        if column in first and first.count:
            facts[name] = first.text(column)[0] if name == "symmetry" else float(first.numbers(column)[0])
    for name in ("box_size", "iteration"):
        if name in facts:
            facts[name] = int(facts[name])
    return Description(path, kind, "RELION STAR", facts | {"blocks": blocks})


def _sampling(table: Table) -> dict[str, Any]:
    optics = optics_block(table)
    if optics is None:
        largest = max(table.blocks, key=lambda block: block.count)
        if "rlnDetectorPixelSize" in largest and "rlnMagnification" in largest and largest.count:
            sizes = largest.numbers("rlnDetectorPixelSize") * 1e4 / largest.numbers("rlnMagnification")
            return {"pixel_size": round(float(np.median(sizes)), 5)}
        return {}
    names = optics.text("rlnOpticsGroupName") if "rlnOpticsGroupName" in optics else [""] * optics.count
    facts: dict[str, Any] = {"optics_groups": [{"name": name} for name in names]}
    for name, columns in (
        ("pixel_size", ("rlnImagePixelSize", "rlnMicrographPixelSize", "rlnTomoTiltSeriesPixelSize")),
        ("box_size", ("rlnImageSize",)),
        ("voltage", ("rlnVoltage",)),
    ):
        column = next((column for column in columns if column in optics), None)
        if column is not None:
            values = sorted(set(optics.numbers(column).tolist()))
            values = [int(value) for value in values] if name == "box_size" else values
            facts[name] = values[0] if len(values) == 1 else values
    return facts


def _defocus(block: Block) -> dict[str, Any]:
    if "rlnDefocusU" not in block or block.count == 0:
        return {}
    values = np.stack([block.numbers(name) for name in ("rlnDefocusU", "rlnDefocusV") if name in block])
    return {"defocus_range": [float(values.min()), float(values.max())]}


def _cs(path: Path, images: Path | None, pixel_size: float | None, box_size: int | None) -> Description:
    table = read_cs(path)
    block = table.blocks[0]
    if "blob/path" in block:
        return _particles(path, "cryoSPARC", images, pixel_size, box_size)
    groups = sorted({column.partition("/")[0] for column in block.columns if "/" in column})
    kind = (
        "micrographs" if any("micrograph_blob" in group or group == "movie_blob" for group in groups) else "passthrough"
    )
    return Description(path, kind, "cryoSPARC", {"count": block.count, "groups": groups})


def _pickle(path: Path) -> Description:
    values = read_pickle(path)
    first = values[0]
    parts = first if isinstance(first, (tuple, list)) else [first]
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if arrays and arrays[0].ndim == 3 and arrays[0].shape[1:] == (3, 3):
        facts: dict[str, Any] = {"count": len(arrays[0]), "has_poses": True, "has_shifts": len(arrays) > 1}
        far = len(arrays) > 1 and np.abs(arrays[1]).max(initial=0) > 1
        notes = ("shifts larger than the box: they are in pixels, not fractions of the box",) if far else ()
        return Description(path, "poses", "cryoDRGN pickle", facts, notes)
    if len(arrays) == 1 and arrays[0].ndim == 2 and arrays[0].shape[1] == CTF_COLUMNS and len(values) == 1:
        return _pickled_ctf(path)
    if len(arrays) == 1 and arrays[0].ndim == 1 and arrays[0].dtype.kind in "iu":
        facts = {"count": len(arrays[0]), "index_range": [arrays[0].min(initial=0), arrays[0].max(initial=0)]}
        return Description(path, "particle indices", "cryoDRGN pickle", facts)
    if len(arrays) == 1 and arrays[0].ndim == 2 and arrays[0].dtype.kind == "f":
        facts = {"count": len(arrays[0]), "latent_dim": arrays[0].shape[1], "has_variance": len(values) > 1}
        return Description(path, "latents", "cryoDRGN pickle", facts)
    shapes = [list(array.shape) for array in arrays]
    return Description(path, "arrays", "pickle", {"count": len(arrays), "shapes": shapes})


def _pickled_ctf(path: Path) -> Description:
    boxes, sizes, optics = read_ctf(path)
    voltages = sorted({float(value) for value in optics.voltage.unique()})
    facts: dict[str, Any] = {
        "count": len(optics),
        "box_size": sorted(set(boxes.tolist()))[0] if len(set(boxes.tolist())) == 1 else sorted(set(boxes.tolist())),
        "pixel_size": sorted(set(sizes.tolist()))[0] if len(set(sizes.tolist())) == 1 else sorted(set(sizes.tolist())),
        "has_ctf": True,
        "defocus_range": [float(optics.defocus_v.min()), float(optics.defocus_u.max())],
        "voltage": voltages[0] if len(voltages) == 1 else voltages,
    }
    notes = ("all defocus values are 0",) if facts["defocus_range"] == [0, 0] else ()
    return Description(path, "ctf", "cryoDRGN pickle", facts, notes)


def _mrc(path: Path, pixel_size: float | None) -> Description:
    if is_compressed(path):
        values, header = read_array(path)
    else:
        header = read_header(path).checked(path)
        values = read_array(path)[0] if _is_volume(header, path) and header.size[2] <= 1024 else None
    x, y, z = header.size
    size = pixel_size or header.pixel_size[0]
    if not _is_volume(header, path) and z > 1:
        return _particles(path, f"MRC stack, mode {header.mode}", None, pixel_size, None)
    facts: dict[str, Any] = {
        "count": 1,
        "box_size": x if x == y and z in (1, x) else [x, y, z],
        "pixel_size": size or None,
        "mode": header.mode,
        "labels": [label for label in header.labels if label],
    }
    notes = []
    if not states_pixel_size(size):
        notes.append(f"the header's pixel size is {size:g} Å, which programs write when they do not know it")
    if values is not None and np.isrealobj(values):
        facts |= {
            "value_range": [float(values.min()), float(values.max())],
            "mean": float(values.mean(dtype=np.float64)),
        }
        if not np.isfinite(values).all():
            notes.append("it holds NaN or infinity")
    if z > 1 and len({x, y, z}) > 1:
        notes.append("the map is not a cube")
    if header.axes != (1, 2, 3):
        notes.append(f"its axes are stored in the order {header.axes}: they are turned to x, y, z when read")
    return Description(path, "map" if z > 1 else "micrograph", f"MRC mode {header.mode}", facts, tuple(notes))


def _is_volume(header: MrcHeader, path: Path) -> bool:
    """A map rather than a stack of images: by the name, then the space group, then whether it is a cube."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".bz2")
    if name.endswith((".mrcs", ".st")):
        return False
    if name.endswith((".map", ".rec", ".vol")):
        return True
    return header.size[2] == 1 or len(set(header.size)) == 1


def _numpy(path: Path) -> Description:
    if path.suffix != ".npz":
        array = read_npy(path)
        shape = list(array.shape)
        return Description(path, "array", "NumPy", {"count": shape[0] if shape else 1, "shape": shape})
    try:
        with np.load(path, allow_pickle=False) as archive:
            shapes = {name: list(archive[name].shape) for name in archive.files}
    except (ValueError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(f"this archive cannot be read safely ({error})", where=path, remedy="save it again") from None
    return Description(path, "arrays", "NumPy archive", {"count": len(shapes), "shapes": shapes})


def _folder(path: Path, images: Path | None, pixel_size: float | None, box_size: int | None) -> Description:
    if (path / "truth.json").exists() or (path / "truth" / "truth.json").exists():
        from frazil.data.truth import read_truth

        if not (path / "particles.star").exists():
            truth = read_truth(path)
            facts = {"count": truth.count, "volumes": len(truth.volumes), "has_latent": truth.latent is not None}
            return Description(path, "truth", "frazil", facts)
    if is_cryodrgn_run(path):
        return _cryodrgn_run(path, pixel_size)
    status, job = path / "status.json", path / "job.toml"
    if not job.exists() and not status.exists():
        stars = sorted(path.glob("*.star"))
        if len(stars) == 1:
            return recognise(stars[0], images, pixel_size, box_size)
        raise InputError("no job folder and no single STAR file in it", where=path, remedy="give a file")
    facts = {"count": 1, **_status(status)}
    outputs = sorted(file.name for file in (path / "outputs").glob("*")) if (path / "outputs").is_dir() else []
    inside = path / "outputs" / "particles.star"
    if inside.exists():
        particles = recognise(inside, images, pixel_size, box_size)
        return Description(path, "job", "frazil", facts | particles.facts | {"outputs": outputs}, particles.warnings)
    return Description(path, "job", "frazil", facts | {"outputs": outputs})


def _cryodrgn_run(path: Path, pixel_size: float | None) -> Description:
    run = open_cryodrgn_run(path)
    latent, covariance = run.latent()
    notes = []
    try:
        size = run.pixel_size(pixel_size)
    except InputError as error:
        size, notes = None, [str(error)]
    facts = {"count": len(latent), "box_size": run.box_size, "pixel_size": size, "latent_dim": latent.shape[1]}
    facts |= {"has_variance": covariance is not None, "epoch": run.epoch}
    particles = run.path_of("particles")
    if particles is None or not particles.exists():
        notes.append(f"its particles are no longer where it says ({particles})")
    return Description(path, "ensemble", "cryoDRGN run", facts, tuple(notes))


def _status(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return {name: said[name] for name in ("verb", "state") if isinstance(said, dict) and name in said}
