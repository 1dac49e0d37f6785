"""The sections of the report of an analysis: words, tables and figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from frazil.analyze.conformations import Components, States
from frazil.analyze.reconstruction import Reconstruction
from frazil.figures import curves, film, latent, maps, poses, raymarch, strips, style
from frazil.figures.section import Section
from frazil.numerics.shells import first_shell_below


def consensus_sections(reconstruction: Reconstruction, level: float | None) -> list[Section]:
    """The map, its resolution, and where the particles were seen from."""
    from frazil.data.mrc import read_volume

    sections = []
    path = reconstruction.map_path("consensus_sharpened.mrc", "consensus.mrc")
    if path is not None:
        volume, grid = read_volume(path)
        chosen = raymarch.contour_level(volume) if level is None else level
        section = Section("The map", f"{path.name}: {grid.box_size}³ voxels of {grid.pixel_size:g} Å.")
        section.figures["map_surface"] = maps.surface(volume, chosen, title="Surface")
        section.figures["map_sections"] = maps.sections(volume, grid.pixel_size)
        section.figures["map_projections"] = maps.projections(volume, grid.pixel_size)
        sections.append(section)
        curve = reconstruction.correlations()
        if curve:
            section = Section("Resolution", "Fourier shell correlation between the two half-maps.")
            spec, figure = curves.fsc(curve, grid.pixel_size, grid.box_size)
            section.figures["fsc"] = (spec, figure)
            rows = [
                (one["name"], *(_angstrom(one["resolution"][t]) for t in ("0.143", "0.5"))) for one in spec["series"]
            ]
            section.tables.append([("curve", "FSC = 0.143", "FSC = 0.5"), *rows])
            shown = reconstruction.map_path("consensus.mrc")
            if shown is not None:
                volumes = {"consensus": read_volume(shown)[0]} | (
                    {path.stem.replace("_", " "): volume} if path != shown else {}
                )
                section.figures["guinier"] = curves.guinier(volumes, grid.pixel_size)
            sections.append(section)
    pose = reconstruction.particles().pose
    if pose is not None:
        section = Section("Poses", f"{len(pose):,} particles.")
        section.figures["viewing_directions"] = poses.angular_distribution(pose)
        section.figures["shifts"] = poses.shifts(pose)
        sections.append(section)
    return sections


def training_section(reconstruction: Reconstruction) -> list[Section]:
    """The learning curve, when the job was trained."""
    try:
        return [Section("Training", figures={"learning_curve": curves.learning_curve(reconstruction.records())})]
    except ValueError:  # nothing was trained: there is no curve to draw
        return []


def latent_section(
    reconstruction: Reconstruction,
    components: Components,
    states: States,
    plane: np.ndarray | None,
    paths: Sequence[np.ndarray],
) -> Section:
    """The latent cloud with its states, its components and its uncertainty."""
    cloud = components.coordinates[:, :2]
    marks = components.project(states.centres)[:, :2]
    kept = int((states.state >= 0).sum())
    text = (
        f"{kept:,} particles, {len(components.mean)} latent coordinates. Numbers mark the particles at state centres."
    )
    if kept < len(states.state):
        text += f" {len(states.state) - kept} particles have no finite latent and are in no state (frazilState -1)."
    section = Section("Conformations", f"{text} {_uncertainty(reconstruction, components)}")
    names = [f"PC {i + 1} ({share:.0%} of variance)" for i, share in enumerate(components.fraction[:2])]
    drawn = [components.project(path)[:, :2] for path in paths] if cloud.shape[1] == 2 else []
    section.figures["latent_pca"] = latent.density(
        cloud, "Principal components of the latent", labels=names, marks=marks, paths=drawn
    )
    if plane is not None:
        shown = np.isfinite(plane).all(axis=1)
        section.figures["latent_umap"] = latent.scatter(
            plane[shown],
            np.maximum(states.state[shown], 0),
            "UMAP of the latent, coloured by state",
            labels=("UMAP 1", "UMAP 2"),
            marks=plane[states.rows],
        )
    if len(components.fraction) > 1:
        section.figures["explained_variance"] = latent.explained_variance(components.fraction)
    return section


def states_section(
    states: States, volumes: Sequence[np.ndarray], pixel_size: float, level: float, view: np.ndarray
) -> Section:
    """The map and the number of particles of every state."""
    names = [str(k) for k in range(len(volumes))]
    section = Section(
        "States",
        "k-means of the latent, numbered along the first principal component. In the sections, orange is what a state"
        " has more of than the mean of the states, blue what it has less of.",
    )
    colours = style.state_colours(len(volumes))
    section.figures["state_surfaces"] = strips.surface_strip(
        volumes, names, "Map at the centre of each state", level=level, view=view, colours=colours
    )
    shown = np.unique(np.linspace(0, len(volumes) - 1, min(10, len(volumes))).round().astype(int))
    section.figures["state_sections"] = strips.section_strip(
        [volumes[k] for k in shown], [names[k] for k in shown], pixel_size, "Sections of the states"
    )
    section.figures["state_counts"] = curves.bars(
        dict(zip(names, states.counts.tolist(), strict=True)), "Particles in each state", colours=colours
    )
    total = max(int(states.counts.sum()), 1)
    section.tables.append(
        [
            ("state", "particles", "share", "particle at the centre"),
            *(
                (k, n, f"{n / total:.1%}", f"row {row}")
                for k, (n, row) in enumerate(zip(states.counts.tolist(), states.rows.tolist(), strict=True))
            ),
        ]
    )
    return section


def traversal_section(
    component: int,
    volumes: Sequence[np.ndarray],
    places: np.ndarray,
    share: float,
    pixel_size: float,
    level: float,
    view: np.ndarray,
) -> Section:
    """The maps along one principal component."""
    names = [f"{place:.2g}" for place in places]
    number = component + 1
    section = Section(
        f"Motion along PC {number}",
        f"{share:.0%} of the latent variance; from the 5th to the 95th percentile of the particles.",
    )
    title = f"Maps along PC {number}"
    if component == 0:
        section.films["motion along PC 1"] = film.surface_film(volumes, level=level, view=view)
    section.figures[f"pc{number}_surfaces"] = strips.surface_strip(
        volumes, names, title, level=level, view=view, columns=5
    )
    section.figures[f"pc{number}_sections"] = strips.section_strip(
        volumes, names, pixel_size, f"Sections along PC {number}"
    )
    return section


def _uncertainty(reconstruction: Reconstruction, components: Components) -> str:
    covariance = reconstruction.covariance
    if covariance is None:
        return ""
    axis = components.axes[0]
    error = np.sqrt(np.clip(np.einsum("i,nij,j->n", axis, covariance, axis), 0, None))
    spread = np.nanstd(components.coordinates[:, 0])
    if not spread > 0:
        return ""
    share = np.nanmedian(error) / spread
    return f"Along PC 1 the median posterior uncertainty of a particle is {share:.0%} of the spread of them all."


def _angstrom(resolution: float | None) -> str:
    return "not reached" if resolution is None else f"{resolution:.2f} Å"


def resolution_line(reconstruction: Reconstruction) -> str:
    """The resolution that fsc.csv states at 0.143, of its most trusted curve."""
    from frazil.data.mrc import read_volume

    path = reconstruction.map_path("consensus.mrc", "consensus_sharpened.mrc")
    found = reconstruction.correlations()
    name = next((name for name in ("corrected", "masked", "unmasked") if name in found), None)
    if path is None or name is None:
        return "resolution not known"
    grid = read_volume(path)[1]
    shell = first_shell_below(torch.from_numpy(found[name]), 0.143)
    return f"{grid.resolution_of(shell):.2f} Å (FSC 0.143, {name})"
