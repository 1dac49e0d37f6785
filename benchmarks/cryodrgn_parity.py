"""Preset cryodrgn against cryodrgn train_vae: the same images, architecture, batch size and epochs, one after the other.

A generated hinge (linear-1d), 2,000 images of 64², SNR 0.1, poses given. Both train a VAE with a 256 × 3 encoder and
decoder and 8 latent coordinates. Printed: training images per second of wall time and of CPU time, net of start-up (the
same command for one epoch of 50 images); how well the latent orders the particles; how well the decoded states differ
from their mean as the true ones do; peak memory.

    .venv/bin/python benchmarks/cryodrgn_parity.py [--epochs 20] [--count 2000]
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import measure
from measure import CRYODRGN, FRAZIL, Cost

FEW = 50  # images of a run that measures start-up
BOX = 64
LATENT = 8
# width of a bead, Å. At the generator's 16 Å much of the signal lies where neither program has learnt anything within 20
# epochs of 2,000 images, and the comparison would be one of noise.
RESOLUTION = 20
WIDTH = 256
BATCH = 16


@dataclass(frozen=True)
class Result:
    """What one program made of the images."""

    program: str
    every: Cost
    few: Cost
    latent: np.ndarray  # (images, LATENT)
    volumes: list[Path]  # decoded at the mean latent of each true state


def make_data(folder: Path, count: int, seed: int) -> Path:
    """Simulate the hinge, and let cryodrgn make its pickles of the STAR file. Returns the folder of the stack."""
    words = f"simulate particles --set linear-1d --count {count} --box {BOX} --pixel-size 4 --snr 0.1 --seed {seed}"
    # broad beads, as in the demo; no envelope: cryodrgn has no B factor
    words += f" --resolution {RESOLUTION} --b-factor 0"
    measure.run([FRAZIL, *words.split(), "--out", folder / "hinge"], folder, folder / "simulate.log")
    stack = folder / "hinge" / "outputs"
    for kind, extra in (("pose", []), ("ctf", ["--ps", "0"])):
        words = [CRYODRGN, f"parse_{kind}_star", "particles.star", "-o", f"{kind}.pkl", "-D", str(BOX), *extra]
        measure.run(words, stack, folder / f"parse_{kind}.log")
    measure.first_rows(stack / "particles.star", FEW, stack / "few.star")
    return stack


def state_points(latent: np.ndarray, states: np.ndarray) -> np.ndarray:
    """The mean latent of the particles of each true state."""
    return np.stack([latent[states == state].mean(axis=0) for state in np.unique(states)])


def run_frazil(stack: Path, folder: Path, epochs: int, seed: int, extra: list[str]) -> Result:
    """`frazil reconstruct --preset cryodrgn`, then `frazil decode`."""

    def train(star: str, epochs: int, out: Path) -> Cost:
        words = f"reconstruct {star} --preset cryodrgn --latent-dim {LATENT} --seed {seed}"
        words += f" --train.encoder-width {WIDTH} --train.encoder-layers 3 --train.width {WIDTH} --train.layers 3"
        words += f" --train.batch-size {BATCH} --train.epochs {epochs}"
        return measure.run([FRAZIL, *words.split(), *extra, "--out", out], stack, folder / "frazil.log")

    train("few.star", 1, folder / "warm_up")
    few = train("few.star", 1, folder / "few")
    every = train("particles.star", epochs, folder / "all")
    latent = np.load(folder / "all" / "outputs" / "latent.npy")
    np.save(folder / "points.npy", state_points(latent, np.load(stack / "truth" / "state.npy")))
    words = ["decode", folder / "all", "--latent", folder / "points.npy", "--out", folder / "decoded"]
    measure.run([FRAZIL, *words], folder, folder / "decode.log")
    return Result("frazil", every, few, latent, sorted((folder / "decoded" / "outputs" / "volumes").glob("*.mrc")))


def run_cryodrgn(stack: Path, folder: Path, epochs: int, seed: int) -> Result:
    """`cryodrgn train_vae`, then `cryodrgn eval_vol`."""
    from frazil.data.cryodrgn import read_latent, write_indices

    write_indices(folder / "few.pkl", np.arange(FEW))

    def train(epochs: int, out: Path, *extra: str | Path) -> Cost:
        words = "train_vae particles.mrcs --poses pose.pkl --ctf ctf.pkl --no-analysis"
        words += f" --zdim {LATENT} --enc-dim {WIDTH} --enc-layers 3 --dec-dim {WIDTH} --dec-layers 3"
        words += f" -b {BATCH} -n {epochs} --seed {seed}"
        return measure.run([CRYODRGN, *words.split(), "-o", out, *extra], stack, folder / "cryodrgn.log")

    train(1, folder / "warm_up", "--ind", folder / "few.pkl")
    few = train(1, folder / "few", "--ind", folder / "few.pkl")
    every = train(epochs, folder / "all")
    latent, _ = read_latent(folder / "all" / f"z.{epochs}.pkl")
    np.savetxt(folder / "points.txt", state_points(latent, np.load(stack / "truth" / "state.npy")))
    words = [folder / "all" / f"weights.{epochs}.pkl", "-c", folder / "all" / "config.yaml"]
    words += ["--zfile", folder / "points.txt", "-o", folder / "decoded", "--Apix", "4"]
    measure.run([CRYODRGN, "eval_vol", *words], folder, folder / "eval_vol.log")
    return Result("cryodrgn 4.3.1", every, few, latent, sorted((folder / "decoded").glob("*.mrc")))


def quality(result: Result, stack: Path) -> dict[str, float]:
    """Latent against truth, and decoded states against true states (figures of frazil.evaluate)."""
    import torch

    from frazil.data.mrc import read_volume
    from frazil.evaluate.latents import isomap_correlation, pc1_correlation
    from frazil.evaluate.maps import difference_map_correlations, family_mask

    truth = np.load(stack / "truth" / "latent.npy")[:, 0]
    true = torch.stack([read_volume(path)[0] for path in sorted((stack / "truth" / "volumes").glob("*.mrc"))])
    decoded = torch.stack([read_volume(path)[0] for path in result.volumes])
    differences = difference_map_correlations(decoded, true)
    masked = difference_map_correlations(decoded, true, family_mask(true))
    return {
        "pc1": pc1_correlation(result.latent, truth),
        "isomap": isomap_correlation(result.latent, truth),
        "difference_median": float(np.median(differences)),
        "difference_median_masked": float(np.median(masked)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["frazil", "cryodrgn"], help="run one of the two")
    parser.add_argument("--frazil", default="", help="more flags for frazil, in one string")
    options = parser.parse_args()
    measure.require_peers()
    rows, records = [], []
    with tempfile.TemporaryDirectory(prefix="parity-") as name:
        folder = Path(name)
        stack = make_data(folder, options.count, options.seed)
        for program in ("frazil", "cryodrgn"):
            if options.only not in (None, program):
                continue
            here = measure.fresh(folder / program)
            if program == "frazil":
                result = run_frazil(stack, here, options.epochs, options.seed, options.frazil.split())
            else:
                result = run_cryodrgn(stack, here, options.epochs, options.seed)
            net = result.every.minus(result.few)
            images = options.count * options.epochs
            figures = quality(result, stack)
            rows.append(
                [
                    result.program,
                    f"{images / net.wall:.1f}",
                    f"{images / net.cpu:.1f}",
                    f"{result.every.wall:.0f}",
                    f"{figures['pc1']:.3f}",
                    f"{figures['isomap']:.3f}",
                    f"{figures['difference_median']:.3f}",
                    f"{figures['difference_median_masked']:.3f}",
                    f"{result.every.peak_memory:.2f}",
                ]
            )
            record = {"program": result.program, "images_per_second": images / net.wall}
            record |= {"images_per_cpu_second": images / net.cpu, "all": result.every, "few": result.few}
            records.append(record | {"quality": figures})
            print(*rows[-1], sep="  ", flush=True)
    header = ["program", "images / s", "images / CPU s", "wall, s", "latent, PC1", "latent, 1-D Isomap"]
    header += ["difference maps", "same, masked", "peak memory, GiB"]
    text = measure.markdown_table(header, rows)
    text += (
        f"\n\nHinge (linear-1d), {options.count:,} images of {BOX}², SNR 0.1, {options.epochs} epochs, "
        f"{WIDTH} × 3 encoder and decoder, {LATENT} latent coordinates, batches of {BATCH}. "
        "Rates are net of start-up. Latent: |Spearman| with the "
        "true angle. Difference maps: median over the true states of the correlation of (decoded state − mean of the "
        "states) with the same of the truth, over all voxels and inside a mask around all states."
    )
    whole = options.only is None and options.epochs >= 19 and options.count >= 2000
    title = "Preset cryodrgn against cryodrgn train_vae"
    record = {"epochs": options.epochs, "count": options.count, "seed": options.seed, "runs": records}
    measure.report("cryodrgn_parity" if whole else "quick_cryodrgn_parity", title, text, record)


if __name__ == "__main__":
    main()
