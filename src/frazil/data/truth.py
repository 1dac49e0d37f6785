"""The truth beside a simulated data set: latent, state, pose and the volumes, in row order of its particles.

truth/truth.json  latent.npy (N, k)  state.npy (N,)  rotation.npy (N, 3, 3)  shift.npy (N, 2)  junk.npy (N,)
volumes/volume_000.mrc ...
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Bool, Float, Int

from frazil.data.npy import read_npy
from frazil.engine.files import write_json, write_npy
from frazil.errors import InputError

_ARRAYS = {"latent": 2, "state": 1, "rotation": 3, "shift": 2, "junk": 1}


@final
@dataclass(frozen=True)
class Truth:
    """What is true of a simulated data set; every array has one entry per particle.

    Attributes:
        latent: conformation coordinates; None for a rigid molecule. state: which of `volumes` is nearest (or is the state).
        rotation: object to view. shift: (x, y) Å. volumes: maps of states, in order. volume_latents: (volumes, k) their
        coordinates, None without latent. facts: whatever else the simulation says of itself. folder: that holds it all.
        junk: which images are not the molecule, None when all are. rows: which of the simulated images these are, None for
        all.
    """

    latent: Float[np.ndarray, "particles k"] | None
    state: Int[np.ndarray, " particles"]
    rotation: Float[np.ndarray, "particles 3 3"]
    shift: Float[np.ndarray, "particles 2"]
    volumes: tuple[Path, ...] = ()
    volume_latents: Float[np.ndarray, "volumes k"] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    junk: Bool[np.ndarray, " particles"] | None = None
    rows: Int[np.ndarray, " particles"] | None = None

    @property
    def count(self) -> int:
        """Number of particles."""
        return len(self.state)

    def select(self, rows: Int[np.ndarray, " some"]) -> Truth:
        """What is true of some of these particles."""
        arrays = ("latent", "state", "rotation", "shift", "junk")
        some = {name: None if (all_rows := getattr(self, name)) is None else all_rows[rows] for name in arrays}
        return replace(self, **some, rows=rows if self.rows is None else self.rows[rows])


def write_truth(
    folder: Path,
    *,
    state: np.ndarray,
    rotation: np.ndarray,
    shift: np.ndarray,
    latent: np.ndarray | None = None,
    junk: np.ndarray | None = None,
    volumes: Sequence[Path] = (),
    volume_latents: np.ndarray | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write the truth into `folder` (the volumes are already there or below); `truth.json` comes last."""
    folder = Path(folder)
    arrays = {"latent": latent, "state": state, "rotation": rotation, "shift": shift, "junk": junk}
    counts = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(counts.values())) > 1:
        raise ValueError(f"arrays of different lengths: {counts}")
    for name, array in arrays.items():
        if array is not None:
            write_npy(folder / f"{name}.npy", np.asarray(array))
    write_json(
        folder / "truth.json",
        {
            "format": 1,
            "particles": len(state),
            "arrays": list(counts),
            "volumes": [os.path.relpath(path, folder) for path in volumes],
            "volume_latents": None if volume_latents is None else np.asarray(volume_latents).tolist(),
            "facts": dict(facts or {}),
        },
    )


def read_truth(path: Path) -> Truth:
    """Read the truth from a simulate job's folder, its `outputs/`, or the `truth/` folder itself.

    Raises InputError when it is not there, incomplete, or its arrays do not fit together.
    """
    path = Path(path)
    folders = (path, path / "truth", path / "outputs" / "truth", path.parent / "truth")
    folder = next((folder for folder in folders if (folder / "truth.json").exists()), None)
    if folder is None:
        raise InputError("no truth.json here", where=path, remedy="give the folder that frazil simulate wrote")
    try:
        said = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        names, count = list(said["arrays"]), int(said["particles"])
        volumes, latents, facts = said["volumes"], said["volume_latents"], said["facts"]
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"damaged truth.json ({error})", where=folder, remedy="simulate again") from None
    arrays = {
        name: _array(folder / f"{name}.npy", dimensions, count) for name, dimensions in _ARRAYS.items() if name in names
    }
    for name in ("state", "rotation", "shift"):
        if name not in arrays:
            raise InputError(f"truth.json does not list {name}", where=folder, remedy="simulate again")
    return Truth(
        arrays.get("latent"),
        arrays["state"],
        arrays["rotation"],
        arrays["shift"],
        tuple(folder / name for name in volumes),
        None if latents is None else np.asarray(latents, np.float64),
        facts,
        folder,
        arrays.get("junk"),
    )


def _array(path: Path, dimensions: int, count: int) -> np.ndarray:
    array = read_npy(path, "simulate again")
    if array.ndim != dimensions or len(array) != count:
        raise InputError(f"shape {array.shape} for {count} particles", where=path, remedy="simulate again")
    return array
