"""What does a pose search cost? Pairs of image and view scored per second and core, and a hierarchical search of an image.

`match_views` compares images with all views of a volume as matrix products. Its floor is the product itself: 4 operations
for a coefficient of a pair of image and view, half of that because a view turned by half a turn in its plane costs nothing
more, at the rate at which this core multiplies matrices of that size. The hierarchical search is that of the preset
`cryodrgn2` as published (bands of 12 to 32, 4,608 rotations x 196 shifts, then four levels of 8 x 8 rotations x 196 shifts);
cryodrgn abinit 4.3.1 needs 4 to 6 CPU seconds for an image and search.

    .venv/bin/python benchmarks/pose_search.py [--box 66] [--images 64]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

import measure
from frazil.inference.hierarchical_search import Hierarchy, linear_bands, search_poses, square_of_shifts
from frazil.inference.matching import CoarseImages, Views, disc_of_shifts, likeliest_views, match_views
from frazil.numerics.fourier import half_plane
from frazil.numerics.rotation_grid import rotation_grid
from frazil.numerics.spectrum_table import gather_table, table_layout, table_of_volumes

RADIUS = 16
GOAL = 1.5e7


def cpu_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The least CPU seconds of some repeats, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def gemm_rate(rows: int, inner: int, columns: int) -> float:
    """Operations per CPU second of a matrix product of these sizes."""
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    return 2 * rows * inner * columns / cpu_seconds(lambda: a @ b, 5)


def random_images(count: int, box: int) -> CoarseImages:
    """Noise: the work is the same whatever is seen."""
    plane = half_plane(box)
    generator = torch.Generator().manual_seed(1)
    return CoarseImages(torch.randn(count, plane.count, 2, generator=generator), torch.ones(count, plane.count))


def main() -> None:
    """Measure, print and keep the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--box", type=int, default=66, help="of the images: 66 px hold the last published band, 32")
    parser.add_argument("--images", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plane = half_plane(options.box)
    images = random_images(options.images, options.box)
    volume = torch.randn(1, options.box, options.box, options.box, generator=torch.Generator().manual_seed(2))
    layout = table_layout(plane.band)
    table = table_of_volumes(volume, layout)

    low = plane.within(RADIUS)
    rotations = rotation_grid(2)
    views = Views(gather_table(table, layout, rotations, low, torch.ones(len(rotations), low.count))[..., 0])
    shifts = disc_of_shifts(3.0, 1.0)
    coarse = images.within(0, low.count)
    pairs = len(images) * len(shifts) * 2 * views.count
    rate = gemm_rate(16 * len(shifts), low.count, views.count)
    floor = rate / (2 * low.count)
    learn = pairs / cpu_seconds(lambda: match_views(coarse, views, shifts, low))
    best = pairs / cpu_seconds(lambda: likeliest_views(coarse, views, shifts, low, 8))

    hierarchy = Hierarchy(2, linear_bands(12, min(32, plane.band), 5), 8, square_of_shifts(10.0, 14))
    search = cpu_seconds(lambda: search_poses(images, table, layout, plane, hierarchy), 2) / len(images)

    rows = [
        ("matrix products alone: the floor", f"{floor:.2e}", f"{rate / 1e9:.0f} GFLOP/s"),
        ("`likeliest_views`: the best poses", f"{best:.2e}", f"{100 * best / floor:.0f} % of the floor"),
        ("`match_views`: posterior and sums (two passes)", f"{learn:.2e}", f"{100 * learn / floor:.0f} % of the floor"),
        ("goal", f"{GOAL:.1e}", ""),
    ]
    text = f"Pairs of image and pose (view and shift) per CPU second, {low.count} coefficients to radius {RADIUS}:\n\n"
    text += measure.markdown_table(("what", "pairs per second and core", ""), rows)
    text += f"\n\nHierarchical search as published, bands {', '.join(map(str, hierarchy.bands))}, one volume:\n\n"
    text += measure.markdown_table(
        ("program", "CPU s per image and search"),
        [("frazil", f"{search:.4f}"), ("cryodrgn abinit 4.3.1 (its own figure)", "4 to 6")],
    )
    figures = {"floor": floor, "likeliest_views": best, "match_views": learn, "search_seconds": search, "goal": GOAL}
    measure.report("pose_search", "Pose search", text, figures)


if __name__ == "__main__":
    main()
