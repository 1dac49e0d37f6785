"""Plain-text and XML files that lie about in cryo-EM projects, told apart by what is in them."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np

from frazil.data.description import Description
from frazil.errors import InputError

_STACK = re.compile(r"\.(mrcs?|st|tiff?|eer)(\.(gz|bz2))?$", re.IGNORECASE)


def describe_text(path: Path, data: bytes) -> Description:
    """Say what a text file is. Raises InputError when nothing fits."""
    text = _decoded(data, path).lstrip("\ufeff")
    if text.lstrip().startswith("<"):
        return _xml(path, text)
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError("the file is empty", where=path, remedy="write it again")
    for reader in (_ctffind, _mdoc, _stack_list, _boxes, _table, _tilt_angles, _model):
        found = reader(path, lines)
        if found is not None:
            return found
    raise InputError("no kind of file that frazil knows", where=path, remedy="give a .star, .cs, .mrc or .pkl file")


def _decoded(data: bytes, path: Path) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise InputError(f"damaged UTF-16 text ({error.reason})", where=path, remedy="copy it again") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in data[:4096]:
            raise InputError(
                "no kind of file that frazil knows", where=path, remedy="give a .star, .cs, .mrc or .pkl file"
            ) from None
        return data.decode("latin-1")


def _ctffind(path: Path, lines: list[str]) -> Description | None:
    if "ctffind" not in lines[0].lower():
        return None
    if not lines[0].startswith("#"):
        return Description(path, "ctffind log", "CTFFIND", {"count": len(lines)})
    rows = _numbers([line for line in lines if not line.startswith("#")], None, path)
    header = " ".join(line for line in lines if line.startswith("#"))

    def said(pattern: str) -> float | None:
        found = re.search(pattern + r":\s*([0-9.]+)", header)
        return float(found[1]) if found else None

    if rows.ndim != 2 or rows.shape[1] < 7:
        raise InputError("no rows of the 7 columns that CTFFIND writes", where=path, remedy="run CTFFIND again")
    facts: dict[str, Any] = {
        "count": len(rows),
        "pixel_size": said("Pixel size"),
        "voltage": said("acceleration voltage"),
        "cs": said("spherical aberration"),
        "amplitude_contrast": said("amplitude contrast"),
        "defocus_range": [float(rows[:, 1:3].min()), float(rows[:, 1:3].max())],
    }
    notes = (
        ("a pixel size of exactly 1 Å is what CTFFIND suggests when nobody sets it",)
        if facts["pixel_size"] == 1
        else ()
    )
    return Description(path, "ctf", "CTFFIND", facts, notes)


def _mdoc(path: Path, lines: list[str]) -> Description | None:
    sections = [line for line in lines if line.startswith("[")]
    if not any(line.startswith(("[ZValue", "[FrameSet", "[Image")) for line in sections):
        return None
    frames = sum(line.startswith("[FrameSet") for line in sections)
    values = [line.partition("=") for line in lines if "=" in line and not line.startswith("[")]
    first = {name.strip(): value.strip() for name, _, value in reversed(values)}
    tilts = _all_numbers([value for name, _, value in values if name.strip() == "TiltAngle"], path)
    facts = {
        "count": frames or sum(line.startswith(("[ZValue", "[Image")) for line in sections),
        "pixel_size": _float(first.get("PixelSpacing")),
        "voltage": _float(first.get("Voltage")),
        "tilt_range": [min(tilts), max(tilts)] if tilts else None,
    }
    return Description(path, "frame sets" if frames else "tilt series", "SerialEM mdoc", facts)


def _stack_list(path: Path, lines: list[str]) -> Description | None:
    names = [line.split("#")[0].strip() for line in lines]
    names = [name for name in names if name]
    if not names or not all(_STACK.search(name) for name in names):
        return None
    return Description(path, "stack list", "text", {"count": len(names), "first": names[0]})


def _boxes(path: Path, lines: list[str]) -> Description | None:
    if path.suffix.lower() != ".box":
        return None
    rows = _numbers(lines, None, path)
    if rows.shape[1] < 4 or not np.isfinite(rows).all():
        raise InputError("not the 4 numbers of EMAN boxes", where=path, remedy="each line is: x y width height")
    sizes = sorted({int(size) for size in rows[:, 2:4].ravel()})
    score = [float(rows[:, 4].min()), float(rows[:, 4].max())] if rows.shape[1] > 4 else None
    facts = {"count": len(rows), "box_size": sizes[0] if len(sizes) == 1 else sizes, "score_range": score}
    notes = () if len(sizes) == 1 else ("the boxes differ in size",)
    return Description(path, "picks", "EMAN box: corner with the smallest x and y, width, height", facts, notes)


def _table(path: Path, lines: list[str]) -> Description | None:
    """Rows of numbers under a line of names, or without one, separated by commas or spaces."""
    comma = "," in lines[0]
    header = _split(lines[0], comma)
    named = any(_float(cell) is None for cell in header)
    body = lines[1:] if named else lines
    if not body or any(_float(cell) is None for cell in _split(body[0], comma)[:1]):
        return None
    if not comma and not named and len(header) == 1:
        return None
    rows = _numbers(body, comma, path, first=2 if named else 1)
    names = [name.strip().lower() for name in header] if named else []
    facts: dict[str, Any] = {"count": len(rows), "columns": header if named else rows.shape[1]}
    if "x-coordinate" in names or {"x", "y"} <= set(names):
        origin = "y may be counted from the bottom: compare with the micrograph"
        return Description(path, "picks", "CSV", facts, (origin,))
    return Description(path, "table", "CSV" if comma else "columns of numbers", facts)


def _tilt_angles(path: Path, lines: list[str]) -> Description | None:
    values = [_float(line) for line in lines]
    if any(value is None for value in values):
        return None
    angles = [value for value in values if value is not None]
    if path.suffix.lower() in (".tlt", ".rawtlt") or max(map(abs, angles)) <= 90:
        return Description(
            path, "tilt angles", "IMOD", {"count": len(angles), "tilt_range": [min(angles), max(angles)]}
        )
    return Description(path, "table", "column of numbers", {"count": len(angles), "columns": 1})


def _model(path: Path, lines: list[str]) -> Description | None:
    atoms = sum(line.startswith(("ATOM  ", "HETATM")) for line in lines)
    if atoms == 0:
        return None
    mmcif = any(line.startswith("_atom_site.") for line in lines)
    return Description(path, "atomic model", "mmCIF" if mmcif else "PDB", {"count": atoms})


def _xml(path: Path, text: str) -> Description:
    # entities could make a small file endless; none of these formats has them
    if "<!ENTITY" in text:
        raise InputError("XML with entities is not read", where=path, remedy="export the file again")
    try:
        # the text is decoded already: a declaration of its encoding would mislead
        root = ElementTree.fromstring(re.sub(r"^\s*<\?xml.*?\?>", "", text))
    except ElementTree.ParseError as error:
        raise InputError(f"damaged XML ({error})", where=path, remedy="copy it again") from None
    name = root.tag.rpartition("}")[2]
    if name == "TiltSeries":
        angles = _all_numbers((root.findtext("Angles") or "").split(), path)
        tilts = [min(angles), max(angles)] if angles else None
        return Description(path, "tilt series", "Warp XML", {"count": len(angles), "tilt_range": tilts})
    if name == "Movie":
        return Description(path, "movie metadata", "Warp XML", {"count": 1})
    if name == "MicroscopeImage":
        return Description(path, "image metadata", "EPU XML", _epu_facts(root))
    if name == "EpuSessionXml":
        return Description(path, "session", "EPU session", {"count": 1})
    return Description(path, "xml", name, {"count": len(list(root))})


def _epu_facts(root: ElementTree.Element) -> dict[str, Any]:
    def first(tag: str, within: ElementTree.Element = root) -> ElementTree.Element | None:
        return next((element for element in within.iter() if element.tag.rpartition("}")[2] == tag), None)

    size, voltage = first("pixelSize"), first("AccelerationVoltage")
    value = None if size is None else first("numericValue", size)
    metres, volts = (None if found is None else _float(found.text) for found in (value, voltage))
    return {
        "count": 1,
        "pixel_size": None if metres is None else round(metres * 1e10, 4),
        "voltage": None if volts is None else volts / 1e3,
    }


def _split(line: str, comma: bool) -> list[str]:
    return next(csv.reader(io.StringIO(line))) if comma else line.split()


def _numbers(lines: list[str], comma: bool | None, path: Path, first: int = 1) -> np.ndarray:
    """Rows of numbers, all of one length; a trailing comma is forgiven."""
    rows: list[list[float]] = []
    for number, line in enumerate(lines, first):
        cells = [cell for cell in (line.rstrip(", ").split(",") if comma else line.split())]
        values = [_float(cell) for cell in cells]
        if any(value is None for value in values) or (rows and len(values) != len(rows[0])):
            raise InputError(
                f"{line[:50]!r} is no row of {len(rows[0]) if rows else 'some'} numbers",
                where=f"{path}:{number}",
                remedy="correct or delete that line",
            )
        rows.append([value for value in values if value is not None])
    return np.array(rows)


def _all_numbers(texts: list[str], path: Path) -> list[float]:
    values = [_float(text) for text in texts]
    for text, value in zip(texts, values, strict=True):
        if value is None:
            raise InputError(f"the angle {text.strip()[:30]!r} is no number", where=path, remedy="copy the file again")
    return [value for value in values if value is not None]


def _float(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
