"""Maps and ensembles from particles whose poses nobody knows: how often right, how near, how fast.

Sets: `rigid` (5,000 images of a molecule without symmetry), `preferred` (most of them seen from one side), `junk` (a fifth is
no molecule), `mixture` (8 molecules, 250 images each), the four sets of the cryoDRGN paper with a basis learnt at the found
poses, the same with as many images of half as many particles (`-pairs`: two views each, at a tilt of 45°), `large` (10,000
images of 128 pixels of a hinge 240 Å across), and `apoferritin` (1,000 real particles, octahedral). Poses in the table are
ignored. Each seed is a search of its own on the same images; results are kept one by one, and the table is of all that has
been run.

    .venv/bin/python benchmarks/unknown_poses.py [--sets rigid apoferritin] [--seeds 10] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
from measure import FRAZIL, REAL_DATA

SIMULATED = ["--count", "5000", "--box", "64", "--pixel-size", "4", "--snr", "0.1", "--seed", "1"]
MIXTURE = ["--set", "mix", "--states", "8", "--count", "2000", "--box", "48", "--snr", "0.15", "--snr-pixel-size", "8"]
BASIS = ["--density", "basis"]
PAIRS = ["--tilt-pairs", "45", "--count", "2500", *SIMULATED[2:]]
# angle that a consistent pose of the real particles may differ by from two independent searches, degrees
CONSISTENT = 8.0
# share of particles that must be in the right class
SORTED = 0.95


@dataclass(frozen=True)
class Case:
    """A set of images, the flags of the search, and the median angle (degrees) up to which a map is called right."""

    name: str
    simulate: tuple[str, ...]
    search: tuple[str, ...] = ()
    right: float = 2.0


CASES = (
    Case("rigid", ("--set", "rigid", *SIMULATED)),
    Case("preferred", ("--set", "rigid", "--orientations", "preferred", *SIMULATED)),
    Case("junk", ("--set", "rigid", "--junk", "0.2", *SIMULATED)),
    Case("mixture", tuple(MIXTURE), ("--search.classes", "8"), 4.0),
    *(
        Case(f"{name}{pairs}", ("--set", name, *images), tuple(flags), 10.0)
        for pairs, images in (("", SIMULATED), ("-pairs", PAIRS))
        for name, flags in (
            ("linear-1d", BASIS),
            ("linear-2d", BASIS),
            ("circular-1d", BASIS),
            ("discrete-10", [*BASIS, "--basis.components", "16"]),
        )
    ),
)
# a large molecule that moves: the search alone, as its map decides what all the rest can reach
LARGE = Case(
    "large",
    ("--set", "linear-1d", "--count", "10000", "--box", "128", "--pixel-size", "2.5", "--snr", "0.05", "--seed", "1"),
    ("--refine.rounds", "0"),
    3.0,
)
APOFERRITIN = Case("apoferritin", (), ("--symmetry", "O"), 4.0)


def images_of(case: Case, data: Path) -> Path:
    """The STAR file of a case, made where it is not there yet."""
    if case is APOFERRITIN:
        return REAL_DATA / "apoferritin" / "particles" / "particles.star"
    out = data / case.name
    if not (out / "outputs" / "particles.star").exists():
        measure.run([FRAZIL, "simulate", "particles", *case.simulate, "--out", out], data, data / "simulate.log")
    return out / "outputs" / "particles.star"


def searched(case: Case, star: Path, seed: int, data: Path) -> dict[str, Any]:
    """One search and what it is worth."""
    out = data / f"search_{case.name}_{seed}"
    words = [FRAZIL, "reconstruct", star, "--poses", "search", "--ignore-poses", "--no-report", "--again"]
    cost = measure.run([*words, *case.search, "--seed", str(seed), "--out", out], data, data / f"{out.name}.log")
    figures = judge_real(out, star, data) if case is APOFERRITIN else judge(out, star, case)
    return {"seed": seed, "wall": cost.wall, "cpu": cost.cpu, "memory": cost.peak_memory, **figures}


def evaluate(out: Path, truth: Path, *flags: object) -> dict[str, Any]:
    """The figures of `frazil evaluate`."""
    words = [FRAZIL, "evaluate", out, "--truth", truth, "--json", *flags]
    return json.loads(subprocess.run(list(map(str, words)), check=True, capture_output=True, text=True).stdout)


def judge(out: Path, star: Path, case: Case) -> dict[str, Any]:
    """Poses, and what else the truth tells of the result. Different molecules have a frame each."""
    found = evaluate(out, star.parent.parent)
    poses = found["class_poses" if "--search.classes" in case.search else "poses"]
    kept: dict[str, Any] = {name: poses[name] for name in ("rotation_error_median", "shift_error_median_px")}
    kept |= {name: found[name] for name in ("components", "images", "conformations") if name in found}
    return kept


def judge_real(out: Path, star: Path, data: Path) -> dict[str, Any]:
    """Against RELION's poses where two independent searches agree with them, and against its map, up to hand."""
    with (star.parent / "pose_agreement.csv").open() as file:
        rows = [row for row in csv.reader(file)][1:]
    trusted = data / "consistent.txt"
    trusted.write_text("\n".join(row[0] for row in rows if max(float(row[1]), float(row[3])) < CONSISTENT))
    poses = evaluate(out, star, "--symmetry", "O", "--particles", trusted)["poses"]
    curve = best_hand(out / "outputs" / "consensus.mrc", star.parent / "map.mrc")
    kept = {name: poses[name] for name in ("rotation_error_median", "rotation_within_10")}
    kept["fsc_to_map_at_8"] = curve(8.0)
    for line in (out / "metrics.jsonl").read_text().splitlines():
        told = json.loads(line)
        kept |= {name: told[name] for name in ("resolution_unmasked", "resolution_masked") if name in told}
    return kept


def best_hand(path: Path, truth: Path):
    """FSC of a map with the truth at a resolution in Å, of the hand that fits better: octahedral axes leave no other."""
    from frazil.data.mrc import read_volume
    from frazil.numerics.shells import shell_correlation

    (found, grid), (true, _) = read_volume(path), read_volume(truth)
    mirrored = found.flip(0).roll(1 - grid.box_size % 2, 0)
    curve = max((shell_correlation(hand, true) for hand in (found, mirrored)), key=lambda c: float(c[10:30].mean()))
    return lambda resolution: float(curve[math.floor(grid.extent / resolution)])


def is_right(case: Case, run: dict[str, Any]) -> bool:
    """Whether a search found the structure."""
    if case is APOFERRITIN and run["fsc_to_map_at_8"] < 0.5:
        return False
    if "--search.classes" in case.search and run["components"]["accuracy"] < SORTED:
        return False
    return run["rotation_error_median"] <= case.right


def row_of(case: Case, runs: list[dict[str, Any]]) -> list[str]:
    """One line of the table."""
    right = [run for run in runs if is_right(case, run)]

    def median(name: str, form: str, among: list[dict[str, Any]]) -> str:
        values = [run[name] for run in among if name in run]
        return form.format(statistics.median(values)) if values else ""

    return [
        case.name,
        f"{len(right)} of {len(runs)}",
        median("rotation_error_median", "{:.2f}", right),
        median("shift_error_median_px", "{:.3f}", right),
        median("resolution_unmasked", "{:.2f}", right),
        median("fsc_to_map_at_8", "{:.2f}", right),
        within(runs, "images", "resolution_0.5_px", "mean", "{:.2f}"),
        within(runs, "components", "accuracy", None, "{:.1%}"),
        median("wall", "{:.0f}", runs),
        median("cpu", "{:.0f}", runs),
        median("memory", "{:.2f}", runs),
    ]


def within(runs: list[dict[str, Any]], group: str, name: str, of: str | None, form: str) -> str:
    """The median of a figure that stands in a group, where any run has it."""
    values = [run[group][name] for run in runs if name in run.get(group, {})]
    values = [value[of] if of else value for value in values]
    return form.format(statistics.median(values)) if values else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = {case.name: case for case in (*CASES, LARGE, APOFERRITIN)}
    parser.add_argument("--sets", nargs="+", choices=sorted(cases), default=list(cases))
    parser.add_argument("--seeds", type=int, default=10, help="searches of each set")
    parser.add_argument("--again", action="store_true", help="also those whose results are kept")
    parser.add_argument("--data", type=Path, help="folder for the sets, to be used again (temporary unless given)")
    options = parser.parse_args()
    seeds = set(range(1, options.seeds + 1))
    with tempfile.TemporaryDirectory(prefix="unknown-poses-") as name:
        data = options.data or Path(name)
        data.mkdir(parents=True, exist_ok=True)
        for wanted in options.sets:
            case = cases[wanted]
            if case is APOFERRITIN and not images_of(case, data).exists():
                print("no real particles here: FRAZIL_DATA says where they are")
                continue
            done = {run["seed"] for run in runs_kept().get(case.name, [])} - (set() if not options.again else seeds)
            for seed in sorted(seeds - done):
                keep(case.name, searched(case, images_of(case, data), seed, data), list(cases.values()))


def runs_kept() -> dict[str, list[dict[str, Any]]]:
    """The searches of every set that the results hold."""
    path = measure.RESULTS / "unknown_poses.json"
    return json.loads(path.read_text())["runs"] if path.exists() else {}


def keep(name: str, run: dict[str, Any], cases: list[Case]) -> None:
    """Add a run to the results, and write the table of them all."""
    kept = runs_kept()
    others = [other for other in kept.get(name, []) if other["seed"] != run["seed"]]
    kept[name] = sorted([*others, run], key=lambda one: one["seed"])
    heads = ["set", "right", "rotation, °", "shift, px", "half-maps unmasked, Å", "FSC to map at 8 Å"]
    heads += ["FSC=0.5 per image, px", "class accuracy", "wall s"]
    rows = [row_of(case, kept[case.name]) for case in cases if case.name in kept]
    text = measure.markdown_table([*heads, "CPU s", "peak GiB"], rows)
    text += "\n\nMedians; errors and resolutions of the searches that were right. Each seed is a search of its own."
    measure.report("unknown_poses", "Poses from nothing", text, {"runs": kept})


if __name__ == "__main__":
    main()
