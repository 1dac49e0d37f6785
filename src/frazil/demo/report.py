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
from frazil.figures import curves, latent, maps, poses, raymarch, strips
from frazil.figures.section import Section
from frazil.numerics.shells import shell_correlation
from frazil.numerics.statistics import spearman
from frazil.numerics.symmetry import point_group

if TYPE_CHECKING:
    from frazil.engine.job import Job

MOVES = ("states", "difference_map_correlation", "median")
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
        scorecard(scores),
        truth_section(truth, states, folders["decode"]),
        latent_section(truth, folders["analyze"]),
        images_section(folders["simulate"], folders["consensus"]),
        Section(
            "Commands", "Each step is a command of its own:\n\n" + "\n".join(f"    {command}" for command in commands)
        ),
    ]
    write_report(job, "A hinge, simulated and found again", sections, key_figures(scores))


# of the curve through the latents: particles that it is drawn through, and neighbours of each
MOST_POINTS, NEIGHBOURS = 2000, 30
# what is said of the scores: words, path in the scores, how it is written
SCORECARD = (
    (
        "consensus map against the mean of the true states, FSC 0.5",
        ("consensus", "masked", "resolution_0.5"),
        "{:.1f} Å",
    ),
    ("order along the motion against the true one, |Spearman|", ("latent", "spearman_isomap"), "{:.3f}"),
    ("the same of the first principal component alone", ("latent", "spearman_pc1"), "{:.3f}"),
    ("true coordinate told from the nearest latents", ("latent", "neighbour_prediction"), "{:.2f}"),
    ("what moves: difference maps against the true ones, median correlation", MOVES, "{:.2f}"),
    (
        "maps of the states against the true ones, median FSC 0.5",
        ("states", "resolution_0.5_px", "median"),
        "{:.2f} px",
    ),
    ("maps of the states, mean area under the FSC", ("states", "fsc_auc", "mean"), "{:.3f}"),
    ("maps of single particles, mean area under the FSC", ("images", "fsc_auc", "mean"), "{:.3f}"),
    ("the largest area there can be", ("states", "perfect_fsc_auc"), "{:.3f}"),
)


def score(scores: dict[str, Any], path: Sequence[str], form: str) -> str | None:
    """One number of an evaluation, written; None where it is not there."""
    value: Any = scores
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return None if value is None else form.format(value + 0.0)


def scorecard(scores: dict[str, Any]) -> Section:
    """The evaluation in words."""
    rows = [(words, score(scores, path, form)) for words, path, form in SCORECARD]
    found = [("figure", "value"), *(row for row in rows if row[1] is not None)]
    text = "What frazil evaluate measures; 1 is perfect unless a unit is given. All figures are in outputs/scores.json."
    return Section("Scores against the truth", text, tables=[found])


def key_figures(scores: dict[str, Any]) -> dict[str, object]:
    """The few numbers that say whether it worked."""
    keys = {
        "particles": score(scores, ("particles", "count"), "{:,.0f}"),
        "consensus against truth": score(scores, ("consensus", "masked", "resolution_0.5"), "{:.1f} Å"),
        "order along the motion": score(scores, ("latent", "spearman_isomap"), "{:.3f}"),
        "motion against truth": score(scores, MOVES, "{:.2f}"),
    }
    return {name: value for name, value in keys.items() if value is not None}


def motion_section(analysis: Path) -> Section:
    """The film that the analysis made."""
    section = Section("The motion", "Maps decoded along the first principal component of the latent coordinates.")
    for path in sorted((analysis / "figures").glob("*PC_1*.gif")):
        section.films["motion along PC 1"] = path.read_bytes()
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
    """The latent map, and the place along the curve through it against the true coordinate."""
    from sklearn.manifold import Isomap

    coordinates = np.load(analysis / "outputs" / "pca.npy")
    section = Section(
        "The latent space",
        "Each image has latent coordinates, in standard errors of one image; nothing told the program what they should mean."
        " Where an image is along the curve that they make is the angle of the hinge.",
    )
    section.figures["latent_map"] = latent.density(coordinates[:, :2], "Principal components of the latent")
    if truth.latent is not None:
        some, angle = coordinates[:MOST_POINTS], truth.latent[:MOST_POINTS, 0]
        place = Isomap(n_neighbors=min(NEIGHBOURS, len(some) - 1), n_components=1).fit_transform(some)[:, 0]
        rank = abs(spearman(torch.from_numpy(place), torch.from_numpy(angle).double()))
        section.figures["latent_against_truth"] = latent.against_truth(
            place,
            angle,
            "Place along the curve against the true angle",
            labels=("true coordinate", "place along the curve"),
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
    mask = read_volume(made / "outputs" / "mask.mrc")[0]
    section.figures["four_fold"] = maps.surface(volume * mask, views=FOLDS, title="Surface")
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
