"""The report of the demo: what was simulated, what was found, and how near the two are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from frazil.data.mrc import read_volume
from frazil.data.stack import read_particles
from frazil.data.truth import Truth
from frazil.engine.report import write_report
from frazil.figures import curves, film, latent, maps, poses, raymarch, strips
from frazil.figures.section import Section
from frazil.numerics.shells import shell_correlation
from frazil.numerics.statistics import spearman
from frazil.numerics.symmetry import point_group

if TYPE_CHECKING:
    from frazil.engine.job import Job

_S2, _S3, _S6 = 2**-0.5, 3**-0.5, 6**-0.5
# views down the symmetry axes of an octahedral molecule
FOLDS = {
    "4-fold": np.eye(3),
    "3-fold": np.array([[_S2, -_S2, 0], [_S6, _S6, -2 * _S6], [_S3, _S3, _S3]]),
    "2-fold": np.array([[_S2, -_S2, 0], [0, 0, -1], [_S2, _S2, 0]]),
}


def hinge_report(
    job: Job,
    truth: Truth,
    states: Sequence[int],
    folders: dict[str, Path],
    scores: dict[str, Any],
    commands: Sequence[str],
) -> None:
    """Write the report of the simulated story."""
    sections = [
        motion_section(folders["analyze"]),
        truth_section(truth, states, folders["decode"]),
        latent_section(truth, folders["analyze"]),
        images_section(folders["simulate"], folders["consensus"]),
        Section("Scores against the truth", "Everything `frazil evaluate` measures.", tables=[score_table(scores)]),
        Section(
            "Commands", "Each step is a command of its own:\n\n" + "\n".join(f"    {command}" for command in commands)
        ),
    ]
    write_report(job, "A hinge, simulated and found again", sections, key_figures(scores))


def key_figures(scores: dict[str, Any]) -> dict[str, object]:
    """The few numbers of an evaluation that say whether it worked."""
    wanted = {
        "particles": ("particles", "count"),
        "consensus against truth (FSC 0.5)": ("consensus", "masked", "resolution_0.5"),
        "latent against truth (|Spearman|)": ("latent", "spearman_pc1"),
        "what moves, against truth (correlation)": ("states", "difference_map_correlation", "median"),
    }
    found: dict[str, object] = {}
    for name, path in wanted.items():
        value: Any = scores
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found[name] = value
    return found


def motion_section(analysis: Path) -> Section:
    """The film along the first principal component."""
    paths = sorted((analysis / "outputs" / "volumes").glob("pc1_*.mrc"))
    volumes = [read_volume(path)[0] for path in paths]
    section = Section("The motion", "Maps decoded along the first principal component of the latent coordinates.")
    section.films["motion"] = film.surface_film(volumes)
    return section


def truth_section(truth: Truth, states: Sequence[int], decoded: Path) -> Section:
    """True states beside the maps decoded for one particle of each."""
    true, found = [], []
    for i, state in enumerate(states):
        true.append(read_volume(truth.volumes[state])[0])
        found.append(read_volume(decoded / "outputs" / "volumes" / f"volume_{i:03d}.mrc")[0])
    view = raymarch.principal_view(true, float(np.median([raymarch.contour_level(volume) for volume in true])))
    names = [f"state {state}" for state in states]
    section = Section("Found and true", "Above: the true molecule. Below: the map decoded for one image of that state.")
    section.figures["true_states"] = strips.surface_strip(true, names, "True", view=view, colours=["#b9c0c9"])
    section.figures["found_states"] = strips.surface_strip(found, names, "Found", view=view)
    return section


def latent_section(truth: Truth, analysis: Path) -> Section:
    """The latent map, and its first component against the true coordinate."""
    coordinates = np.load(analysis / "outputs" / "pca.npy")
    section = Section(
        "The latent space", "Each image has a latent coordinate; nothing told the network what it should mean."
    )
    section.figures["latent_map"] = latent.density(coordinates[:, :2], "Principal components of the latent")
    if truth.latent is not None:
        rank = abs(
            spearman(torch.from_numpy(coordinates[:, 0].astype(np.float64)), torch.from_numpy(truth.latent[:, 0]))
        )
        section.figures["latent_against_truth"] = latent.against_truth(
            coordinates[:, 0],
            truth.latent[:, 0],
            "First component against the true angle",
            labels=("true coordinate", "PC 1"),
            note=f"|Spearman| = {rank:.3f}",
        )
    return section


def images_section(simulated: Path, consensus: Path) -> Section:
    """What went in, and the one map that ignores the motion."""
    particles = read_particles(simulated / "outputs" / "particles.star")
    section = Section(
        "The images", f"{particles.count:,} images at a signal-to-noise ratio of 0.1, and the consensus of them all."
    )
    section.figures["particles"] = strips.montage(particles.images(slice(0, 16)))
    volume, grid = read_volume(consensus / "outputs" / "consensus.mrc")
    section.figures["consensus"] = maps.surface(volume, title="Consensus map: what moves is blurred away")
    section.figures["consensus_sections"] = maps.sections(volume, grid.pixel_size)
    return section


def score_table(scores: dict[str, Any]) -> list[Sequence[object]]:
    """All single numbers of an evaluation, one row each."""
    rows: list[Sequence[object]] = [("of", "figure", "value")]
    for group, values in scores.items():
        for name, value in _flat(values):
            rows.append((group.replace("_", " "), name, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return rows


def _flat(values: dict[str, Any], before: str = "") -> list[tuple[str, object]]:
    flat: list[tuple[str, object]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            flat += _flat(value, f"{before}{name.replace('_', ' ')} ")
        elif not isinstance(value, list):
            flat.append((before + name.replace("_", " "), value))
    return flat


def real_report(job: Job, made: Path, reference: Path | None, scores: dict[str, Any], commands: Sequence[str]) -> str:
    """Write the report of the real story; returns how good the map is, in one line."""
    volume, grid = read_volume(made / "outputs" / "consensus_sharpened.mrc")
    section = Section("Apoferritin", "1,000 particles of EMPIAR-10146; the helices stand round the 4-fold axis.")
    section.figures["four_fold"] = maps.surface(volume, views=FOLDS, title="Surface")
    section.figures["sections"] = maps.sections(volume, grid.pixel_size)
    sections = [section]
    half_a, half_b = (read_volume(made / "outputs" / f"half_{half}.mrc")[0] for half in "ab")
    correlations = {"between half-maps": shell_correlation(half_a, half_b)}
    if reference is not None:
        consensus = read_volume(made / "outputs" / "consensus.mrc")[0]
        correlations["to the published map"] = shell_correlation(consensus, read_volume(reference)[0])
    spec, figure = curves.fsc(correlations, grid.pixel_size, grid.box_size)
    particles = read_particles(made / "outputs" / "particles.star", need_images=False)
    sections.append(Section("Resolution", figures={"fsc": (spec, figure)}))
    if particles.pose is not None:
        drawn = poses.angular_distribution(particles.pose, symmetry=point_group("O"))
        sections.append(
            Section("Viewing directions", "In all copies of the octahedral group.", figures={"directions": drawn})
        )
    if scores:
        sections.append(Section("Against the published map", tables=[score_table(scores)]))
    sections.append(Section("Commands", "\n".join(f"    {command}" for command in commands)))
    write_report(job, "Apoferritin", sections)
    found = spec["series"][0]["resolution"]["0.143"]
    return "FSC 0.143 not reached" if found is None else f"{found:.2f} Å between half-maps (FSC 0.143, unmasked)"
