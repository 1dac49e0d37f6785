"""Do RELION and cryodrgn read what frazil writes, and mean the same by it?

frazil simulates a molecule without symmetry, reconstructs it, and exports. RELION then reconstructs from frazil's STAR
file and projects frazil's map with its poses; cryodrgn parses the STAR file and backprojects with frazil's pickles. A
wrong sign, axis or hand anywhere drops a correlation from nearly 1 to far below it; the mirrored map is compared too.

The other way round, cryodrgn trains a small network on the same images and frazil opens its run: decoded maps must be those
of cryodrgn's eval_vol. Paths through one table of latents must be those of its pc_traversal, graph_traversal and
direct_traversal, and the landscape of one set of maps that of its analyze_landscape.

    .venv/bin/python benchmarks/interoperability.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import measure
from measure import CRYODRGN, FRAZIL, RELION
from specimen import write_chain

BOX = 64
COUNT = 2000
PIXEL_SIZE = 4.0


@dataclass(frozen=True)
class Check:
    """One comparison: a figure and the least (or greatest) it may be."""

    name: str
    figure: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool:
        low = self.at_least is None or self.figure >= self.at_least
        return low and (self.at_most is None or self.figure <= self.at_most)

    def row(self) -> list[str]:
        bound = f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"
        return [self.name, f"{self.figure:.6f}", bound, "yes" if self.holds else "NO"]


def prepare(folder: Path) -> Path:
    """Simulate without noise, reconstruct, and export. Returns the folder of frazil's reconstruction outputs."""
    chain = write_chain(folder / "chain.pdb", diameter=150.0)
    words = f"simulate particles --atoms {chain} --count {COUNT} --box {BOX} --pixel-size {PIXEL_SIZE} --resolution 16"
    words += f" --snr 1 --b-factor 0 --seed 3 --out {folder / 'simulated'}"
    measure.run([FRAZIL, *words.split()], folder, folder / "simulate.log")
    star = folder / "simulated" / "outputs" / "particles.star"
    made = ["reconstruct", star, "--no-report", "--out", folder / "made"]
    measure.run([FRAZIL, *made], folder, folder / "reconstruct.log")
    outputs = folder / "made" / "outputs"
    for kind in ("cryodrgn", "relion"):
        words = ["export", outputs / "particles.star", "--to", kind, "--out", folder / kind]
        measure.run([FRAZIL, *words], folder, folder / f"export_{kind}.log")
    return outputs


def mean_correlation(outputs: Path, other: Path, *, mirrored: bool = False) -> float:
    """Mean FSC of frazil's unfiltered map (its half-maps together) and another, out to two thirds of Nyquist.

    The other one is seen in a mirror (x turned round) if asked."""
    from frazil.data.mrc import read_volume
    from frazil.numerics.shells import shell_correlation

    ours = read_volume(outputs / "half_a.mrc")[0] + read_volume(outputs / "half_b.mrc")[0]
    theirs = read_volume(other)[0]
    if mirrored:
        # about the centre n // 2, so the first plane stays where it is
        theirs = theirs.flip(-1).roll(1, dims=-1)
    return float(shell_correlation(ours, theirs)[1 : BOX // 3].mean())


def relion_reconstructs(star: Path, outputs: Path, folder: Path) -> list[Check]:
    """RELION's reconstruction from frazil's STAR file against frazil's."""
    words = ["--i", star.name, "--o", folder / "relion.mrc", "--ctf"]
    measure.run([RELION / "relion_reconstruct", *words], star.parent, folder / "relion_reconstruct.log")
    theirs = folder / "relion.mrc"
    name = "relion_reconstruct of our star against our map, FSC"
    return [
        Check(name, mean_correlation(outputs, theirs), 0.99),
        Check("the same, mirrored", mean_correlation(outputs, theirs, mirrored=True), at_most=0.5),
    ]


def relion_projects(star: Path, outputs: Path, folder: Path) -> list[Check]:
    """RELION's projections of frazil's map at frazil's poses, with CTF, against frazil's own."""
    import torch

    from frazil.data.mrc import read_volume
    from frazil.data.stack import read_particles
    from frazil.numerics.fourier import images_to_coefficients
    from frazil.physics.density import Voxels

    few = measure.first_rows(star, 20, star.parent / "twenty.star")
    words = ["--i", outputs / "consensus.mrc", "--ang", few.name, "--o", folder / "projected", "--ctf"]
    measure.run([RELION / "relion_project", *words], few.parent, folder / "relion_project.log")
    particles = read_particles(few)
    if particles.pose is None or particles.optics is None:
        sys.exit("frazil read no poses or optics from its own STAR file")
    values, grid = read_volume(outputs / "consensus.mrc")
    layout = grid.half_plane(BOX // 3)
    ours = Voxels(values, grid).project(particles.pose.to(torch.float32), grid, layout)
    ours = ours * particles.optics.ctf(grid, layout)
    theirs = images_to_coefficients(read_stack(folder / "projected.mrcs"), layout)
    weight = layout.weight
    cross = ((ours * theirs.conj()).real * weight).sum(-1)
    norm = ((ours.abs() ** 2 * weight).sum(-1) * (theirs.abs() ** 2 * weight).sum(-1)).sqrt()
    return [
        Check("relion_project of our map against our projections, least correlation", float((cross / norm).min()), 0.98)
    ]


def read_stack(path: Path):
    """All images of an MRC stack, (count, n, n)."""
    import torch

    from frazil.data.mrc import read_array

    return torch.from_numpy(np.array(read_array(path)[0], dtype=np.float32))


def cryodrgn_reads(star: Path, outputs: Path, folder: Path) -> list[Check]:
    """cryodrgn's reading of frazil's STAR file against frazil's pickles, and its map made from those pickles."""
    from frazil.data.cryodrgn import read_pickle

    for kind, extra in (("pose", []), ("ctf", ["--ps", "0"])):
        words = [f"parse_{kind}_star", star.name, "-o", folder / f"their_{kind}.pkl", "-D", str(BOX), *extra]
        measure.run([CRYODRGN, *words], star.parent, folder / f"parse_{kind}.log")

    def arrays(path: Path) -> list[np.ndarray]:
        value = read_pickle(path)[0]
        return [np.asarray(part) for part in (value if isinstance(value, (tuple, list)) else [value])]

    checks = []
    for kind, allowed in (("pose", 1e-5), ("ctf", 1e-3)):
        mine = next((folder / "cryodrgn").rglob(f"{kind}.pkl"))
        pairs = zip(arrays(mine), arrays(folder / f"their_{kind}.pkl"), strict=True)
        worst = max(float(np.abs(a - b).max()) for a, b in pairs)
        checks.append(
            Check(
                f"our {kind}.pkl against cryodrgn parse_{kind}_star of our star, largest difference",
                worst,
                None,
                allowed,
            )
        )
    words = [star.name, "--poses", next((folder / "cryodrgn").rglob("pose.pkl")), "-o", folder / "backprojected"]
    words += ["--ctf", next((folder / "cryodrgn").rglob("ctf.pkl")), "--datadir", star.parent]
    measure.run([CRYODRGN, "backproject_voxel", *words], star.parent, folder / "backproject.log")
    theirs = folder / "backprojected" / "backproject.mrc"
    checks.append(
        Check(
            "cryodrgn backproject_voxel with our pickles against our map, FSC", mean_correlation(outputs, theirs), 0.95
        )
    )
    checks.append(Check("the same, mirrored", mean_correlation(outputs, theirs, mirrored=True), None, 0.7))
    return checks


def latent_table(folder: Path) -> tuple[np.ndarray, Path]:
    """A cloud of 3,600 latents in three dimensions, densely on a curved sheet so that its graph is in one piece."""
    from frazil.data.cryodrgn import write_latent

    generator = np.random.default_rng(0)
    u, v = (axis.ravel() for axis in np.meshgrid(np.linspace(-3, 3, 80), np.linspace(-1.5, 1.5, 45), indexing="ij"))
    u, v = (axis + generator.normal(size=len(axis)) * 0.008 for axis in (u, v))
    latent = np.stack([u, v, 0.3 * u * u], axis=1).astype(np.float32)
    write_latent(folder / "z.pkl", latent)
    return latent, folder / "z.pkl"


def cryodrgn_walks(folder: Path) -> list[Check]:
    """cryodrgn's paths through a latent table against frazil's."""
    from frazil.analyze.components import principal_components
    from frazil.analyze.trajectories import direct_path, graph_path

    latent, path = latent_table(folder)
    anchors = [int(np.abs(latent[:, :2] - point).sum(axis=1).argmin()) for point in ((-2, -1), (0, 1), (2, -1))]
    words = [str(anchor) for anchor in anchors]
    lines = {name: folder / "paths" / f"{name}.txt" for name in ("graph", "rows", "direct")}
    graph = ["graph_traversal", path, "--anchors", *words, "-o", lines["graph"], "--outind", lines["rows"]]
    measure.run([CRYODRGN, *graph], folder, folder / "graph_traversal.log")
    direct = ["direct_traversal", path, "--anchors", *words, "-o", lines["direct"]]
    measure.run([CRYODRGN, *direct], folder, folder / "direct_traversal.log")
    measure.run([CRYODRGN, "pc_traversal", path, "-o", folder / "components"], folder, folder / "pc_traversal.log")
    ours = graph_path(latent, anchors)
    theirs = np.loadtxt(lines["rows"]).astype(int)
    same = float(len(ours) == len(theirs) and bool((ours == theirs).all()))
    straight = float(np.abs(np.loadtxt(lines["direct"]) - direct_path(latent[anchors], 6)).max())
    components = principal_components(latent)
    worst = 0.0
    for k in range(3):
        found, known = components.along(k, 10), np.loadtxt(folder / "components" / f"pc{k + 1}.txt")
        # the sign of a component is nobody's choice: the path may be walked from its other end
        worst = max(worst, min(float(np.abs(found - known).max()), float(np.abs(found[::-1] - known).max())))
    return [
        Check(f"graph_traversal: the same {len(ours)} particles (1: yes)", same, 1.0),
        Check("direct_traversal: largest difference of a point", straight, None, 1e-5),
        Check("pc_traversal: largest difference of a point", worst, None, 1e-4),
    ]


def cryodrgn_run_opens(star: Path, folder: Path) -> list[Check]:
    """Maps that frazil decodes from a run of cryodrgn against those of eval_vol, in both domains."""
    import torch

    from frazil.data.cryodrgn import write_indices
    from frazil.data.cryodrgn_run import open_cryodrgn_run
    from frazil.data.mrc import read_volume
    from frazil.numerics.shells import shell_correlation

    points = np.array([[0.3, -0.8], [-1.0, 0.5], [0.0, 0.0]])
    np.savetxt(folder / "points.txt", points)
    write_indices(folder / "fifty.pkl", np.arange(50))
    pose, ctf = (next((folder / "cryodrgn").rglob(f"{kind}.pkl")) for kind in ("pose", "ctf"))
    words = [
        star.name,
        "--datadir",
        star.parent,
        "--poses",
        pose,
        "--ctf",
        ctf,
        "--zdim",
        "2",
        "-n",
        "1",
        "--no-analysis",
    ]
    words += ["--enc-dim", "32", "--enc-layers", "2", "--dec-dim", "48", "--dec-layers", "3", "--num-workers", "0"]
    words += ["--ind", folder / "fifty.pkl"]
    checks = []
    for domain in ("fourier", "hartley"):
        run, maps = folder / f"run_{domain}", folder / f"maps_{domain}"
        train = ["train_vae", *words, "--domain", domain, "-o", run]
        measure.run([CRYODRGN, *train], star.parent, folder / f"train_{domain}.log")
        weights = next(iter(sorted(run.glob("weights.*.pkl"))))
        decode = ["eval_vol", weights, "-c", run / "config.yaml", "--zfile", folder / "points.txt", "-o", maps]
        measure.run([CRYODRGN, *decode, "--Apix", str(PIXEL_SIZE)], star.parent, folder / f"eval_{domain}.log")
        ensemble = open_cryodrgn_run(run).ensemble()
        least, scale = 1.0, []
        for point, path in zip(points, sorted(maps.glob("*.mrc")), strict=True):
            ours = ensemble.density(torch.from_numpy(point).float()).voxels(ensemble.grid)
            theirs = read_volume(path)[0]
            least = min(least, float(shell_correlation(ours, theirs)[1 : BOX // 2 - 1].min()))
            scale.append(float((ours * theirs).sum() / (ours * ours).sum()))
        checks.append(Check(f"our maps of a {domain} run against eval_vol, least FSC of a shell", least, 0.99))
        checks.append(Check(f"the same, scale (ours times this), least of {len(scale)}", min(scale), 0.99))
    return checks


def cryodrgn_landscape(folder: Path) -> list[Check]:
    """Mask, components, clusters and state means of cryodrgn's analyze_landscape against ours of the same maps."""
    from sklearn.metrics import adjusted_rand_score

    from frazil.analyze.landscape import explore, landscape_mask, state_maps
    from frazil.data.cryodrgn import read_pickle, write_latent
    from frazil.data.mrc import read_volume

    count, states, out = 20, 4, folder / "landscape"
    out.mkdir()
    write_latent(out / "umap.pkl", np.zeros((50, 2), np.float32))  # its figures ask for one
    words = ["analyze_landscape", folder / "run_fourier", "1", "-N", str(count), "--Apix", str(PIXEL_SIZE), "-o", out]
    words += ["-d", str(BOX // 2), "-M", str(states), "--skip-umap"]
    measure.run([CRYODRGN, *words], folder, folder / "landscape.log")
    made = out / f"kmeans{count}"
    read = [read_volume(made / f"vol_{i:03d}.mrc") for i in range(1, count + 1)]
    volumes = np.stack([volume.numpy() for volume, _ in read])
    mask = landscape_mask(volumes, read[0][1].pixel_size)
    differing = float((mask != (read_volume(out / "mask.mrc")[0].numpy() > 0)).sum())
    labels = np.asarray(read_pickle(made / "labels.pkl")[0]).astype(int)
    ours = explore(volumes, mask, np.bincount(labels - labels.min(), minlength=count), 20, states, seed=0)
    theirs = np.asarray(read_pickle(out / f"vol_pca_{count}.pkl")[0])[:, 0]
    place = float(np.abs(np.abs(theirs) - np.abs(ours.coordinates[:, 0])).max() / np.abs(theirs).max())
    sketch = out / f"sketch_clustering_average_{states}"
    cluster = np.asarray(read_pickle(sketch / "state_labels.pkl")[0])
    worst = 0.0
    for k, (mean, _) in enumerate(state_maps(volumes, ours)):
        number = int(cluster[np.flatnonzero(ours.state == k)[0]]) - int(cluster.min()) + 1
        other = read_volume(sketch / f"state_{number:03d}_mean.mrc")[0].numpy()
        worst = max(worst, float(np.abs(mean - other).max() / np.abs(other).max()))
    return [
        Check("analyze_landscape: voxels in which the masks differ", differing, None, 0.0),
        Check("the same, first coordinate of the maps, largest relative difference", place, None, 1e-4),
        Check(
            "the same, clusters of the maps, adjusted Rand index", float(adjusted_rand_score(cluster, ours.state)), 1.0
        ),
        Check("the same, mean map of a cluster, largest relative difference", worst, None, 1e-5),
    ]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    measure.require_peers()
    with tempfile.TemporaryDirectory(prefix="interoperability-") as name:
        folder = Path(name)
        outputs = prepare(folder)
        star = outputs / "particles.star"
        checks = [
            *relion_reconstructs(star, outputs, folder),
            *relion_projects(star, outputs, folder),
            *cryodrgn_reads(star, outputs, folder),
            *cryodrgn_walks(folder),
            *cryodrgn_run_opens(star, folder),
            *cryodrgn_landscape(folder),
        ]
    text = measure.markdown_table(["check", "figure", "must be", "holds"], [check.row() for check in checks])
    text += f"\n\n{COUNT:,} images of {BOX}² of a molecule without symmetry, SNR 1. "
    text += "FSC: mean over shells to two thirds of Nyquist."
    record = {"checks": [{"name": check.name, "figure": check.figure, "holds": check.holds} for check in checks]}
    measure.report("interoperability", "Files that RELION and cryodrgn read", text, record)
    if not all(check.holds for check in checks):
        sys.exit(1)


if __name__ == "__main__":
    main()
