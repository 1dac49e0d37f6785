"""The part of a reconstruction's report that is about what moves: read from the job's outputs, whatever learnt them."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from frazil.data.ensemble import load_ensemble
from frazil.engine.job import Job
from frazil.engine.metrics import read_metrics
from frazil.figures import curves, evidence, latent, strips, style
from frazil.figures.section import Section
from frazil.physics.ensemble import Ensemble
from frazil.reconstruct.conformations import (
    Shown,
    decoded,
    half_ensembles,
    half_map_curve,
    representatives,
    state_latents,
    told_share,
    typical_error,
)

# conformations whose half-maps are compared; a curve more takes seconds with large boxes
MOST_CURVES = 3
# states drawn and told one by one, most populated first
MOST_STATES = 20
# a gain below this is too little to be seen in maps (nats per image)
HARDLY_ANY = 0.05
# below this share of its variance a coordinate is more error than conformation
HARDLY_KNOWN = 0.5
# a particle is placed with certainty when one state is more probable than this
CERTAIN = 0.9


def ensemble_sections(job: Job, seed: int) -> tuple[list[Section], dict[str, object]]:
    """What the outputs of a job say about its conformations.

    Returns:
        The sections, and the few numbers that matter, by name.
    """
    table = job.outputs / "latent_coordinates.csv"
    choice = read_gains(table) if table.exists() else None
    motion = motion_within(job)
    if not (job.outputs / "latent.npy").exists():
        if motion is not None:
            one = "The particles do not fall into several states: two maps explain them no better than one does."
            return [Section("One state", one), motion], {"states": 1}
        return [rigid_section(job, choice)], {"what moves": "nothing"}
    ensemble = load_ensemble(job.outputs).to(job.device)
    found, spread = np.load(job.outputs / "latent.npy"), np.load(job.outputs / "latent_covariance.npy")
    membership = job.outputs / "component_probability.npy"
    if membership.exists():
        sections, keys = discrete_sections(job, ensemble, found, np.load(membership), seed)
        sections += [] if motion is None else [motion]
    else:
        sections, keys = continuous_sections(job, ensemble, found, spread, choice, seed)
    if choice is not None:
        sections.append(choice_section(*choice, found.shape[1]))
    sections += learning_sections(job)
    sections.append(next_section(job))
    return sections, keys


def read_gains(path: Path) -> tuple[list[float], list[float]]:
    """Gain and standard error for 0, 1, 2, ... latent coordinates."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [float(row["gain"]) for row in rows], [float(row["error"]) for row in rows]


def rigid_section(job: Job, choice: tuple[list[float], list[float]] | None) -> Section:
    """That nothing moves, and what says so."""
    section = Section(
        "One rigid structure",
        "Nothing moves in these images as far as they can tell. Directions of change were learnt from each half of the"
        " particles, and none of them explains the images of the other half clearly better than one rigid map does. The"
        " map below is the whole result; there is no latent.npy and no ensemble."
        "\n\nA small part that moves can drown in the rest: look for it inside a mask with"
        "\n\n    frazil reconstruct PARTICLES --density basis --basis.focus-mask MASK.mrc"
        f"\n\nMore of the map, its resolution and its poses is in the report of\n\n{_next(job)}",
    )
    if choice is not None:
        section.figures["gains"] = evidence.gains(*choice, 0)
    return section


def continuous_sections(
    job: Job,
    ensemble: Ensemble,
    found: Float[np.ndarray, "particles latent"],
    spread: Float[np.ndarray, "particles latent latent"],
    choice: tuple[list[float], list[float]] | None,
    seed: int,
) -> tuple[list[Section], dict[str, object]]:
    """Conformations, the latent map, and the half-maps of a continuous ensemble."""
    known = np.flatnonzero(np.isfinite(found).all(1))
    told = told_share(found[known], spread[known])
    order = np.argsort(-told, kind="stable")[:2]
    rows = known[representatives(found[known][:, order])]
    shown = decoded(ensemble, torch.from_numpy(found[rows]), [str(i + 1) for i in range(len(rows))])
    first = int(order[0]) + 1
    keys: dict[str, object] = {
        "latent coordinates": found.shape[1],
        f"coordinate {first} is known to": f"{told[order[0]]:.0%}",
    }
    halves, worth, change = half_ensembles(job), [], ""
    if halves is not None:
        section, change = continuous_worth(halves, shown, finest_resolution(job, ensemble), seed)
        worth, keys["half-maps agree on what moves to (FSC 0.5)"] = [section], change
    section = Section(
        "What moves",
        f"{verdict(choice, found.shape[1], float(told[order[0]]))}The conformations of {len(rows)} particles, from one end"
        f" of latent coordinate {first} to the other{_of_several(found.shape[1])}. In the sections, orange is what a"
        " conformation has more of than the mean of these, blue what it has less of."
        "\n\nEvery particle has a latent of its own (latent.npy; latent_covariance.npy says how sure it is). A coordinate is"
        " known to 100% when the spread of the particles along it is all conformation and no error of single particles.",
    )
    draw(section, shown, "conformation", "Conformations")
    section.figures["latent_map"] = latent.density(
        found[known][:, order],
        "Where the particles are, and the conformations shown",
        labels=[f"latent coordinate {k + 1} (known to {told[k]:.0%})" for k in order],
        marks=found[rows][:, order],
        mark_names=shown.names,
        error=typical_error(spread[known][:, order][:, :, order]),
    )
    return [section, *worth], keys


def discrete_sections(
    job: Job,
    ensemble: Ensemble,
    found: Float[np.ndarray, "particles latent"],
    probability: Float[np.ndarray, "particles states"],
    seed: int,
) -> tuple[list[Section], dict[str, object]]:
    """Populations, maps and half-maps of discrete states."""
    share, count = probability.mean(0), probability.shape[1]
    # a state without particles has no map
    largest = [int(k) for k in np.argsort(-share, kind="stable")[:MOST_STATES] if share[k] * len(probability) >= 1]
    shown = decoded(ensemble, torch.from_numpy(state_latents(found, probability)[largest]), [str(k) for k in largest])
    certain = float((probability.max(1) > CERTAIN).mean())
    some = f" The {MOST_STATES} most populated are shown." if count > MOST_STATES else ""
    section = Section(
        "States",
        f"{count} discrete states, each with a map of its own; {certain:.0%} of the particles belong to one of them with a"
        f" probability of more than {CERTAIN:.0%}.{some} component.npy has the likeliest state of every particle,"
        " component_probability.npy the probability of each. In the sections, orange is what a state has more of than the"
        " mean of those shown, blue what it has less of.",
    )
    halves, found_curves = half_ensembles(job), []
    if halves is not None:
        finest = finest_resolution(job, ensemble)
        found_curves = [half_map_curve(halves, z, finest, seed) for z in shown.latents]
    section.tables.append(population_table(probability, largest, [words for _, words in found_curves]))
    draw(section, shown, "state", "Maps of the states, most populated first", style.state_colours(len(largest)))
    sections = [section]
    if halves is not None:
        finest = finest_resolution(job, ensemble)
        text = f"{HALVES} Nothing finer than {finest:.1f} Å was learnt. The most populated states are shown."
        worth = Section("Resolution of the states", text)
        worth.figures["state_fsc"] = curves.fsc(
            {f"state {k}": curve for k, (curve, _) in zip(largest[:MOST_CURVES], found_curves, strict=False)},
            halves[0].grid.pixel_size,
            halves[0].grid.box_size,
            "FSC of the states",
        )
        sections.append(worth)
    return sections, {"states": count, "particles placed with certainty": f"{certain:.0%}"}


def motion_within(job: Job) -> Section | None:
    """How each discrete state moves; None where that was not asked for."""
    found = sorted(job.outputs.glob("component_*/particles.star"), key=lambda path: int(path.parent.name.split("_")[1]))
    if not found:
        return None
    rows: list[Sequence[object]] = [("state", "latent coordinates", "best known to", "nats per image", "open it with")]
    for folder in (path.parent for path in found):
        count, known, gain = 0, None, None
        if (folder / "latent.npy").exists():
            latent, spread = np.load(folder / "latent.npy"), np.load(folder / "latent_covariance.npy")
            count, known = latent.shape[1], f"{told_share(latent, spread).max():.0%}"
        if (folder / "latent_coordinates.csv").exists():
            gains, errors = read_gains(folder / "latent_coordinates.csv")
            kept = min(count, len(gains) - 1)
            gain = f"{gains[kept]:.3g} ± {errors[kept]:.1g}" if kept else None
        command = f"frazil analyze {shlex.quote(str(folder))}"
        rows.append((int(folder.name.split("_")[1]), count, known, gain, command))
    section = Section(
        "Motion within the states",
        "What moves in each state, learnt from the images that most likely are of it and from no others. A state without"
        " latent coordinates is rigid as far as its images can tell, or has too few of them. Nats per image say by how much"
        " the motion explains an image of the other half better than one rigid map of the state does.",
    )
    section.tables.append(rows)
    return section


def population_table(
    probability: Float[np.ndarray, "particles states"], shown: Sequence[int], resolutions: Sequence[str]
) -> list[Sequence[object]]:
    """State, particles, share, certainty, and resolution where it is known; one row for the states that are not shown."""
    likeliest, surest = probability.argmax(1), probability.max(1)
    rows: list[tuple[object, ...]] = []
    for number, k in enumerate(shown):
        members = likeliest == k
        certain = f"{surest[members].mean():.0%}" if members.any() else None
        resolution = (resolutions[number],) if resolutions else ()
        rows.append((int(k), int(members.sum()), f"{probability[:, k].mean():.1%}", certain, *resolution))
    rest = np.setdiff1d(np.arange(probability.shape[1]), shown)
    if len(rest):
        count, share = int(np.isin(likeliest, rest).sum()), probability[:, rest].mean(0).sum()
        name = f"{len(rest)} other{'s' if len(rest) > 1 else ''}"
        rows.append((name, count, f"{share:.1%}", None, *([None] if resolutions else [])))
    header = ("state", "particles", "share", "mean probability of its particles")
    return [(*header, *(["resolution (FSC 0.143)"] if resolutions else [])), *rows]


def draw(section: Section, shown: Shown, name: str, title: str, colours: Sequence[str] | None = None) -> None:
    """Surfaces and sections of conformations."""
    section.figures[f"{name}_surfaces"] = strips.surface_strip(
        shown.volumes, shown.names, title, level=shown.level, view=shown.view, colours=colours
    )
    few = slice(0, 10)
    section.figures[f"{name}_sections"] = strips.section_strip(
        shown.volumes[few], shown.names[few], shown.grid.pixel_size, f"{title}, sections through the centre"
    )


HALVES = (
    "Each is decoded from two ensembles that share no image, at the same point of the latent: what both show is to be"
    " believed."
)


def continuous_worth(halves: tuple[Ensemble, Ensemble], shown: Shown, finest: float, seed: int) -> tuple[Section, str]:
    """FSC of some conformations and of the change between the outermost two, and to where that change agrees."""
    chosen = np.unique(np.linspace(0, len(shown.names) - 1, MOST_CURVES).round().astype(int))
    found = {
        f"conformation {shown.names[i]}": half_map_curve(halves, shown.latents[i], finest, seed)[0] for i in chosen
    }
    change, words = half_map_curve(halves, shown.latents[-1], finest, seed, beside=shown.latents[0])
    found[f"change from {shown.names[0]} to {shown.names[-1]}"] = change
    section = Section(
        "Resolution of the conformations",
        f"{HALVES} Nothing finer than {finest:.1f} Å was learnt. Most of a map is what all conformations share; the last"
        " curve is of the difference between the outermost two alone, which is the motion itself. Read that one at 0.5: both"
        " halves begin with the same directions, which agree a little even where they are noise.",
    )
    section.figures["conformation_fsc"] = curves.fsc(
        found, halves[0].grid.pixel_size, halves[0].grid.box_size, "FSC of the conformations"
    )
    return section, words


def choice_section(gain: list[float], error: list[float], kept: int) -> Section:
    """How many latent coordinates there are, and why."""
    kept = min(kept, len(gain) - 1)
    total = gain[kept]
    enough = next((k for k in range(kept + 1) if gain[k] >= 0.9 * total), kept)
    most = f" The first {enough} of them give 90% of the gain." if 0 < enough < kept else ""
    section = Section(
        "How many latent coordinates",
        "Directions of change were learnt from each half of the particles and tried on the images of the other half, which"
        " had no part in them. The gain says by how much they explain an image better than one rigid map; a direction that"
        f" is noise explains nothing. {kept} kept: {total:.3g} ± {error[kept]:.1g} nats per image.{most}",
    )
    section.figures["gains"] = evidence.gains(gain, error, kept)
    return section


def learning_sections(job: Job) -> list[Section]:
    """The evidence by pass or the learning curve, and the contrast of the images, as far as they were written."""
    section = Section("Learning")
    records = read_metrics(job.folder)
    if any("stage" in record for record in records):
        section.text = (
            "How well the model explains the images it is learnt from. Within a stage it should level off; it falls where"
            " noise that only one half shows is taken out of the volumes. Stages use other coefficients of the images, so"
            " heights are not to be compared between them."
        )
        section.figures["evidence"] = evidence.passes(records)
    elif sum("epoch" in record for record in records) > 1:
        section.figures["learning_curve"] = curves.learning_curve(records)
    path = job.outputs / "contrast.npy"
    if path.exists() and float((contrast := np.load(path)).std()) > 0:
        section.text += (
            f"\n\nThe contrast varies by {contrast.std():.0%} from image to image (contrast.npy); thick ice and damaged"
            " particles are on the left."
        )
        section.figures["contrast"] = evidence.contrast(contrast)
    return [section] if section.figures else []


def next_section(job: Job) -> Section:
    """The command that follows."""
    return Section("Next", f"States, maps along the motions and a report of them:\n\n{_next(job)}")


def _next(job: Job) -> str:
    return f"    frazil analyze {shlex.quote(str(job.folder))}"


def verdict(choice: tuple[list[float], list[float]] | None, kept: int, told: float) -> str:
    """A first paragraph for a reader who might take noise for a motion; nothing where there is no reason to doubt.

    Args:
        choice: gains and errors of each number of latent coordinates. kept: the number kept.
        told: the share of its variance to which the best coordinate is known.
    """
    if choice is not None and choice[0][min(kept, len(choice[0]) - 1)] < HARDLY_ANY:
        return (
            "Hardly anything moves: all latent coordinates together explain an image by less than"
            f" {HARDLY_ANY:g} nats better than one rigid map does. So little can come from errors in poses or contrast: take"
            " the molecule as one rigid structure.\n\n"
        )
    if told < HARDLY_KNOWN:
        return (
            "Single images hardly say where they belong: the error of a particle is larger than the spread of them all. What"
            " is shown may be noise.\n\n"
        )
    return ""


def _of_several(coordinates: int) -> str:
    return f"; of the {coordinates} it is the one that images know best" if coordinates > 1 else ""


def finest_resolution(job: Job, ensemble: Ensemble) -> float:
    """Å, to which coefficients of the images were used: that of the finest pass, or Nyquist where none is recorded."""
    used = [float(record["resolution"]) for record in read_metrics(job.folder) if "resolution" in record]
    return min(used, default=2 * ensemble.grid.pixel_size)
