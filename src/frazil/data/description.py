"""What `frazil inspect` says of a file: a kind, facts by name, warnings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final


@final
@dataclass(frozen=True)
class Description:
    """What a file is.

    Attributes:
        kind: one or two words, the same for the same sort of file (`particles`, `map`, `picks`, ...). format: who writes such
        files. facts: everything else, under names that scripts can rely on. warnings: what looks wrong, each one sentence.
    """

    path: Path
    kind: str
    format: str
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def json(self) -> dict[str, Any]:
        """One flat object, in which what scripts ask for most is always present; no number is NaN or infinite."""
        whole = {"file": str(self.path), "kind": self.kind, "format": self.format, **_ALWAYS, **self.facts}
        return {**{name: _plain(value) for name, value in whole.items()}, "warnings": list(self.warnings)}

    def text(self) -> str:
        """Lines for people: the same, aligned."""
        lines = [f"{self.path}: {self.kind} ({self.format})"]
        names = [name for name, value in self.facts.items() if value not in (None, [], {})]
        width = max((len(name) for name in names), default=0)
        for name in names:
            lines.append(f"  {name.replace('_', ' '):<{width}}  {_shown(name, self.facts[name])}")
        lines += [f"  ! {warning}" for warning in self.warnings]
        return "\n".join(lines)


# what does not apply to a file is null, false or empty
_ALWAYS: dict[str, Any] = {
    "count": None,
    "box_size": None,
    "pixel_size": None,
    "optics_groups": [],
    "has_poses": False,
    "defocus_range": None,
    "voltage": None,
}
_UNITS = {
    "pixel_size": " Å",
    "voltage": " kV",
    "defocus_range": " Å",
    "cs": " mm",
    "box_size": " px",
    "resolution": " Å",
    "angle_range": "°",
}


def _shown(name: str, value: Any) -> str:
    unit = _UNITS.get(name, "")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}{unit}"
    if isinstance(value, int):
        return f"{value:,}{unit}" if value >= 10_000 else f"{value}{unit}"
    if name.endswith("_range") and len(value) == 2:
        return f"{value[0]:,.6g} to {value[1]:,.6g}{unit}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(key, part)}" for key, part in value.items() if part is not None)
    if isinstance(value, (list, tuple)):
        parts = [_shown(name, part) for part in value[:12]]
        separator = "; " if parts and "," in parts[0] else ", "
        return separator.join(parts) + (f" and {len(value) - 12} more" if len(value) > 12 else "")
    return str(value)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value
