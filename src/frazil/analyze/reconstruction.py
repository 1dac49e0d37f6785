"""The folder of a reconstruct job, as the next stages read it; or that of a finished cryoDRGN run."""

from __future__ import annotations

import csv
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from frazil.errors import InputError

if TYPE_CHECKING:
    from frazil.data.cryodrgn_run import CryodrgnRun
    from frazil.data.stack import Particles
    from frazil.physics.ensemble import Ensemble

# columns of fsc.csv that place a row, and are no correlation themselves
PLACES = ("shell", "resolution", "frequency", "spacing", "index")


@dataclass(frozen=True)
class Reconstruction:
    """What a reconstruct job left in its folder.

    Attributes:
        folder: the job folder, or that of one discrete state in its outputs. outputs: where the results are.
        latent: (N, d) latent coordinate of every particle; None for a rigid reconstruction.
        covariance: (N, d, d) posterior covariance of each; None when the job wrote none.
        run: the cryoDRGN run that stands in for a job. pixel_size: of its images, Å, where its own files are lost.
    """

    folder: Path
    outputs: Path
    latent: Float[np.ndarray, "particles latent"] | None
    covariance: Float[np.ndarray, "particles latent latent"] | None
    run: CryodrgnRun | None = None
    pixel_size: float | None = None

    @property
    def has_ensemble(self) -> bool:
        """Whether the job learnt an ensemble."""
        return self.run is not None or (self.outputs / "ensemble.json").exists()

    def ensemble(self) -> Ensemble:
        """The ensemble of the job.

        Raises:
            InputError: the job holds none.
        """
        from frazil.data.ensemble import load_ensemble

        if self.run is not None:
            return self.run.ensemble(self.pixel_size)
        if not self.has_ensemble:
            raise InputError(
                "this job holds no ensemble, only one rigid map",
                where=self.folder,
                remedy="run frazil reconstruct with --preset cryodrgn",
            )
        return load_ensemble(self.outputs)

    def half_ensembles(self) -> tuple[Ensemble, Ensemble] | None:
        """The ensembles learnt on each half-set, in one latent frame; None when the job has none."""
        from frazil.data.ensemble import load_ensemble

        folders = [self.outputs / name for name in ("half_a", "half_b")]
        if not all((folder / "ensemble.json").exists() for folder in folders):
            return None
        return load_ensemble(folders[0]), load_ensemble(folders[1])

    def particles(self) -> Particles:
        """The particles of the job, in the order of its latents.

        Raises:
            InputError: the table is damaged, or no longer where a cryoDRGN run says.
        """
        from frazil.data.stack import read_particles

        if self.run is not None:
            return self.run.particles()
        return read_particles(self.outputs / "particles.star", need_images=False)

    def component(self) -> np.ndarray | None:
        """(N,) the component of every particle, of a reconstruction with several; None otherwise."""
        return _read_table(self.outputs / "component.npy", 1)

    def membership(self) -> np.ndarray | None:
        """(N, K) probability of every discrete state for every particle, of a job that learnt states; None otherwise."""
        return _read_table(self.outputs / "component_probability.npy", 2)

    def cryosparc_source(self) -> Particles | None:
        """The cryoSPARC table that the job was given, where it was one and is still there."""
        from frazil.data.stack import read_particles

        source = Path(str(self._settings().get("particles", "")))
        return read_particles(source, need_images=False) if source.suffix == ".cs" and source.is_file() else None

    def map_path(self, *names: str) -> Path | None:
        """The first of these files that the job made."""
        return next(iter(self.map_paths(*names)), None)

    def map_paths(self, *names: str) -> list[Path]:
        """Those of these files that the job made."""
        return [self.outputs / name for name in names if (self.outputs / name).exists()]

    def correlations(self) -> dict[str, np.ndarray]:
        """The curves of fsc.csv by name, on shells 0, 1, ...; empty when there is no such file."""
        path = self.outputs / "fsc.csv"
        if not path.exists():
            return {}
        with path.open(newline="") as file:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
        names = [name for name in (rows[0] if rows else {}) if not name.lower().startswith(PLACES)]
        return {name.replace("_", " "): np.array([_number(row[name]) for row in rows]) for name in names}

    @property
    def symmetry(self) -> str:
        """The point group that the job was given; C1 when its record does not say."""
        return str(self._settings().get("symmetry", "C1"))

    def _settings(self) -> dict[str, Any]:
        """The settings of the job, from its record; empty when it cannot be read."""
        # a discrete state lies in the outputs of its job
        records = [folder / "job.toml" for folder in (self.folder, self.folder.parent.parent)]
        try:
            record = next(path for path in records if path.is_file()).read_text(encoding="utf-8")
            return dict(tomllib.loads(record)["reconstruct"])
        except (StopIteration, OSError, ValueError, KeyError, TypeError):
            return {}

    def finest_resolution(self) -> float:
        """Å, to which the job used its images to learn the ensemble; 0 where it does not say."""
        return min((float(one["resolution"]) for one in self.records() if "resolution" in one), default=0.0)

    def records(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, oldest first."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def read_reconstruction(path: Path, pixel_size: float | None = None) -> Reconstruction:
    """Open the folder of a reconstruct job (or its `outputs/`), of one of its discrete states, or of a cryoDRGN run.

    Args:
        pixel_size: Å per pixel of a run's images, where its own files do not say.

    Raises:
        InputError: there is no such folder, it is no reconstruct job, or its latents do not fit together.
    """
    from frazil.data.cryodrgn_run import is_cryodrgn_run, open_cryodrgn_run

    if not path.is_dir():
        what = "this is a file, not a job folder" if path.exists() else "there is no such folder"
        raise InputError(what, where=path, remedy="give the folder that frazil reconstruct wrote")
    if is_cryodrgn_run(path):
        run = open_cryodrgn_run(path)
        return Reconstruction(path, path, *run.latent(), run, pixel_size)
    if pixel_size is not None:
        raise InputError("a job knows its pixel size", where="--pixel-size", remedy="leave it out")
    outputs = path if (path / "particles.star").exists() else path / "outputs"
    if not (outputs / "particles.star").exists():
        raise InputError(
            "this is not a finished reconstruct job: it has no outputs/particles.star",
            where=path,
            remedy="give the folder that frazil reconstruct wrote",
        )
    folder = outputs.parent if outputs.name == "outputs" else outputs
    latent = _read_table(outputs / "latent.npy", 2)
    covariance = _read_table(outputs / "latent_covariance.npy", 3)
    if latent is not None and covariance is not None and covariance.shape != (*latent.shape, latent.shape[1]):
        raise InputError(
            f"latent_covariance.npy has shape {covariance.shape}, latent.npy has {latent.shape}: they do not fit",
            where=outputs,
            remedy="reconstruct again with --again",
        )
    return Reconstruction(folder, outputs, latent, covariance)


def _read_table(path: Path, dimensions: int) -> np.ndarray | None:
    if not path.exists():
        return None
    try:
        table = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError("not a readable NumPy array", where=path, remedy="reconstruct again with --again") from error
    if table.ndim != dimensions:
        raise InputError(f"an array of shape {table.shape}, {dimensions} dimensions were expected", where=path)
    return table


def _number(text: str | None) -> float:
    return float(text) if text not in (None, "") else float("nan")
