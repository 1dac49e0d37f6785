"""A real stack: 1,000 particles of apoferritin (EMPIAR-10146), poses from RELION; frazil against relion_reconstruct.

Printed: the resolution to which frazil's map agrees with RELION's map of the same particles, the FSC between the
half-maps of each, unmasked and in a sphere of 75 Å, and CPU seconds net of start-up. RELION makes a map and two
half-maps in three runs; one run and all three are given.

    FRAZIL_DATA=../shared/data .venv/bin/python benchmarks/apoferritin.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import measure
from measure import FRAZIL, REAL_DATA, RELION, Cost

FEW = 50
SPHERE = 75.0  # Å


def link_stack(folder: Path) -> Path:
    """The data in a folder that may be written to. Returns the STAR file."""
    source = REAL_DATA / "apoferritin" / "particles"
    if not (source / "particles.star").exists():
        sys.exit(f"no particles in {source}: set FRAZIL_DATA to the folder that holds apoferritin/")
    for name in ("particles.mrcs", "particles.star", "map.mrc"):
        (folder / name).symlink_to(source / name)
    measure.first_rows(folder / "particles.star", FEW, folder / "few.star")
    return folder / "particles.star"


def frazil_costs(folder: Path, repeats: int) -> tuple[Cost, Cost]:
    """(all particles, a few)"""

    def once(star: str) -> Cost:
        out = measure.fresh(folder / f"frazil_{star}")
        out.rmdir()
        return measure.run(
            [FRAZIL, "reconstruct", star, "--symmetry", "O", "--out", out], folder, folder / "frazil.log"
        )

    once("few.star")
    few = measure.median_cost(lambda _: once("few.star"), repeats)
    return measure.median_cost(lambda _: once("particles.star"), repeats), few


def relion_costs(folder: Path, repeats: int) -> tuple[Cost, Cost]:
    """(all particles into one map, a few); the half-maps are made besides."""

    def once(star: str, out: str, *subset: str) -> Cost:
        words = ["--i", star, "--o", out, "--ctf", "--sym", "O", *subset]
        return measure.run([RELION / "relion_reconstruct", *words], folder, folder / "relion.log")

    once("particles.star", "half1.mrc", "--subset", "1")
    once("particles.star", "half2.mrc", "--subset", "2")
    few = measure.median_cost(lambda _: once("few.star", "few.mrc"), repeats)
    return measure.median_cost(lambda _: once("particles.star", "map_again.mrc"), repeats), few


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
        frazil_all, frazil_few = frazil_costs(folder, options.repeats)
        relion_all, relion_few = relion_costs(folder, options.repeats)
        outputs = folder / "frazil_particles.star" / "outputs"
        ours = half_map_figures(outputs / "half_a.mrc", outputs / "half_b.mrc")
        theirs = half_map_figures(folder / "half1.mrc", folder / "half2.mrc")
        reaches, least = agreement_with_map(outputs / "consensus.mrc", folder / "map.mrc", 7.0)
    net, relion_net = frazil_all.minus(frazil_few), relion_all.minus(relion_few)
    header = ["program", "half-maps, unmasked 0.143, Å", "sphere 0.5, Å", "sphere 0.143, Å"]
    header += ["CPU s, net", "start-up, CPU s", "wall, s"]

    def row(program: str, half: dict[str, float], net: float, start: float, wall: float) -> list[str]:
        shown = [half["unmasked_0.143"], half["sphere_0.5"], half["sphere_0.143"], net, start, wall]
        return [program, *(f"{value:.2f}" for value in shown)]

    table = [
        row("frazil: map, half-maps, FSC, mask", ours, net.cpu, frazil_few.cpu, frazil_all.wall),
        row("RELION: map", theirs, relion_net.cpu, relion_few.cpu, relion_all.wall),
        # two passes over the particles, three starts
        row("RELION: map and half-maps", theirs, 2 * relion_net.cpu, 3 * relion_few.cpu, 3 * relion_all.wall),
    ]
    text = measure.markdown_table(header, table)
    text += (
        f"\n\nfrazil's map agrees with RELION's at FSC ≥ 0.95 to {reaches:.2f} Å; the least FSC out to 7 Å is {least:.3f}. "
        f"{count:,} particles of 96² at 2.5 Å/px, symmetry O, poses from the STAR file. Net: the cost of the same command "
        f"on {FEW} particles is taken off."
    )
    record = {"fsc_095_to": reaches, "least_fsc_to_7": least, "half_maps": {"frazil": ours, "RELION": theirs}}
    costs = {"frazil": [frazil_all, frazil_few], "RELION": [relion_all, relion_few]}
    measure.report("apoferritin", "Real particles: apoferritin", text, {**record, "costs": costs})


if __name__ == "__main__":
    main()
