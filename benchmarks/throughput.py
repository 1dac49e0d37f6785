"""How fast one pass of expectation and maximisation goes over images, and over a stack that does not fit in memory.

A pass looks at every coefficient of every image: slices of nine volumes (K = 8), the posterior of the weights, and the
backprojection of what is left. Images are noise: a pass costs the same whatever they show. Printed: images per second on
all cores, in memory, and per second of processor time, which says what a core does even where it is shared with other
work; with --streamed COUNT also over that many images of 128², read from a stack on disk, kept as float16
coefficients in a file, and the peak of resident memory, beside the rate in memory.

    .venv/bin/python benchmarks/throughput.py [--streamed 500000]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

import measure
from frazil.data.mrc_header import make_header
from frazil.data.particle_star import write_new_particles_star
from frazil.data.stack import Particles, read_particles
from frazil.inference.coefficient_posteriors import GaussianPrior
from frazil.numerics.masks import soft_sphere
from frazil.physics.grid import Grid
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose
from frazil.reconstruct.linear import Halves, expect, linear_step
from frazil.reconstruct.marching import marching_bands
from frazil.reconstruct.maximisation import Stage
from frazil.reconstruct.whitened import WhitenedImages

Result = TypeVar("Result")

DIRECTIONS = 8
TILE = 1000  # different images in a tiled stack


def write_stack(folder: Path, count: int, grid: Grid) -> Path:
    """A stack of noise, tiled, with random poses and defocus. Returns its STAR file."""
    generator = torch.Generator().manual_seed(1)
    n = grid.box_size
    tile = torch.randn(min(TILE, count), n, n, generator=generator).numpy().astype("<f4")
    path = folder / f"noise_{count}_{n}.mrcs"
    # written, not mapped: mapped pages would count as memory of this process
    with path.open("wb") as file:
        file.write(make_header((n, n, count), tile.dtype, grid.pixel_size, is_volume=False, minimum=float(tile.min()),
                               maximum=float(tile.max()), mean=float(tile.mean()), rms=float(tile.std())))  # fmt: skip
        for first in range(0, count, TILE):
            tile[: count - first].tofile(file)
    defocus = 8000 + 14000 * torch.rand(count, generator=generator)
    optics = Optics.make(voltage=300.0, cs=2.7, amplitude_contrast=0.1, defocus_u=defocus, dtype=torch.float32)
    star = path.with_suffix(".star")
    pose = Pose.random(count, 10.0, generator)
    write_new_particles_star(star, path, grid, pose=pose, optics=optics, half_set=torch.arange(count) % 2)
    return star


def whitened(particles: Particles, file: Path | None) -> WhitenedImages:
    """The coefficients at the full band."""
    grid = particles.grid
    noise = torch.full((1, grid.box_size // 2 + 1), float(grid.box_size**2))
    return WhitenedImages(particles, grid.last_shell, noise, sign=1.0, file=file, bands=marching_bands(grid.last_shell))


def warm_up(folder: Path) -> None:
    """Have everything compiled that a pass needs, before anything is timed."""
    pass_rate(whitened(read_particles(write_stack(folder, 100, Grid(32, 8.0))), None), 1)


def sizes(star: Path, images: WhitenedImages) -> str:
    """How large a stack is on disk, and its coefficients."""
    stack = star.with_suffix(".mrcs").stat()
    kept = WhitenedImages.size(len(images), images.grid, images.plane.band)
    return f"{stack.st_blocks * 512 / 1e9:.1f} GB on disk became {kept / 1e9:.1f} GB of coefficients"


def pass_rate(images: WhitenedImages, repeats: int) -> tuple[float, float, float, float]:
    """Images/s of expectation with its backprojection, and of a whole pass with the step of the volumes.

    Then the same two per second of processor time. The best of the repeats.
    """
    grid = images.grid
    n = grid.box_size
    stage = Stage.of(images, grid.last_shell, "C1")
    mask = soft_sphere(n, 0.44 * n, 3.0)
    volumes = torch.randn(DIRECTIONS + 1, n, n, n, generator=torch.Generator().manual_seed(2)) * mask / n
    halves = Halves(volumes, volumes.clone(), torch.ones(len(images), 2), 0.0)
    expected, whole = [], []
    for _ in range(repeats):
        tables, before = seconds(lambda: stage.tables(halves.pair))
        found, during = seconds(lambda: expect(images, halves, tables, stage, GaussianPrior()))  # noqa: B023
        _, after = seconds(lambda: linear_step(halves, tables, found, stage, mask))  # noqa: B023
        expected.append(during)
        whole.append(tuple(map(sum, zip(before, during, after, strict=True))))
    (a, c), (b, d) = (map(min, zip(*times, strict=True)) for times in (expected, whole))
    return len(images) / a, len(images) / b, len(images) / c, len(images) / d


def seconds(work: Callable[[], Result]) -> tuple[Result, tuple[float, float]]:
    """What some work gives, and (seconds that it takes, seconds of processor time)."""
    wall, core = time.perf_counter(), time.process_time()
    result = work()
    return result, (time.perf_counter() - wall, time.process_time() - core)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streamed", type=int, default=0, help="images of 128² to stream from disk")
    parser.add_argument("--folder", type=Path, help="where the stacks go (a temporary folder)")
    options = parser.parse_args()
    rows, records, said = [], [], ""

    def note(what: str, count: int, rate: tuple[float, float, float, float]) -> None:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows.append([what, f"{count:,}", *(f"{value:,.0f}" for value in rate), f"{memory:.2f}"])
        names = ("expectation", "pass", "expectation_per_core", "pass_per_core")
        records.append({"what": what, "count": count, **dict(zip(names, rate, strict=True)), "peak_memory": memory})
        print(*rows[-1], sep="  ", flush=True)

    with tempfile.TemporaryDirectory(prefix="throughput-", dir=options.folder) as name:
        folder = Path(name)
        warm_up(folder)
        for count, grid in ((10_000, Grid(64, 4.0)), (10_000, Grid(128, 2.0))):
            images = whitened(read_particles(write_stack(folder, count, grid)), None)
            note(f"{grid.box_size}², in memory", count, pass_rate(images, options.repeats))
        if options.streamed:
            star = write_stack(folder, options.streamed, Grid(128, 2.0))
            particles = read_particles(star)
            images, (wall, core) = seconds(lambda: whitened(particles, folder / "coefficients.float16"))
            read, read_per_core = options.streamed / wall, options.streamed / core
            records.append({"what": "reading", "count": options.streamed, "rate": read, "rate_per_core": read_per_core})
            said = (
                f"\n\nThe stack of {sizes(star, images)}: read once and transformed at {read:,.0f} images/s "
                f"({read_per_core:,.0f} per core second). Nothing of it is kept in memory."
            )
            print(said.strip(), flush=True)
            note("128², streamed from disk", options.streamed, pass_rate(images, 1))
    text = measure.markdown_table(
        [
            "images",
            "count",
            "expectation, images/s",
            "whole pass, images/s",
            "expectation, images per core second",
            "whole pass, images per core second",
            "peak memory so far, GiB",
        ],
        rows,
    )
    text += (
        f"\n\nNoise in the full band, {DIRECTIONS} directions and the mean, two half-sets side by side, with CTF. "
        "Expectation: slices, posteriors, backprojection. Whole pass: with the step of the volumes too. "
        "A core second is one of processor time: other work on the machine slows the clock, and hardly this."
    )
    text += said
    name = "throughput_streamed" if options.streamed else "throughput"
    measure.report(name, "Passes over images", text, {"runs": records})


if __name__ == "__main__":
    main()
