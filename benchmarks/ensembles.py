"""Ensembles with given poses: frazil, its linear stage alone, preset cryodrgn and cryodrgn train_vae on the same particles.

Sets: the four of the cryoDRGN paper, an antibody (igg1d), an assembly (ribo16), a mixture of 20 molecules (mix20), and two
that hold nothing to find: a rigid molecule and noise alone. Each program's result is judged by `frazil evaluate`; the row
"oracle" is what backprojection of each conformation's own images gives with everything known. Results are kept per set and
program, so that parts can be run one by one; the table is of all that has been run.

    .venv/bin/python benchmarks/ensembles.py [--sets igg1d mix20] [--only frazil oracle] [--epochs 20] [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import measure
from cryodrgn_parity import BATCH, LATENT, WIDTH
from measure import CRYODRGN, FRAZIL, Cost

SETS = {
    "linear-1d": "--set linear-1d",
    "linear-2d": "--set linear-2d",
    "circular-1d": "--set circular-1d",
    "discrete-10": "--set discrete-10",
    "igg1d": "--set igg1d",
    "ribo16": "--set ribo16",
    "mix20": "--set mix --states 20",
    "linear-1d, SNR 0.05": "--set linear-1d --snr 0.05",
    "linear-1d, SNR 0.3": "--set linear-1d --snr 0.3",
    "rigid": "--set rigid",
    "noise": "--set rigid --snr 0",
}
COMPONENTS = {"discrete-10": 10, "ribo16": 16, "mix20": 20}
PASSED_IN = ("frazil, linear", "frazil")  # programs whose time to another's quality is asked for, fastest first
NETWORK = f"--train.encoder-width {WIDTH} --train.encoder-layers 3 --train.width {WIDTH} --train.layers 3"


def simulate(name: str, folder: Path, quick: bool) -> Path:
    """The simulate job of a set; one that is there already is used."""
    job = folder / "data" / name.replace(", SNR ", "-")
    words = f"simulate particles {SETS[name]} --size {'s' if quick else 'm'} --seed 1"
    measure.run([FRAZIL, *words.split(), "--out", job], folder, folder / "simulate.log")
    return job


def evaluate(result: Path, truth: Path, folder: Path, *flags: str) -> dict[str, Any]:
    """The figures of `frazil evaluate`, without curves and lists."""
    log = folder / "evaluate.json"
    measure.run([FRAZIL, "evaluate", result, "--truth", truth, "--json", *flags], folder, log)
    text = log.read_text()
    return without_lists(json.loads(text[text.index("{") :]))


def without_lists(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures that a table can hold."""
    kept = {name: value for name, value in figures.items() if not isinstance(value, list)}
    return {name: without_lists(value) if isinstance(value, dict) else value for name, value in kept.items()}


def run_oracle(name: str, job: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """No program: only what the images can give."""
    (folder / "nothing").mkdir()
    figures = evaluate(folder / "nothing", job, folder, "--oracle")
    return {"figures": figures["oracle"]}


def run_frazil(flags: str) -> Callable[[str, Path, Path, argparse.Namespace], dict[str, Any]]:
    """`frazil reconstruct` with these flags."""

    def run(name: str, job: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
        words = f"reconstruct {job}/outputs/particles.star {flags} {options.frazil}".format(epochs=options.epochs)
        if "basis" in flags and name in COMPONENTS:
            words += f" --basis.components {COMPONENTS[name]}"
        out = folder / "job"
        cost = measure.run([FRAZIL, *words.split(), "--seed", "1", "--out", out], folder, folder / "reconstruct.log")
        latent = out / "outputs" / "latent.npy"  # a rigid molecule has none
        dimensions = np.load(latent).shape[1] if latent.exists() else 0
        return {"cost": cost, "latent_dim": dimensions, "figures": evaluate(out, job, folder)}

    return run


def run_cryodrgn(name: str, job: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """`cryodrgn train_vae`, then `cryodrgn eval_vol` at the mean latents of the states and at the particles judged."""
    from frazil.data.cryodrgn import read_latent
    from frazil.data.truth import read_truth
    from frazil.evaluate.families import TrueMaps, image_figures, spread_rows, state_figures, states_of
    from frazil.evaluate.latents import latent_figures, leakage_figures
    from frazil.evaluate.maps import family_mask
    from frazil.evaluate.reconstruction import nuisances_of
    from frazil.evaluate.verb import true_volumes

    truth, stack = read_truth(job), job / "outputs"
    volumes, grid = true_volumes(truth)
    for kind, extra in (("pose", []), ("ctf", ["--ps", "0"])):
        words = [CRYODRGN, f"parse_{kind}_star", "particles.star", "-o", folder / f"{kind}.pkl"]
        measure.run([*words, "-D", str(grid.box_size), *extra], stack, folder / f"parse_{kind}.log")
    words = f"train_vae particles.mrcs --poses {folder}/pose.pkl --ctf {folder}/ctf.pkl --no-analysis --zdim {LATENT}"
    words += f" --enc-dim {WIDTH} --enc-layers 3 --dec-dim {WIDTH} --dec-layers 3 -b {BATCH} --seed 1"
    words += f" -n {options.epochs} -o {folder}/job"
    cost = measure.run([CRYODRGN, *words.split()], stack, folder / "train.log")
    latent, _ = read_latent(folder / "job" / f"z.{options.epochs}.pkl")
    there, rows = states_of(truth), spread_rows(truth.count, 100)
    means = [latent[truth.state == state].mean(axis=0) for state in there]
    np.savetxt(folder / "points.txt", np.concatenate([np.stack(means), latent[rows]]))
    words = [CRYODRGN, "eval_vol", folder / "job" / f"weights.{options.epochs}.pkl", "-c", folder / "job/config.yaml"]
    words += ["--zfile", folder / "points.txt", "-o", folder / "decoded", "--Apix", str(grid.pixel_size)]
    measure.run(words, folder, folder / "eval_vol.log")
    decoded = [read_map(path) for path in sorted((folder / "decoded").glob("*.mrc"))]
    mask = family_mask(volumes)
    own = dict(zip(rows, decoded[len(there) :], strict=True))
    circular = tuple(truth.facts.get("circular", ()))
    figures: dict[str, Any] = {
        "latent": latent_figures(latent, truth.latent, truth.state, circular)
        | leakage_figures(latent, nuisances_of(truth)),
        "states": state_figures(decoded[: len(there)], volumes[there], mask),
        "images": image_figures(own.__getitem__, TrueMaps(truth, volumes, grid), rows, mask),
    }
    return {"cost": cost, "latent_dim": LATENT, "figures": without_lists(figures)}


def read_map(path: Path):
    """A map's values."""
    from frazil.data.mrc import read_volume

    return read_volume(path)[0]


PROGRAMS: dict[str, Callable[[str, Path, Path, argparse.Namespace], dict[str, Any]]] = {
    "oracle": run_oracle,
    "frazil": run_frazil("--density basis"),
    "frazil, linear": run_frazil("--density basis --basis.model linear"),
    "preset cryodrgn": run_frazil(
        f"--preset cryodrgn --latent-dim {LATENT} --train.batch-size {BATCH} {NETWORK} --train.epochs {{epochs}}"
    ),
    "cryodrgn 4.3.1": run_cryodrgn,
}
OPTION = {"oracle": "oracle", "frazil": "frazil", "linear": "frazil, linear", "preset": "preset cryodrgn"}
OPTION["cryodrgn"] = "cryodrgn 4.3.1"


def table(runs: dict[str, dict[str, Any]]) -> str:
    """All runs, set by set."""
    header = ["set", "program", "FSC-AUC per image", "of oracle", "0.5 at, px", "difference maps", "ARI", "accuracy, %"]
    header += ["population error, %", "90 % covers, %", "leak pose / CTF", "z", "wall, s", "CPU s", "images / s", "GiB"]
    rows = [
        row(name, program, runs[name])
        for name in SETS
        for program in PROGRAMS
        if name in runs and program in runs[name]
    ]
    return measure.markdown_table(header, rows)


def row(name: str, program: str, of_set: dict[str, Any]) -> list[str]:
    """One program on one set."""
    run = of_set[program]
    figures, cost = run["figures"], run.get("cost")
    images, latent = figures.get("images", {}), figures.get("latent", {})
    classes = figures.get("components", figures.get("classes", latent))
    area = images.get("fsc_auc", {}).get("mean")
    best = of_set.get("oracle", {}).get("figures", {}).get("images", {}).get("fsc_auc", {}).get("mean")
    leaks = [latent.get(f"imbalance_latent_to_{what}") for what in ("pose", "defocus")]
    return [
        name,
        program,
        shown(area, ".4f"),
        shown(area / best if area is not None and best else None, ".3f"),
        shown(images.get("resolution_0.5_px", {}).get("mean"), ".2f"),
        shown(images.get("difference_map_correlation", {}).get("median"), ".3f"),
        shown(classes.get("adjusted_rand_index"), ".3f"),
        shown(percent(classes.get("accuracy")), ".1f"),
        shown(classes.get("largest_population_difference"), ".2f"),
        shown(percent(figures.get("calibration", {}).get("coverage_90")), ".0f"),
        " / ".join(shown(leak, ".2f") for leak in leaks) if leaks[0] is not None else "",
        shown(run.get("latent_dim"), "d"),
        shown(cost and cost["wall"], ".0f"),
        shown(cost and cost["cpu"], ".0f"),
        shown(cost and run["count"] / cost["wall"], ",.0f"),
        shown(cost and cost["peak_memory"], ".2f"),
    ]


def percent(value: float | None) -> float | None:
    """A share in percent."""
    return None if value is None else 100 * value


def shown(value: float | None, form: str) -> str:
    """A figure, or nothing."""
    return "" if value is None else format(value, form)


def time_to_quality(runs: dict[str, dict[str, Any]]) -> list[str]:
    """For each set that cryodrgn was run on: how long frazil needs to pass its final area."""
    lines = []
    for name, of_set in runs.items():
        other = of_set.get("cryodrgn 4.3.1")
        if other is None:
            continue
        target = other["figures"]["images"]["fsc_auc"]["mean"]
        wall, cpu = other["cost"]["wall"], other["cost"]["cpu"]
        passed = [
            (of_set[program]["cost"]["wall"], of_set[program]["cost"]["cpu"], program)
            for program in PASSED_IN
            if program in of_set and of_set[program]["figures"]["images"]["fsc_auc"]["mean"] >= target
        ]
        if passed:
            seconds, work, program = min(passed)
            lines.append(
                f"{name}: {program} passes cryodrgn's {target:.4f} in {seconds:.0f} s of its {wall:.0f} s, "
                f"1/{wall / seconds:.0f}; in CPU seconds {work:.0f} of {cpu:.0f}, 1/{cpu / work:.0f}"
            )
        elif any(program in of_set for program in PASSED_IN):
            lines.append(f"{name}: frazil does not reach cryodrgn's {target:.4f} ({wall:.0f} s)")
    return lines


def earlier(report: str) -> dict[str, dict[str, Any]]:
    """The runs that were kept."""
    path = measure.RESULTS / f"{report}.json"
    return json.loads(path.read_text())["runs"] if path.exists() else {}


def keep(report: str, runs: dict[str, dict[str, Any]], epochs: int) -> None:
    """Print and write the table of all runs."""
    text = table(runs)
    text += (
        f"\n\nFSC-AUC: CryoBench's, mean over 100 particles, inside a mask round all states (perfect: 0.484 at 64 pixels). "
        "0.5 at: resolution at FSC 0.5 of single particles, mean, best 2. Difference maps: median correlation of (map of a "
        "particle − mean) with the same of the truth. ARI, accuracy, populations: of the components, or of k-means on z with "
        "the true number of states (oracle: most likely states, with everything known). "
        "90 % covers: particles whose true coordinate lies in the stated 90 % interval. Leak: "
        "information imbalance from z to pose and defocus, 1 for none. z: latent coordinates. "
        f"Neural networks: {WIDTH} × 3, {LATENT} latent coordinates, batches of {BATCH}, {epochs} epochs."
    )
    passed = time_to_quality(runs)
    text += "".join(f"\n\n{line}." for line in passed)
    measure.report(report, "Ensembles with given poses", text, {"epochs": epochs, "runs": runs})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--only", nargs="+", choices=OPTION, default=list(OPTION), help="programs to run")
    parser.add_argument("--epochs", type=int, default=20, help="of the neural networks")
    parser.add_argument("--quick", action="store_true", help="small sets, few epochs, results not kept")
    parser.add_argument("--frazil", default="", help="more flags for frazil, in one string")
    parser.add_argument("--data", type=Path, help="folder for the sets, to be used again (temporary unless given)")
    options = parser.parse_args()
    options.epochs = min(options.epochs, 2) if options.quick else options.epochs
    report = "quick_ensembles" if options.quick else "ensembles"
    programs = [OPTION[name] for name in options.only]
    if not CRYODRGN.exists() and "cryodrgn 4.3.1" in programs:
        print(f"cryodrgn is not installed ({CRYODRGN}; see `make peers`): left out", flush=True)
        programs.remove("cryodrgn 4.3.1")
    runs = earlier(report)
    with tempfile.TemporaryDirectory(prefix="ensembles-") as name:
        folder = (options.data or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for chosen in options.sets:
            job = simulate(chosen, folder, options.quick)
            count = json.loads((job / "outputs/truth/truth.json").read_text())["particles"]
            for program in programs:
                here = measure.fresh(Path(name) / f"{chosen}-{program.split()[-1]}".replace(", SNR ", "-"))
                run = PROGRAMS[program](chosen, job, here, options) | {"count": count, "machine": measure.machine()}
                if isinstance(run.get("cost"), Cost):
                    run["cost"] = asdict(run["cost"])
                runs.setdefault(chosen, {})[program] = run
                print(*row(chosen, program, runs[chosen]), sep="  ", flush=True)
                with contextlib.redirect_stdout(io.StringIO()):  # the whole table is shown once, at the end
                    keep(report, runs, options.epochs)
    keep(report, runs, options.epochs)


if __name__ == "__main__":
    main()
