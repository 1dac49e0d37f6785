"""The report's section about refinement: how the half-maps came to agree, and what changed of the particles."""

from __future__ import annotations

import torch

from frazil.figures import changes, curves
from frazil.figures.section import Section
from frazil.numerics.rotations import geodesic_angle
from frazil.reconstruct.refine import Refinement

# curves that a figure can tell apart
MOST_CURVES = 6


def refinement_section(refinement: Refinement) -> Section:
    """FSC by round and the distribution of the changes."""
    before, after = refinement.before, refinement.particles
    assert before.pose is not None and after.pose is not None
    rounds = len(refinement.correlation)
    kept = f"That of round {refinement.kept} is kept." if refinement.kept else "None made them agree better."
    section = Section(
        "Refinement",
        f"The half-maps' corrected Fourier shell correlation before refinement and after each of {rounds - 1} rounds."
        f" {kept} Every particle was compared with the map of its own half only.",
    )
    if refinement.by_state:
        section.text += (
            f" Then particles were refined against their own conformations, {refinement.by_state} times, and all"
            " conformations were laid on each other so that most of the molecule stands still."
        )
    shown = sorted({round(place) for place in torch.linspace(0, rounds - 1, min(rounds, MOST_CURVES)).tolist()})
    series = {f"round {number}" if number else "before": refinement.correlation[number] for number in shown}
    grid = after.grid
    section.figures["refinement_fsc"] = curves.fsc(series, grid.pixel_size, grid.box_size, "Half-maps by round")
    changed = {
        "rotation (°)": torch.rad2deg(geodesic_angle(after.pose.rotation, before.pose.rotation)),
        "shift (Å)": (after.pose.shift - before.pose.shift).norm(dim=-1),
    }
    if before.optics is not None and after.optics is not None:
        changed["defocus (Å)"] = after.optics.defocus_u - before.optics.defocus_u
    changed["strength"] = refinement.scale
    section.figures["refinement_changes"] = changes.histograms(changed, "What changed of the particles")
    return section
