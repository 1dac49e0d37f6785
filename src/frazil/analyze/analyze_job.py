"""The work of `frazil analyze`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from frazil.analyze import decoding, pictures
from frazil.analyze.chimerax import chimerax_script
from frazil.analyze.conformations import Components, States, cluster, principal_components, umap_plane
from frazil.analyze.reconstruction import Reconstruction, read_reconstruction
from frazil.analyze.states import write_states
from frazil.data.mrc import read_volume
from frazil.engine.files import write_npy, write_text
from frazil.engine.report import write_report
from frazil.errors import InputError
from frazil.figures import raymarch, style
from frazil.figures.section import Section

if TYPE_CHECKING:
    from frazil.analyze import Config
    from frazil.engine.job import Job
    from frazil.physics.ensemble import Ensemble
    from frazil.physics.grid import Grid

MAP_COLOURS = ("#7fb2e5", "#c3c8cf")


def run_analyze(config: Config, job: Job) -> None:
    """Analyse the ensemble of a job, or show its map when it has none."""
    reconstruction = read_reconstruction(config.job)
    if reconstruction.has_ensemble and reconstruction.latent is not None:
        _analyze_ensemble(config, job, reconstruction, reconstruction.latent)
    else:
        _analyze_map(config, job, reconstruction)


def _analyze_map(config: Config, job: Job, reconstruction: Reconstruction) -> None:
    shown = reconstruction.map_paths(*pictures.MAPS)
    if not shown:
        raise InputError(
            "this job has neither an ensemble nor a consensus map",
            where=config.job,
            remedy="run frazil reconstruct again with --again",
        )
    sections = pictures.consensus_sections(reconstruction, config.level) + pictures.training_section(reconstruction)
    level = raymarch.contour_level(read_volume(shown[0])[0]) if config.level is None else config.level
    _write_script(config, job, list(zip(shown, MAP_COLOURS, strict=False)), level, {})
    good = pictures.resolution_line(reconstruction)
    write_report(job, f"Map of {config.job.name}", sections, {"resolution": good})
    job.made(job.folder / "report.html", good, f"chimerax {job.folder / 'open.cxc'}")


def _analyze_ensemble(config: Config, job: Job, reconstruction: Reconstruction, latent: np.ndarray) -> None:
    ensemble = reconstruction.ensemble().to(job.device)
    if latent.shape[1] != ensemble.latent_dim:
        raise InputError(
            f"latent.npy has {latent.shape[1]} coordinates, the ensemble has {ensemble.latent_dim}",
            where=reconstruction.outputs,
            remedy="run frazil reconstruct again with --again",
        )
    grid = decoding.decoding_grid(ensemble.grid, config.box)
    components = principal_components(latent)
    states = cluster(latent, components, config.clusters, config.seed)
    job.log(f"PC 1 holds {components.fraction[0]:.0%} of the variance; {len(states.rows)} states")
    plane = umap_plane(latent, config.seed) if _wants_umap(config, latent.shape[1]) else None
    _write_tables(job, components, states, plane)
    write_states(reconstruction.particles(), states, job.outputs)

    state_paths = [job.outputs / "volumes" / f"state_{k:03d}.mrc" for k in range(len(states.rows))]
    state_maps, pixel_size = decoding.decode_to_files(ensemble, states.centres, grid, state_paths, job, "states")
    look = _look(state_maps, pixel_size, config.level)
    traversals = _traverse(config, job, ensemble, components, grid, look)
    sections = [
        pictures.latent_section(reconstruction, components, states, plane, [one.path for one in traversals]),
        *(one.section for one in traversals),
        pictures.states_section(states, state_maps, look),
        *pictures.consensus_sections(reconstruction, None),
        *pictures.training_section(reconstruction),
    ]
    coloured = list(zip(state_paths, style.state_colours(len(state_paths)), strict=True))
    films = {f"motion along PC {i}": one.files for i, one in enumerate(traversals, start=1)}
    _write_script(config, job, coloured, look.level, films)
    write_report(job, f"Conformations of {config.job.name}", sections, _key_figures(components, states))
    good = f"{len(states.rows)} states of {states.counts.min()} to {states.counts.max()} particles"
    job.made(job.folder / "report.html", good, f"chimerax {job.folder / 'open.cxc'}")


@dataclass(frozen=True)
class Traversal:
    """Latent points along one component, the files of their maps, and what the report says of them."""

    path: np.ndarray
    files: list[Path]
    section: Section


def _traverse(
    config: Config, job: Job, ensemble: Ensemble, components: Components, grid: Grid, look: pictures.Look
) -> list[Traversal]:
    """Decode maps along the first components."""
    traversals = []
    for k in range(min(config.components, len(components.axes))):
        path = components.along(k, config.steps)
        files = [job.outputs / "volumes" / f"pc{k + 1}_{i:03d}.mrc" for i in range(config.steps)]
        volumes, _ = decoding.decode_to_files(ensemble, path, grid, files, job, f"PC {k + 1}")
        places = components.project(path)[:, k]
        section = pictures.traversal_section(k, volumes, places, float(components.fraction[k]), look)
        traversals.append(Traversal(path, files, section))
    return traversals


def _look(volumes: list[np.ndarray], pixel_size: float, level: float | None) -> pictures.Look:
    """One contour level for all maps, and the view that shows what moves."""
    chosen = float(np.median([raymarch.contour_level(volume) for volume in volumes])) if level is None else level
    return pictures.Look(pixel_size, chosen, raymarch.principal_view(volumes, chosen))


def _key_figures(components: Components, states: States) -> dict[str, object]:
    return {
        "particles": len(states.state),
        "latent coordinates": len(components.mean),
        "variance along PC 1": f"{components.fraction[0]:.0%}",
        "states": len(states.rows),
    }


def _wants_umap(config: Config, latent_dim: int) -> bool:
    return config.umap == "always" or (config.umap == "auto" and latent_dim > 2)


def _write_tables(job: Job, components: Components, states: States, plane: np.ndarray | None) -> None:
    write_npy(job.outputs / "pca.npy", components.coordinates.astype(np.float32))
    write_npy(job.outputs / "centres.npy", states.centres.astype(np.float32))
    if plane is not None:
        write_npy(job.outputs / "umap.npy", plane)


def _write_script(
    config: Config, job: Job, shown: list[tuple[Path, str]], level: float, films: dict[str, list[Path]]
) -> None:
    paths, colours = zip(*shown, strict=True)
    heading = f"maps of {config.job}"
    script = chimerax_script(paths, job.folder, level, colours=colours, series=films, heading=heading)
    write_text(job.folder / "open.cxc", script)
