"""Whether what was thrown out is what is not the molecule."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from frazil.data.stack import read_particles
from frazil.data.truth import Truth
from frazil.evaluate.scored import matching_rows

KEPT = ("good.star", "selected.star")


def junk_figures(outputs: Path, truth: Truth) -> dict[str, dict[str, float]]:
    """Of a result that keeps some particles (``good.star`` or ``selected.star``) when the truth knows of junk: recall and
    precision of the rest as junk, fractions, and how many particles of the molecule are lost. Otherwise nothing.
    """
    kept = next((outputs / name for name in KEPT if (outputs / name).exists()), None)
    simulated = truth.folder.parent / "particles.star"
    if truth.junk is None or kept is None or not simulated.exists():
        return {}
    rows = matching_rows(read_particles(kept, need_images=False), read_particles(simulated, need_images=False))
    rejected = np.ones(truth.count, bool)
    rejected[rows[rows >= 0]] = False
    both = float((rejected & truth.junk).sum())
    return {
        "junk": {
            "recall": both / max(1, int(truth.junk.sum())),
            "precision": both / max(1, int(rejected.sum())),
            "molecules_lost": float((rejected & ~truth.junk).sum() / max(1, int((~truth.junk).sum()))),
        }
    }
