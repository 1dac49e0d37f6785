"""Reports: words, tables and figures in one HTML file that needs nothing else, now or in ten years."""

from __future__ import annotations

import base64
import io
import re
import time
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from frazil import __version__
from frazil.engine.files import atomic_write, write_json, write_text

if TYPE_CHECKING:
    from frazil.engine.job import Job

SCREEN_DOTS = 1.7  # dots of a figure (150 per inch) on one pixel of the page


class Picture(Protocol):
    """What the report asks of a figure: matplotlib's has it."""

    def savefig(self, fname: Any, *, format: str, dpi: Any = ...) -> None:
        """Writes itself as a PNG."""
        ...


class Section(Protocol):
    """A heading and what stands below it.

    `text` is paragraphs with blank lines between; indented ones are commands. `tables` are rows of cells, the header
    first. `figures` are by name: a JSON-able description of what is drawn, and the drawing. `films` are animated
    GIFs by caption.
    """

    heading: str
    text: str
    tables: list[list[Sequence[object]]]
    figures: Any
    films: dict[str, bytes]


def write_report(
    job: Job, title: str, sections: Sequence[Section], key_figures: Mapping[str, object] | None = None
) -> Path:
    """Writes ``report.html`` into a job's folder, and each figure as PNG and JSON into ``figures/``.

    Args:
        key_figures: the few numbers that matter, by name; they stand large on top.
    """
    import jinja2

    source = (resources.files("frazil.engine") / "report.html.jinja").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    record = job.folder / "job.toml"
    text = page.render(
        title=title,
        subtitle=_subtitle(job, record),
        keys=[(name, cell_text(value)) for name, value in (key_figures or {}).items()],
        sections=[_content(section, job.figures) for section in sections],
        record=record.read_text(encoding="utf-8") if record.is_file() else "",
    )
    path = job.folder / "report.html"
    write_text(path, text)
    return path


def _subtitle(job: Job, record: Path) -> str:
    command = tomllib.loads(record.read_text(encoding="utf-8"))["job"]["command"] if record.is_file() else ""
    parts = (job.name, time.strftime("%d %B %Y, %H:%M"), f"frazil {__version__}", command)
    return "  ·  ".join(part for part in parts if part)


def _content(section: Section, folder: Path) -> dict[str, Any]:
    pictures = [_save_figure(name, spec, drawn, folder) for name, (spec, drawn) in section.figures.items()]
    pictures += [_save_film(caption, content, folder) for caption, content in section.films.items()]
    return {
        "heading": section.heading,
        "paragraphs": paragraphs(section.text),
        "tables": [_table(table) for table in section.tables if table],
        "pictures": pictures,
    }


def paragraphs(text: str) -> list[tuple[str, str]]:
    """The paragraphs of a text, each ``("p", text)``, or ``("pre", text)`` when all its lines are indented."""
    found = []
    for part in re.split(r"\n[ \t]*\n", text.strip("\n")):
        lines = part.splitlines()
        if not part.strip():
            continue
        if all(line.startswith(("  ", "\t")) for line in lines):
            found.append(("pre", "\n".join(line.strip() for line in lines)))
        else:
            found.append(("p", part.strip()))
    return found


def _save_figure(name: str, spec: Any, drawn: Picture, folder: Path) -> dict[str, Any]:
    write_json(folder / f"{name}.json", spec)
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi="figure")
    content = buffer.getvalue()
    _write_bytes(folder / f"{name}.png", content)
    caption = spec.get("title", "") if isinstance(spec, Mapping) else ""
    width = round(int.from_bytes(content[16:20], "big") / SCREEN_DOTS)  # a PNG says its width in its first chunk
    return _picture("png", content, caption or name.replace("_", " "), shown=False, width=width)


def _save_film(caption: str, content: bytes, folder: Path) -> dict[str, Any]:
    _write_bytes(folder / f"{re.sub(r'[^A-Za-z0-9]+', '_', caption).strip('_')}.gif", content)
    return _picture("gif", content, caption, shown=True, width=0)


def _picture(kind: str, content: bytes, caption: str, *, shown: bool, width: int) -> dict[str, Any]:
    encoded = base64.b64encode(content).decode("ascii")
    return {"kind": kind, "content": encoded, "caption": caption, "shown": shown, "width": width}


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _table(table: list[Sequence[object]]) -> dict[str, Any]:
    header, *rows = table
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    # a column is set to the right when all that stands in it is numbers
    numeric = [bool(column) and all(_is_number(value) for value in column) for column in columns]

    def cells(row: Sequence[object]) -> list[dict[str, Any]]:
        return [{"text": cell_text(value), "number": number} for value, number in zip(row, numeric, strict=True)]

    return {"header": cells(header), "rows": [cells(row) for row in rows]}


def _is_number(value: object) -> bool:
    if isinstance(value, str):
        return bool(re.fullmatch(r"[-+]?[\d.,]+ ?[%°Å]?", value))
    return value is None or (hasattr(value, "__float__") and not isinstance(value, bool))


def cell_text(value: object) -> str:
    """A value as a report shows it: numbers with four digits, whole ones with thousands set apart, nothing for none."""
    if value is None:
        return "-"
    if isinstance(value, (bool, str)) or not _is_number(value):
        return str(value)
    number = float(value)  # type: ignore[arg-type]
    if isinstance(value, int) or (hasattr(value, "dtype") and number.is_integer()):
        return f"{int(number):,}"
    return f"{number:.4g}"
