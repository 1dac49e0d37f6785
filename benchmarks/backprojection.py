"""Consensus reconstruction from known poses: frazil against cryodrgn backproject_voxel and relion_reconstruct.

All three read the same simulated images with the same poses and CTF, in turns, in the same run. Printed: images per CPU
second net of start-up (see measure.py), and the shell where the Fourier shell correlation with the noise-free density
falls below 0.5. frazil and cryodrgn make the map, both half-maps and their FSC; RELION makes one map (a user who wants
half-maps runs it three times: the column "with half-maps").

    .venv/bin/python benchmarks/backprojection.py [--repeats 5] [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import measure
from measure import CRYODRGN, FRAZIL, RELION, Cost
from specimen import write_chain

FEW = 50  # images of a run that is almost all start-up
MANY = 5  # how often the longest list names every image


@dataclass(frozen=True)
class DataSet:
    """Simulated images of one rigid molecule in a box of 256 Å."""

    count: int
    box: int
    pixel_size: float

    @property
    def name(self) -> str:
        return f"{self.count:,} × {self.box}²"


@dataclass(frozen=True)
class Program:
    """A program to time: its command for a STAR file, where its map is then, and how many runs make half-maps too.

    Attributes:
        lists: the STAR files it is timed on. repeats: how often, each.
    """

    name: str
    command: Callable[[Path, Path], list[str | Path]]
    map: str
    runs_for_half_maps: int
    lists: tuple[str, ...]
    repeats: int


def frazil(star: Path, out: Path) -> list[str | Path]:
    return [FRAZIL, "reconstruct", star.name, "--no-report", "--out", out]


def cryodrgn(star: Path, out: Path) -> list[str | Path]:
    first = ["--first", str(FEW)] if star.name == "few.star" else []
    poses = ["--poses", "pose.pkl", "--ctf", "ctf.pkl"]
    return [CRYODRGN, "backproject_voxel", "particles.mrcs", *poses, "-o", out, *first]


def relion(star: Path, out: Path) -> list[str | Path]:
    return [RELION / "relion_reconstruct", "--i", star.name, "--o", out / "map.mrc", "--ctf"]


def make_data(data: DataSet, folder: Path) -> Path:
    """Simulate, and let cryodrgn make its pickles of the STAR file. Returns the folder of the stack."""
    chain = write_chain(folder / "chain.pdb", diameter=150.0)
    out = folder / f"particles_{data.box}"
    words = (
        f"simulate particles --count {data.count} --box {data.box} --pixel-size {data.pixel_size} --snr 0.1 --seed 1"
    )
    # no envelope: cryodrgn has no B factor
    words += f" --resolution 18 --b-factor 0 --atoms {chain} --out {out}"
    measure.run([FRAZIL, *words.split()], folder, folder / "simulate.log")
    stack = out / "outputs"
    for kind, extra in (("pose", []), ("ctf", ["--ps", "0"])):
        words = [CRYODRGN, f"parse_{kind}_star", "particles.star", "-o", f"{kind}.pkl", "-D", str(data.box), *extra]
        measure.run(words, stack, folder / f"parse_{kind}.log")
    measure.first_rows(stack / "particles.star", FEW, stack / "few.star")
    measure.repeated_rows(stack / "particles.star", MANY, stack / "many.star")
    return stack


def time_programs(programs: list[Program], stack: Path, folder: Path) -> dict[str, dict[str, list[Cost]]]:
    """costs[program][list]: every program on every list in turns, so that they see the same machine."""
    costs: dict[str, dict[str, list[Cost]]] = {p.name: {name: [] for name in p.lists} for p in programs}
    # the first round compiles code and fills the file cache for everybody
    for repeat in range(-1, max(program.repeats for program in programs)):
        for program in programs:
            for name in program.lists if 0 <= repeat < program.repeats else ("few.star",) * (repeat < 0):
                out = measure.fresh(folder / program.name / name)
                if program.name == "frazil":
                    out.rmdir()
                cost = measure.run(program.command(stack / name, out), stack, folder / f"{program.name}.log")
                if repeat >= 0:
                    costs[program.name][name].append(cost)
    return costs


def agreement(path: Path, truth: Path) -> dict[str, float]:
    """Shells where the FSC with the truth falls below 0.5: of the whole box, and inside a sphere around the molecule."""
    from frazil.data.mrc import read_volume
    from frazil.numerics.masks import soft_sphere
    from frazil.numerics.shells import first_shell_below, shell_correlation

    values, true = read_volume(path)[0], read_volume(truth)[0]
    box = true.shape[-1]
    sphere = soft_sphere(box, 0.32 * box, 0.05 * box)
    return {
        "shell": first_shell_below(shell_correlation(values, true), 0.5),
        "shell_in_sphere": first_shell_below(shell_correlation(values * sphere, true * sphere), 0.5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs of frazil and RELION (cryodrgn: at most 2)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the images: does it run?")
    parser.add_argument("--without-cryodrgn", action="store_true", help="leave out the slowest program")
    options = parser.parse_args()
    measure.require_peers()
    lists = ("few.star", "particles.star", "many.star")
    programs = [
        Program("frazil", frazil, "outputs/consensus.mrc", 1, lists, options.repeats),
        Program("RELION", relion, "map.mrc", 3, lists, options.repeats),
        # so slow that start-up is small beside one pass
        Program("cryodrgn", cryodrgn, "backproject.mrc", 1, lists[:2], min(2, options.repeats)),
    ]
    if options.without_cryodrgn:
        programs = programs[:2]
    share = 10 if options.quick else 1
    sets = [DataSet(10_000 // share, 64, 4.0), DataSet(5_000 // share, 128, 2.0)]
    rows, records = [], []
    with tempfile.TemporaryDirectory(prefix="backprojection-") as name:
        for data in sets:
            folder = Path(name)
            stack = make_data(data, folder)
            runs = folder / f"runs_{data.box}"
            costs = time_programs(programs, stack, runs)
            for program in programs:
                made = runs / program.name / "particles.star" / program.map
                row, record = summary(data, program, costs[program.name], made, stack)
                rows.append(row)
                records.append(record)
                print(*row, sep="  ", flush=True)
    header = ["data", "program", "images / CPU s, net", "start-up, CPU s", "images / CPU s, gross, with half-maps"]
    header += ["wall, s", "peak memory, GiB", "shell at FSC 0.5 to truth", "same, in a sphere"]
    text = measure.markdown_table(header, rows)
    text += (
        f"\n\nOne rigid molecule (a seeded chain of atoms), SNR 0.1, 256 Å box. Net: slope of CPU seconds against images, "
        f"by least squares over runs on {FEW} images, all, and all listed {MANY} times (cryodrgn: the first two), with its "
        "standard error. frazil and cryodrgn make half-maps and FSC in the same run, RELION does not: its gross rate with "
        "half-maps counts three runs. Wall time: one run on all images."
    )
    measure.report(
        "quick_backprojection" if options.quick else "backprojection", "Backprojection", text, {"runs": records}
    )


def summary(
    data: DataSet, program: Program, costs: dict[str, list[Cost]], made: Path, stack: Path
) -> tuple[list[str], dict[str, object]]:
    """The row of the table and the record of one program."""
    sizes = {"few.star": FEW, "particles.star": data.count, "many.star": MANY * data.count}
    images = [sizes[name] for name, runs in costs.items() for _ in runs]
    line = measure.fit_line(images, [cost for runs in costs.values() for cost in runs])
    every = measure.median(costs["particles.star"])
    fsc = agreement(made, stack / "truth" / "volumes" / "volume_000.mrc")
    # a map and two halves are two passes over the images and as many starts as there are runs
    passes = 1 if program.runs_for_half_maps == 1 else 2
    gross = data.count / (line.start_up * program.runs_for_half_maps + line.per_image * data.count * passes)
    row = [data.name, program.name, line.rate_text, f"{line.start_up:.2f}", f"{gross:,.0f}", f"{every.wall:.1f}"]
    row += [f"{every.peak_memory:.2f}", f"{fsc['shell']:.1f}", f"{fsc['shell_in_sphere']:.1f}"]
    record = {"data": data.name, "program": program.name, "images_per_cpu_second": line.rate, "line": line}
    return row, record | {"costs": costs, "fsc": fsc}


if __name__ == "__main__":
    main()
