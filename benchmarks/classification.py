"""2-D classes: whether images of one view come together, whether junk is found, and how long it takes.

Sets of generated molecules of which a stated share is junk (noise alone, a piece, another object, two side by side), and
the real apoferritin particles where they are there. Purity: the mean, over particles of the molecule, of the share of its
class within 20 degrees of the commonest viewing direction; directions that differ by a mirror are different. Junk: recall and
precision of `frazil evaluate`. For the real particles: how far their centres are from those of the reference refinement, and
whether real boxes that hold no particle in their middle (`empty_boxes.py`), a tenth of a second stack, are found.

    .venv/bin/python benchmarks/classification.py [--quick] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import measure
from empty_boxes import with_empty_boxes
from measure import FRAZIL, REAL_DATA

# the rule that divides good from bad was chosen on seeds 1 to 3 of `rigid` and on apoferritin: other sets judge it
SETS = {
    "rigid, junk 20 %": ("rigid", 0.2, 11),
    "igg1d, junk 10 %": ("igg1d", 0.1, 12),
    "rigid, no junk": ("rigid", 0.0, 13),
}
WITHIN = 20.0  # degrees
# empty boxes among the 1,000 real particles: a tenth of all
EMPTY = 111
THREADS = 2


def simulated(name: str, folder: Path, count: int) -> dict[str, Any]:
    """Simulate, classify, judge."""
    molecule, junk, seed = SETS[name]
    job, out = folder / f"data-{seed}", folder / f"classes-{seed}"
    words = f"simulate particles --set {molecule} --count {count} --box 64 --pixel-size 4 --snr 0.1"
    words += f" --junk {junk} --seed {seed}"
    measure.run([FRAZIL, *words.split(), "--out", job], folder, folder / "simulate.log")
    cost = classify(job / "outputs" / "particles.star", out, folder, f"--classes {count // 100} --seed {seed}")
    figures: dict[str, Any] = {"particles": count, "cost": asdict(cost), "images_per_second": count / cost.wall}
    figures["purity"] = purity(out, job)
    log = folder / "evaluate.json"
    measure.run([FRAZIL, "evaluate", out, "--truth", job, "--json"], folder, log)
    text = log.read_text()
    return figures | json.loads(text[text.index("{") :]).get("junk", {"molecules_lost": rejected(out)})


def classify(stack: Path, out: Path, folder: Path, flags: str) -> measure.Cost:
    """Run the verb."""
    words = f"classify {stack} {flags} --threads {THREADS} --out {out}"
    return measure.run([FRAZIL, *words.split()], folder, folder / "classify.log")


def purity(out: Path, job: Path) -> float:
    """How alike the views of a class are."""
    from frazil.data.stack import read_particles
    from frazil.data.truth import read_truth

    truth = read_truth(job)
    real = np.ones(truth.count, bool) if truth.junk is None else ~truth.junk
    block = read_particles(out / "outputs" / "particles.star", need_images=False).listing.block
    number, direction = block.integers("rlnClassNumber"), truth.rotation[:, 2, :]
    alike = 0.0
    for one in np.unique(number[real]):
        own = direction[real & (number == one)]
        alike += float((own @ own.T > np.cos(np.deg2rad(WITHIN))).sum(axis=1).max())
    return alike / real.sum()


def rejected(out: Path) -> float:
    """Share of the particles in bad.star."""
    from frazil.data.stack import read_particles

    path = out / "outputs" / "particles.star"
    kept = read_particles(out / "outputs" / "good.star", need_images=False).count
    return 1 - kept / read_particles(path, need_images=False).count


def apoferritin(folder: Path) -> dict[str, Any]:
    """Classify the real particles; their poses are those of a refinement."""
    from frazil.data.stack import read_particles

    stack, out = REAL_DATA / "apoferritin" / "particles" / "particles.star", folder / "apoferritin"
    cost = classify(stack, out, folder, "--classes 30 --seed 1")
    particles = read_particles(out / "outputs" / "particles.star", need_images=False)
    block = particles.listing.block
    found = -np.stack([block.numbers(f"frazilClassOrigin{axis}Angst") for axis in "XY"], axis=1)
    assert particles.pose is not None
    error = np.linalg.norm(found - particles.pose.shift.numpy(), axis=1)
    before = np.linalg.norm(particles.pose.shift.numpy(), axis=1)
    return {
        "particles": particles.count,
        "cost": asdict(cost),
        "images_per_second": particles.count / cost.wall,
        "centre_error_median": float(np.median(error)),
        "centre_error_before": float(np.median(before)),
        "rejected": rejected(out),
    }


def real_junk(folder: Path) -> dict[str, Any]:
    """Classify the real particles with a tenth of empty boxes among them."""
    from frazil.data.stack import read_particles

    stack, real = with_empty_boxes(REAL_DATA / "apoferritin", folder / "empty", EMPTY, seed=1)
    out = folder / "apoferritin-empty"
    cost = classify(stack, out, folder, "--classes 30 --seed 1")
    bad = read_particles(out / "outputs" / "bad.star", need_images=False).listing.block.text("rlnImageName")
    junk = np.array([int(name.split("@")[0]) > real for name in bad])
    return {
        "particles": real + EMPTY,
        "cost": asdict(cost),
        "images_per_second": (real + EMPTY) / cost.wall,
        "recall": float(junk.sum() / EMPTY),
        "precision": float(junk.mean()),
        "molecules_lost": float((~junk).sum() / real),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the particles, first set only")
    parser.add_argument("--folder", type=Path, help="where to work (kept); a temporary folder otherwise")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        names = list(SETS)[: 1 if options.quick else None]
        record = {name: simulated(name, folder, 1000 if options.quick else 5000) for name in names}
        if (REAL_DATA / "apoferritin").is_dir() and not options.quick:
            record["apoferritin"] = apoferritin(folder)
            record["apoferritin, empty boxes 10 %"] = real_junk(folder)
    if not options.quick:
        measure.report("classification", "2-D classes", table(record), record)
    else:
        print(table(record))


def table(record: dict[str, Any]) -> str:
    """The figures as Markdown."""
    header = ("set", "particles", "purity", "junk found", "rejected that are junk", "molecules lost")
    rows = []
    for name, row in record.items():
        cells = [name, f"{row['particles']:,}"]
        cells += [shown(row, key) for key in ("purity", "recall", "precision", "molecules_lost")]
        rows.append(
            [*cells, f"{row['cost']['cpu']:.0f}", f"{row['cost']['wall']:.0f}", f"{row['images_per_second']:.0f}"]
        )
    lines = [measure.markdown_table((*header, "CPU s", "wall s", "images/s"), rows)]
    if "apoferritin" in record:
        row = record["apoferritin"]
        lines += [
            "",
            f"Apoferritin, 30 classes: the centres are {row['centre_error_median']:.1f} Å (median) from those of RELION's"
            f" refinement, which lie {row['centre_error_before']:.1f} Å from the middle of the image;"
            f" {100 * row['rejected']:.0f} % of the particles are suggested as bad.",
        ]
    return "\n".join(lines)


def shown(row: dict[str, Any], key: str) -> str:
    return f"{100 * row[key]:.1f} %" if key in row else ""


if __name__ == "__main__":
    main()
