"""The sections of the report of an analysis: words, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from frazil.analyze.agreement import Agreement
from frazil.analyze.clustering import States
from frazil.analyze.components import Components
from frazil.analyze.reconstruction import Reconstruction
from frazil.analyze.validation import PairSummary
from frazil.data.mrc import read_volume
from frazil.figures import curves, evidence, film, latent, maps, poses, raymarch, strips, style
from frazil.figures.section import Section
from frazil.numerics.shells import first_shell_below
from frazil.numerics.symmetry import point_group

if TYPE_CHECKING:
    from frazil.data.stack import Particles
    from frazil.physics.grid import Grid

# the consensus maps of a job, the one to look at first
MAPS = ("consensus_sharpened.mrc", "consensus.mrc")


@dataclass(frozen=True)
class Look:
    """How the maps of one analysis are drawn, all alike.

    Attributes:
        pixel_size: of the maps that are drawn, Å. level: contour level. view: rotation, object to view.
    """

    pixel_size: float
    level: float
    view: Float[np.ndarray, "3 3"]


def consensus_sections(
    reconstruction: Reconstruction, particles: Particles | None, level: float | None
) -> list[Section]:
    """The map, its resolution, and where the particles were seen from: as far as the job made them."""
    sections = []
    if reconstruction.map_path(*MAPS) is not None:
        sections.append(map_section(reconstruction, level))
        if reconstruction.correlations():
            sections.append(resolution_section(reconstruction))
    pose = None if particles is None else particles.pose
    if pose is not None:
        symmetry = reconstruction.symmetry
        copies = (
            "" if symmetry.upper() == "C1" else f" Directions are shown in all copies of the point group {symmetry}."
        )
        section = Section("Poses", f"{len(pose):,} particles.{copies}")
        section.figures["viewing_directions"] = poses.angular_distribution(pose, symmetry=point_group(symmetry))
        section.figures["shifts"] = poses.shifts(pose)
        sections.append(section)
    return sections


def map_section(reconstruction: Reconstruction, level: float | None) -> Section:
    """Surface, sections and projections of the consensus; the surface within the job's mask where it made one."""
    path = reconstruction.map_path(*MAPS)
    assert path is not None
    volume, grid = read_volume(path)
    mask = reconstruction.map_path("mask.mrc")
    solid = volume if mask is None else volume * read_volume(mask)[0]
    chosen = raymarch.contour_level(solid) if level is None else level
    section = Section("The map", f"{path.name}: {grid.box_size}³ voxels of {grid.pixel_size:g} Å.")
    section.figures["map_surface"] = maps.surface(solid, chosen, title="Surface")
    section.figures["map_sections"] = maps.sections(volume, grid.pixel_size)
    section.figures["map_projections"] = maps.projections(volume, grid.pixel_size)
    return section


def resolution_section(reconstruction: Reconstruction) -> Section:
    """The curves of fsc.csv, and how the maps' amplitudes fall off."""
    volumes = {path.stem.replace("_", " "): read_volume(path) for path in reconstruction.map_paths(*reversed(MAPS))}
    grid = next(iter(volumes.values()))[1]
    section = Section("Resolution", "Fourier shell correlation between the two half-maps.")
    spec, figure = curves.fsc(reconstruction.correlations(), grid.pixel_size, grid.box_size)
    section.figures["fsc"] = (spec, figure)
    rows = [(one["name"], *(_crossing(one, t, grid) for t in ("0.143", "0.5"))) for one in spec["series"]]
    section.tables.append([("curve", "FSC = 0.143", "FSC = 0.5"), *rows])
    drawn = {name: values for name, (values, _) in volumes.items()}
    section.figures["guinier"] = curves.guinier(drawn, grid.pixel_size)
    return section


def training_section(reconstruction: Reconstruction) -> list[Section]:
    """The learning curve, or the evidence by pass, when the job was trained."""
    records = reconstruction.records()
    if any("stage" in record for record in records):
        return [Section("Training", figures={"evidence": evidence.passes(records)})]
    try:
        return [Section("Training", figures={"learning_curve": curves.learning_curve(records)})]
    except ValueError:  # nothing was trained: there is no curve to draw
        return []


def latent_section(
    reconstruction: Reconstruction,
    components: Components,
    states: States,
    plane: np.ndarray | None,
    paths: Sequence[np.ndarray],
    chosen: np.ndarray | None = None,
) -> Section:
    """The latent cloud with its states, its components, its uncertainty, and the particles chosen."""
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
    if chosen is not None:
        section.text += f" {chosen.sum():,} of {len(chosen):,} particles were selected."
        known = np.isfinite(cloud).all(axis=1)
        section.figures["latent_selected"] = latent.scatter(
            cloud[known],
            chosen[known].astype(np.int64),
            "Particles selected (orange) and rejected (blue)",
            labels=names,
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
    states: States,
    volumes: Sequence[np.ndarray],
    look: Look,
    pairs: Sequence[PairSummary] | None,
    agreements: Sequence[Agreement] | None,
) -> Section:
    """The map and the number of particles of every state, with its resolution and its agreement where they are known."""
    names = [str(k) for k in range(len(volumes))]
    colours = style.state_colours(len(volumes))
    counts = states.counts.tolist()
    order = "" if states.learnt else ", numbered along the first principal component"
    section = Section(
        "States",
        f"{states.method[0].upper()}{states.method[1:]}{order}. In the sections,"
        " orange is what a state has more of than the mean of the states, blue what it has less of.",
    )
    section.figures["state_surfaces"] = strips.surface_strip(
        volumes, names, "Map at the centre of each state", level=look.level, view=look.view, colours=colours
    )
    shown = np.unique(np.linspace(0, len(volumes) - 1, min(10, len(volumes))).round().astype(int))
    section.figures["state_sections"] = strips.section_strip(
        [volumes[k] for k in shown], [names[k] for k in shown], look.pixel_size, "Sections of the states"
    )
    section.figures["state_counts"] = curves.bars(
        dict(zip(names, counts, strict=True)), "Particles in each state", colours=colours
    )
    section.tables.append(_states_table(states, pairs, agreements))
    return section


def _states_table(
    states: States, pairs: Sequence[PairSummary] | None, agreements: Sequence[Agreement] | None
) -> list[Sequence[object]]:
    counts = states.counts.tolist()
    columns: list[tuple[str, list[object]]] = [
        ("state", list(range(len(counts)))),
        ("particles", list(counts)),
        ("share", [f"{count / max(sum(counts), 1):.1%}" for count in counts]),
        ("particle at the centre (row, from 0)", list(states.rows.tolist())),
    ]
    if pairs is not None:
        columns.append(("resolution (FSC 0.143)", [f"{pair.resolution:.2f} Å" for pair in pairs]))
    if agreements is not None:
        scores = [None if np.isnan(one.score) else f"{one.score:.2f}" for one in agreements]
        columns.append(("agreement with the images", list(scores)))
        columns.append(("the motion of this state is", [one.verdict for one in agreements]))
    names, values = zip(*columns, strict=True)
    return [names, *zip(*values, strict=True)]


def path_section(
    name: str, heading: str, text: str, volumes: Sequence[np.ndarray], labels: Sequence[str], look: Look
) -> Section:
    """The maps along a path, and a film of them."""
    section = Section(heading, text)
    section.films[heading.lower()] = film.surface_film(volumes, level=look.level, view=look.view)
    shown = np.unique(np.linspace(0, len(volumes) - 1, min(10, len(volumes))).round().astype(int))
    chosen, names = [volumes[i] for i in shown], [str(labels[i]) for i in shown]
    section.figures[f"{name}_surfaces"] = strips.surface_strip(
        chosen, names, f"Maps {heading[0].lower()}{heading[1:]}", level=look.level, view=look.view
    )
    section.figures[f"{name}_sections"] = strips.section_strip(
        chosen, names, look.pixel_size, f"Sections {heading[0].lower()}{heading[1:]}"
    )
    return section


def traversal_section(
    component: int, volumes: Sequence[np.ndarray], places: np.ndarray, share: float, look: Look, discrete: bool
) -> Section:
    """The maps along one principal component (0 is the first), and a film of the first.

    Args:
        discrete: whether the job has learnt discrete states, between which there is nothing.
    """
    names = [f"{place:.2g}" for place in places]
    number = component + 1
    text = (
        f"{share:.0%} of the latent variance; from the 5th to the 95th percentile of the particles, on a straight line"
        " through their mean. The number above each map is its place on the component. Where no particle lies on the line,"
        " the map is interpolated: --graph goes by the particles themselves."
    )
    if discrete:
        text += " The states of this job are discrete: between them, maps are blends and no conformations."
    section = Section(f"Motion along PC {number}", text)
    if component == 0:
        section.films["motion along PC 1"] = film.surface_film(volumes, level=look.level, view=look.view)
    section.figures[f"pc{number}_surfaces"] = strips.surface_strip(
        volumes, names, f"Maps along PC {number}", level=look.level, view=look.view
    )
    section.figures[f"pc{number}_sections"] = strips.section_strip(
        volumes, names, look.pixel_size, f"Sections along PC {number}"
    )
    return section


def resolution_line(reconstruction: Reconstruction) -> str:
    """The resolution that fsc.csv states at 0.143, of its most trusted curve."""
    path = reconstruction.map_path(*MAPS)
    found = reconstruction.correlations()
    name = next((name for name in ("corrected", "masked", "unmasked") if name in found), None)
    if path is None or name is None:
        return "resolution not known"
    shell = first_shell_below(torch.from_numpy(found[name]), 0.143)
    return f"{read_volume(path)[1].resolution_of(shell):.2f} Å (FSC 0.143, {name})"


def uncertainty(reconstruction: Reconstruction, components: Components) -> np.ndarray | None:
    """(N,) posterior standard deviation of every particle along the first component, where the job knows it."""
    covariance = reconstruction.covariance
    if covariance is None:
        return None
    axis = components.axes[0]
    return np.sqrt(np.clip(np.einsum("i,nij,j->n", axis, covariance, axis), 0, None))


def _uncertainty(reconstruction: Reconstruction, components: Components) -> str:
    error = uncertainty(reconstruction, components)
    spread = np.nanstd(components.coordinates[:, 0])
    if error is None or not spread > 0:
        return ""
    share = np.nanmedian(error) / spread
    text = f"Along PC 1 the median posterior uncertainty of a particle is {share:.0%} of the spread of them all."
    if share > 1:
        text += (
            " That is more than all of it: images hardly tell particles apart, and nothing below is to be taken for a"
            " motion unless half-maps show it."
        )
    return text


def _crossing(series: Mapping[str, Any], threshold: str, grid: Grid) -> str:
    """Where a curve of an FSC figure falls below a threshold, in words."""
    resolution = series["resolution"][threshold]
    if resolution is not None:
        return f"{resolution:.2f} Å"
    above = all(value >= float(threshold) for value in series["correlation"][1:])
    return f"{2 * grid.pixel_size:.2f} Å (Nyquist)" if above else "nowhere"
