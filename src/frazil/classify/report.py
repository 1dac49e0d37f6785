"""The report of a classification: all classes, what each is worth, and how particles divide into good and bad."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.classify.learning import Classes
from frazil.classify.quality import Quality
from frazil.data.stack import Particles
from frazil.engine.job import Job
from frazil.engine.report import write_report as write_page
from frazil.figures import montage
from frazil.figures.section import Section

# classes that one figure holds
SHOWN = 100


def write_report(
    job: Job,
    particles: Particles,
    averages: Float[Tensor, "classes n n"],
    found: Classes,
    quality: Quality,
    diameter: float,
) -> None:
    """Write report.html and its figures into the job's folder."""
    good = quality.good
    keys = {
        "good particles": f"{100 * float(good.float().mean()):.0f} %",
        "particles": particles.count,
        "good classes": f"{int(quality.good_class.sum())} of {len(quality.count)}",
        "diameter": f"{diameter:.0f} Å",
        "detail used": f"{particles.grid.resolution_of(found.search.layout.band):.1f} Å",
    }
    sections = [classes_section(averages, quality, particles.grid.pixel_size), table_section(quality)]
    write_page(job, f"2-D classes of {particles.count:,} particles", sections, keys)


def classes_section(averages: Float[Tensor, "classes n n"], quality: Quality, pixel_size: float) -> Section:
    """The montage."""
    filled = int((quality.count > 0).sum())
    shown = min(filled, SHOWN)
    section = Section(
        "Class averages",
        "Best first. Below each: its particles and its resolution (ring correlation 0.5 between averages of two half-sets,"
        " which share the classes that they are aligned to). Solid frames are classes that are suggested as good, dashed ones"
        " as bad." + (f" {len(averages) - shown} more have no particle." if shown < len(averages) else ""),
    )
    captions = [
        f"{int(count):,}" + (f"  ·  {resolution:.0f} Å" if resolution < 999 else "")
        for count, resolution in zip(quality.count.tolist(), quality.resolution.tolist(), strict=True)
    ]
    section.figures["classes"] = montage.montage(
        averages[:shown], captions[:shown], pixel_size, good=quality.good_class[:shown].tolist()
    )
    return section


def table_section(quality: Quality) -> Section:
    """Figures of each class, and what good and bad mean."""
    section = Section(
        "What classes and particles are worth",
        "The score of a class is the median, over its particles, of the share of their expected signal that is explained:"
        " near 1 for the molecule, near 0 for noise. Particles well below the commonest score are suggested as bad"
        " (bad.star), and so is a class most of whose particles are.",
    )
    header = ("class", "particles", "resolution", "sharpness, 1/Å", "score", "good")
    rows = [
        (
            number + 1,
            int(quality.count[number]),
            f"{float(quality.resolution[number]):.1f} Å" if torch.isfinite(quality.resolution[number]) else None,
            round(float(quality.sharpness[number]), 4),
            round(float(quality.score[number]), 3),
            "yes" if bool(quality.good_class[number]) else "no",
        )
        for number in range(len(quality.count))
        if quality.count[number] > 0
    ]
    section.tables.append([header, *rows])
    return section
