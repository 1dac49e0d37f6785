"""What a search costs: `cryodrgn abinit` for each image and epoch of its pose search, and the whole of `--poses search`.

The set is that of `unknown_poses.py`: 5,000 images of 64 pixels. Its search is run on a few of the images and on three times
as many, one epoch each, with the published settings and a short pretraining; the slope is the cost of an image. Frazil's is
the whole command (starts, all particles, refinement, maps) on all images, divided by their number. CPU seconds of the
processes, so that what else the machine does counts little.

    .venv/bin/python benchmarks/cryodrgn_search.py [--images 16] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
from pathlib import Path

import numpy as np

import measure
from measure import CRYODRGN, FRAZIL
from unknown_poses import CASES, images_of

COUNT = 5000
ONE_EPOCH = ("--zdim", "0", "--n-imgs-pretrain", "64", "--epochs-sgd", "0", "--epochs-pose-search", "1")
ONE_EPOCH += ("--num-epochs", "1", "--num-workers", "0", "--no-analysis")


def peer(star: Path, images: int, folder: Path) -> measure.Cost:
    """One epoch of search with so many images."""
    chosen = folder / f"first_{images}.pkl"
    with chosen.open("wb") as file:
        pickle.dump(np.arange(images), file)
    words = [CRYODRGN, "abinit", star.with_suffix(".mrcs"), "--ctf", folder / "export" / "outputs" / "ctf.pkl"]
    words += ["--ind", chosen, "-o", folder / f"abinit_{images}", *ONE_EPOCH]
    return measure.run(words, folder, folder / f"abinit_{images}.log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16, help="images of the smaller run of cryodrgn")
    parser.add_argument("--data", type=Path, help="folder of the set, to be used again (temporary unless given)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cryodrgn-search-") as name:
        folder = Path(name)
        star = images_of(CASES[0], options.data or folder)
        words = [FRAZIL, "export", star, "--to", "cryodrgn", "--out", folder / "export"]
        measure.run(words, folder, folder / "export.log")
        few, more = (peer(star, count, folder) for count in (options.images, 3 * options.images))
        slope = (more.cpu - few.cpu) / (2 * options.images)
        words = [FRAZIL, "reconstruct", star, "--poses", "search", "--ignore-poses", "--no-report"]
        whole = measure.run([*words, "--out", folder / "search"], folder, folder / "search.log")
    own = whole.cpu / COUNT
    rows = [
        ["cryodrgn 4.3.1 abinit", "one epoch of its search", f"{slope:.2f}"],
        ["frazil --poses search", "everything", f"{own:.4f}"],
    ]
    text = measure.markdown_table(["program", "what", "CPU s / image"], rows)
    text += f"\n\nOne epoch of its search costs {slope / own:.0f} times as much as all of ours."
    data = {"images": [options.images, 3 * options.images], "peer_cpu": [few.cpu, more.cpu], "own_cpu": whole.cpu}
    measure.report("cryodrgn_search", "A search for poses and cryodrgn's", text, data)


if __name__ == "__main__":
    main()
