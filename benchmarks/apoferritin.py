"""A real stack: 1,000 particles of apoferritin (EMPIAR-10146), poses from RELION; frazil against relion_reconstruct.

Printed: the resolution to which frazil's map agrees with RELION's map of the same particles, the FSC between the
half-maps of each, unmasked and in a sphere of 75 Å, and CPU seconds net of start-up (see measure.py). RELION makes a map
and two half-maps in three runs; one run and all three are given.

    FRAZIL_DATA=../shared/data .venv/bin/python benchmarks/apoferritin.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import measure
from measure import FRAZIL, REAL_DATA, RELION, Cost, Line

FEW = 50  # images of a run that is almost all start-up
MANY = 10  # how often the longest list names every image
SPHERE = 75.0  # Å


def link_stack(folder: Path) -> Path:
    """The data in a folder that may be written to. Returns the STAR file."""
    source = REAL_DATA / "apoferritin" / "particles"
    if not (source / "particles.star").exists():
        sys.exit(f"no particles in {source}: set FRAZIL_DATA to the folder that holds apoferritin/")
    for name in ("particles.mrcs", "particles.star", "map.mrc"):
        (folder / name).symlink_to(source / name)
    measure.first_rows(folder / "particles.star", FEW, folder / "few.star")
    measure.repeated_rows(folder / "particles.star", MANY, folder / "many.star")
    return folder / "particles.star"


def run_frazil(folder: Path, star: str) -> Cost:
    """`frazil reconstruct`: map, half-maps, FSC and mask, in a folder named after the STAR file."""
    out = measure.fresh(folder / f"frazil_{star}")
    out.rmdir()
    words = ["reconstruct", star, "--symmetry", "O", "--no-report", "--out", out]
    return measure.run([FRAZIL, *words], folder, folder / "frazil.log")


def run_relion(folder: Path, star: str, out: str, *subset: str) -> Cost:
    """`relion_reconstruct`: one map."""
    words = ["--i", star, "--o", out, "--ctf", "--sym", "O", *subset]
    return measure.run([RELION / "relion_reconstruct", *words], folder, folder / "relion.log")


def lines_of_cost(folder: Path, count: int, repeats: int) -> dict[str, tuple[Line, Cost]]:
    """For both programs, run in turns: the line of CPU seconds against images, and the cost of all particles."""
    sizes = {"few.star": FEW, "particles.star": count, "many.star": MANY * count}
    # this also compiles code and fills the file cache
    run_frazil(folder, "few.star")
    run_relion(folder, "particles.star", "half1.mrc", "--subset", "1")
    run_relion(folder, "particles.star", "half2.mrc", "--subset", "2")
    runs: dict[str, list[tuple[str, Cost]]] = {"frazil": [], "RELION": []}
    for _ in range(repeats):
        for star in sizes:
            runs["frazil"].append((star, run_frazil(folder, star)))
            runs["RELION"].append((star, run_relion(folder, star, "map_again.mrc")))
    return {
        program: (
            measure.fit_line([sizes[star] for star, _ in done], [cost for _, cost in done]),
            measure.median([cost for star, cost in done if star == "particles.star"]),
        )
        for program, done in runs.items()
    }


def half_map_figures(a: Path, b: Path) -> dict[str, float]:
    """Resolutions of two half-maps, Å: unmasked at 0.143 and 0.5, in the sphere at 0.143 and 0.5."""
    from frazil.data.mrc import read_volume
    from frazil.numerics.masks import soft_sphere
    from frazil.numerics.shells import first_shell_below, shell_correlation

    (first, grid), (second, _) = read_volume(a), read_volume(b)
    sphere = soft_sphere(grid.box_size, SPHERE / grid.pixel_size, 4.0)
    plain, masked = shell_correlation(first, second), shell_correlation(first * sphere, second * sphere)
    curves = {"unmasked": plain, "sphere": masked}
    return {
        f"{name}_{threshold}": grid.resolution_of(first_shell_below(curve, threshold))
        for name, curve in curves.items()
        for threshold in (0.143, 0.5)
    }


def agreement_with_map(path: Path, reference: Path, limit: float) -> tuple[float, float]:
    """(Å to which the FSC with a map stays at or above 0.95, least FSC out to `limit` Å)."""
    from frazil.data.mrc import read_volume
    from frazil.numerics.shells import first_shell_below, shell_correlation

    values, grid = read_volume(path)
    curve = shell_correlation(values, read_volume(reference)[0])
    shells = int(grid.shell_of(limit))
    return grid.resolution_of(first_shell_below(curve, 0.95)), float(curve[1 : shells + 1].min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    measure.require_peers()
    with tempfile.TemporaryDirectory(prefix="apoferritin-") as name:
        folder = Path(name)
        count = sum("@" in line for line in link_stack(folder).read_text().splitlines())
        costs = lines_of_cost(folder, count, options.repeats)
        outputs = folder / "frazil_particles.star" / "outputs"
        ours = half_map_figures(outputs / "half_a.mrc", outputs / "half_b.mrc")
        theirs = half_map_figures(folder / "half1.mrc", folder / "half2.mrc")
        reaches, least = agreement_with_map(outputs / "consensus.mrc", folder / "map.mrc", 7.0)
    header = ["program", "half-maps, unmasked 0.143, Å", "sphere 0.5, Å", "sphere 0.143, Å"]
    header += ["images / CPU s, net", "CPU s, net", "start-up, CPU s", "wall, s"]

    def row(program: str, half: dict[str, float], line: Line, every: Cost, passes: int, starts: int) -> list[str]:
        resolutions = [f"{half[name]:.2f}" for name in ("unmasked_0.143", "sphere_0.5", "sphere_0.143")]
        seconds = [passes * count * line.per_image, starts * line.start_up, starts * every.wall]
        return [program, *resolutions, line.rate_text, *(f"{value:.2f}" for value in seconds)]

    table = [
        row("frazil: map, half-maps, FSC, mask", ours, *costs["frazil"], 1, 1),
        row("RELION: map", theirs, *costs["RELION"], 1, 1),
        # two passes over the particles, three starts
        row("RELION: map and half-maps", theirs, *costs["RELION"], 2, 3),
    ]
    text = measure.markdown_table(header, table)
    text += (
        f"\n\nfrazil's map agrees with RELION's at FSC ≥ 0.95 to {reaches:.2f} Å; the least FSC out to 7 Å is {least:.3f}. "
        f"{count:,} particles of 96² at 2.5 Å/px, symmetry O, poses from the STAR file. Net: slope of CPU seconds against "
        f"images, by least squares over runs on {FEW} particles, all, and all listed {MANY} times, with its standard error."
    )
    record = {"fsc_095_to": reaches, "least_fsc_to_7": least, "half_maps": {"frazil": ours, "RELION": theirs}}
    measure.report("apoferritin", "Real particles: apoferritin", text, {**record, "costs": costs})


if __name__ == "__main__":
    main()
