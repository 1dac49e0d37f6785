"""Ensembles on disk: `ensemble.safetensors` holds the tensors, `ensemble.json` the kind and its settings.

Neither file can run anything. A kind of ensemble is a class that takes itself apart into named tensors and plain settings
and puts itself together again; the classes are found by name, and imported only when a file of that kind is opened.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from frazil.data.table import shown
from frazil.engine.files import atomic_write, write_json
from frazil.errors import InputError
from frazil.physics.ensemble import Ensemble

TENSORS, DESCRIPTION = "ensemble.safetensors", "ensemble.json"
FORMAT = 1


@final
@dataclass(frozen=True)
class StoredEnsemble:
    """An ensemble taken apart: its kind's name, its tensors, and settings that JSON can hold."""

    kind: str
    tensors: dict[str, Tensor]
    settings: dict[str, Any]


class StorableEnsemble(Protocol):
    """What a kind of ensemble offers besides being an `Ensemble`."""

    kind: str

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(named tensors, settings): all that `from_tensors` needs."""
        ...

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Ensemble:
        """The ensemble again."""
        ...


_KINDS: dict[str, str | type] = {
    "basis": "frazil.physics.basis:BasisEnsemble",
    "field": "frazil.physics.field:FieldEnsemble",
    "jointed": "frazil.physics.jointed:JointedGaussians",
    "path": "frazil.physics.path:GaussianPath",
}


def register_ensemble(kind: str, where: str | type) -> None:
    """Make a kind of ensemble known: its class, or "module:class" to be imported when it is needed."""
    _KINDS[kind] = where


def save_ensemble(folder: Path, ensemble: StorableEnsemble) -> None:
    """Write an ensemble into a folder, each file atomically. It must be of a registered kind."""
    if ensemble.kind not in _KINDS:
        raise ValueError(f"no ensemble of kind {ensemble.kind!r} is registered")
    tensors, settings = ensemble.to_tensors()
    save_stored(folder, StoredEnsemble(ensemble.kind, tensors, settings))


def load_ensemble(folder: Path) -> Ensemble:
    """Read the ensemble of a folder (or of a job: its `outputs/`).

    Raises InputError when the files are missing, damaged, or of a kind this version does not know.
    """
    stored = load_stored(folder)
    where = _KINDS.get(stored.kind)
    if where is None:
        raise InputError(
            f"an ensemble of kind {stored.kind!r} is not known here (known: {shown(_KINDS)})",
            where=Path(folder) / DESCRIPTION,
            remedy="read it with the version of frazil that wrote it",
        )
    if isinstance(where, str):
        module, _, name = where.partition(":")
        where = getattr(import_module(module), name)
    try:
        return where.from_tensors(stored.tensors, stored.settings)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"the ensemble lacks something of its kind ({error})",
            where=Path(folder) / DESCRIPTION,
            remedy="reconstruct again, or use the version of frazil that wrote it",
        ) from None


def save_stored(folder: Path, stored: StoredEnsemble) -> None:
    """Write the two files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in stored.tensors.items()}
    with atomic_write(folder / TENSORS) as temporary:
        save_file(tensors, temporary)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    write_json(
        folder / DESCRIPTION,
        {"format": FORMAT, "kind": stored.kind, "settings": stored.settings, "tensors": shapes},
    )


def load_stored(folder: Path) -> StoredEnsemble:
    """Read the two files. Raises InputError when they are missing, damaged, or do not belong together."""
    folder = Path(folder)
    if not (folder / DESCRIPTION).exists() and (folder / "outputs" / DESCRIPTION).exists():
        folder = folder / "outputs"
    description = folder / DESCRIPTION
    for path in (description, folder / TENSORS):
        if not path.exists():
            raise InputError("no such file", where=path, remedy="give the folder of a heterogeneous reconstruction")
    try:
        said = json.loads(description.read_text(encoding="utf-8"))
        kind, settings, shapes = said["kind"], said["settings"], said["tensors"]
        tensors = load_file(folder / TENSORS)
    except (json.JSONDecodeError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"damaged ensemble ({error})", where=folder, remedy="copy or reconstruct it again") from None
    if {name: list(tensor.shape) for name, tensor in tensors.items()} != shapes:
        raise InputError(
            f"{TENSORS} and {DESCRIPTION} do not belong together", where=folder, remedy="copy both files again"
        )
    return StoredEnsemble(kind, tensors, settings)
