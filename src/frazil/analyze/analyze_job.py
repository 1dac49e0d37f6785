"""The work of `frazil analyze`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from frazil.analyze import decoding, pictures, selection, subsets, validation, validation_pictures
from frazil.analyze.chimerax import chimerax_script
from frazil.analyze.clustering import States, find_states, learnt_states
from frazil.analyze.components import Components, principal_components, umap_plane
from frazil.analyze.landscape_job import LandscapeResult, run_landscape
from frazil.analyze.molstar import scene
from frazil.analyze.reconstruction import Reconstruction, read_reconstruction
from frazil.analyze.traversals import traverse
from frazil.data.mrc import read_volume
from frazil.engine.files import write_npy, write_text
from frazil.engine.report import write_report
from frazil.errors import InputError
from frazil.figures import raymarch, style

if TYPE_CHECKING:
    from frazil.analyze import Config
    from frazil.analyze.agreement import Agreement
    from frazil.data.stack import Particles
    from frazil.engine.job import Job
    from frazil.figures.section import Section
    from frazil.physics.ensemble import Ensemble
    from frazil.physics.grid import Grid

MAP_COLOURS = ("#7fb2e5", "#c3c8cf")


def run_analyze(config: Config, job: Job) -> None:
    """Analyse the ensemble of a job, or show its map when it has none."""
    reconstruction = read_reconstruction(config.job, config.pixel_size)
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
    particles = reconstruction.particles()
    sections = pictures.consensus_sections(reconstruction, particles, config.level)
    sections += pictures.training_section(reconstruction)
    level = raymarch.contour_level(read_volume(shown[0])[0]) if config.level is None else config.level
    _write_scripts(config, job, list(zip(shown, MAP_COLOURS, strict=False)), level, {})
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
    particles = subsets.checked_particles(reconstruction, len(latent))
    if particles is None:
        job.log("note: the particles of this run are no longer there: no tables of them are written")
    components = principal_components(latent)
    learnt = reconstruction.membership() if config.method == "auto" and config.clusters is None else None
    if learnt is not None:
        states = learnt_states(latent, learnt)
    else:
        method = "kmeans" if config.method == "auto" else config.method
        states = find_states(latent, components, method, config.clusters, config.resolution, config.seed)
    job.log(f"PC 1 holds {components.fraction[0]:.0%} of the variance; {len(states.rows)} states")
    plane = umap_plane(latent, config.seed) if _wants_umap(config, latent.shape[1]) else None
    _write_tables(job, components, states, plane)
    source = reconstruction.cryosparc_source()
    if particles is not None:
        subsets.write_states(particles, source, states, job.outputs)

    shown = _decode_states(config, job, reconstruction, ensemble, states, grid)
    traversals = traverse(config, job, ensemble, latent, components, states, grid, shown.look)
    landscape = None
    if config.landscape.maps:
        landscape = run_landscape(config, job, ensemble, latent, shown.look)
    chosen = _select(config, job, reconstruction, particles, source, components, states, plane, landscape, shown)
    paths = [one.path for one in traversals]
    sections = [
        pictures.latent_section(reconstruction, components, states, plane, paths, chosen),
        *(one.section for one in traversals),
        pictures.states_section(states, shown.volumes, shown.look, shown.pairs, shown.agreements),
        *_validation_sections(components, states, shown, grid),
        *([] if landscape is None else [landscape.section]),
        *pictures.consensus_sections(reconstruction, particles, None),
        *pictures.training_section(reconstruction),
    ]
    coloured = list(zip(shown.paths, style.state_colours(len(shown.paths)), strict=True))
    films = {one.name: one.files for one in traversals}
    _write_scripts(config, job, coloured, shown.look.level, films)
    key_figures = _key_figures(components, states, shown, chosen)
    write_report(job, f"Conformations of {config.job.name}", sections, key_figures)
    job.made(job.folder / "report.html", _good(states, shown, chosen), f"chimerax {job.folder / 'open.cxc'}")


@dataclass(frozen=True)
class ShownStates:
    """The decoded states: files, maps to draw, how they are drawn, and what they are worth where that is known."""

    paths: list[Path]
    volumes: list[np.ndarray]
    look: pictures.Look
    pairs: list[validation.PairSummary] | None
    images: validation.ImageMaps | None
    agreements: list[Agreement] | None


def _decode_states(
    config: Config, job: Job, reconstruction: Reconstruction, ensemble: Ensemble, states: States, grid: Grid
) -> ShownStates:
    stems = [job.outputs / "volumes" / f"state_{k:03d}" for k in range(len(states.rows))]
    paths = [stem.with_suffix(".mrc") for stem in stems]
    volumes, pixel_size = decoding.decode_to_files(ensemble, states.centres, grid, paths, job, "states")
    level = config.level
    chosen = float(np.median([raymarch.contour_level(volume) for volume in volumes])) if level is None else level
    look = pictures.Look(pixel_size, chosen, raymarch.principal_view(volumes, chosen))
    halves, pairs = reconstruction.half_ensembles(), None
    if halves is not None:
        finest = reconstruction.finest_resolution()
        pairs = validation.decode_pairs(halves, states.centres, grid, stems, job, config.seed, finest)
    images, agreements = None, None
    if config.agreement:
        points = states.centres.astype(np.float64)
        images = validation.maps_from_images(
            reconstruction, ensemble, points, grid, stems, job, config.seed, alike=True
        )
        agreements = validation.agreement_of(paths, images, grid)
    return ShownStates(paths, volumes, look, pairs, images, agreements)


def _validation_sections(components: Components, states: States, shown: ShownStates, grid: Grid) -> list[Section]:
    sections = []
    if shown.pairs is not None:
        sections.append(validation_pictures.half_map_section(shown.volumes, shown.pairs, grid, shown.look))
    if shown.agreements is not None and shown.images is not None:
        sections.append(
            validation_pictures.agreement_section(components, states, shown.agreements, shown.images, shown.look)
        )
    return sections


def _select(
    config: Config,
    job: Job,
    reconstruction: Reconstruction,
    particles: Particles | None,
    source: Particles | None,
    components: Components,
    states: States,
    plane: np.ndarray | None,
    landscape: LandscapeResult | None,
    shown: ShownStates,
) -> np.ndarray | None:
    """The particles that the rule and the lasso both keep, written as tables; None when there is neither."""
    if config.keep is None and config.lasso is None:
        return None
    if particles is None:
        raise InputError(
            "the particles of this run are no longer there, so none can be selected",
            where=config.job,
            remedy="put their table back where config.yaml says",
        )
    assert reconstruction.latent is not None
    scores = np.array([one.score for one in shown.agreements]) if shown.agreements is not None else None
    tables = {
        "pc": components.coordinates,
        "umap": plane,
        "volume": None if landscape is None else landscape.particles,
        "landscape_state": None if landscape is None else landscape.state,
        "state": states.state,
        "component": reconstruction.component(),
        "uncertainty": pictures.uncertainty(reconstruction, components),
        "agreement": None if scores is None else np.where(states.state >= 0, scores[states.state], np.nan),
    }
    columns = subsets.columns_of(particles, reconstruction.latent, tables)
    kept = np.ones(particles.count, dtype=bool)
    if config.keep is not None:
        kept &= selection.select(config.keep, columns)
    if config.lasso is not None:
        kept &= selection.lasso(config.lasso, columns)
    subsets.write_selection(particles, source, kept, states.state, job.outputs)
    job.log(f"{kept.sum()} of {len(kept)} particles selected: outputs/selected.star")
    return kept


def _key_figures(
    components: Components, states: States, shown: ShownStates, chosen: np.ndarray | None
) -> dict[str, object]:
    figures: dict[str, object] = {
        "particles": len(states.state),
        "latent coordinates": len(components.mean),
        "variance along PC 1": f"{components.fraction[0]:.0%}",
        "states": len(states.rows),
    }
    if shown.pairs is not None:
        figures["median resolution of a state"] = f"{np.median([pair.resolution for pair in shown.pairs]):.2f} Å"
    if shown.agreements is not None:
        figures["states not seen in the images"] = sum(one.flagged for one in shown.agreements)
    if chosen is not None:
        figures["selected particles"] = int(chosen.sum())
    return figures


def _good(states: States, shown: ShownStates, chosen: np.ndarray | None) -> str:
    good = f"{len(states.rows)} states of {states.counts.min()} to {states.counts.max()} particles"
    if shown.pairs is not None:
        good += f", median resolution {np.median([pair.resolution for pair in shown.pairs]):.2f} Å"
    if shown.agreements is not None:
        good += f", {sum(one.flagged for one in shown.agreements)} of them not seen in the images"
    if chosen is not None:
        good += f", {chosen.sum()} particles selected"
    return good


def _wants_umap(config: Config, latent_dim: int) -> bool:
    return config.umap == "always" or (config.umap == "auto" and latent_dim > 2)


def _write_tables(job: Job, components: Components, states: States, plane: np.ndarray | None) -> None:
    write_npy(job.outputs / "pca.npy", components.coordinates.astype(np.float32))
    write_npy(job.outputs / "centres.npy", states.centres.astype(np.float32))
    if plane is not None:
        write_npy(job.outputs / "umap.npy", plane)
    if states.probability is not None:
        write_npy(job.outputs / "state_probability.npy", states.probability.astype(np.float32))


def _write_scripts(
    config: Config, job: Job, shown: list[tuple[Path, str]], level: float, films: dict[str, list[Path]]
) -> None:
    paths: Sequence[Path]
    paths, colours = zip(*shown, strict=True)
    heading = f"maps of {config.job}"
    script = chimerax_script(paths, job.folder, level, colours=colours, series=films, heading=heading)
    write_text(job.folder / "open.cxc", script)
    series = [path for files in films.values() for path in files]
    painted = [*colours, *(colours[0] for _ in series)]
    write_text(job.folder / "open.mvsj", scene([*paths, *series], job.folder, level, painted, heading))
