"""What refinement gives back of what wrong poses and defoci take away, and what it does for real particles.

Images of a known molecule are reconstructed with their true poses and defoci; with rotations wrong by 5° (about a random
axis, root mean square), shifts wrong by one pixel and defoci by 300 Å; and with these refined. The figure is the share of
the lost area under the Fourier shell correlation with the truth that comes back. Real particles of apoferritin come with the
poses of RELION: what the half-maps say before and after refinement.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import measure
from measure import FRAZIL, REAL_DATA, Cost

ROUNDS = 12
DEGREES, PIXELS, DEFOCUS = 5.0, 1.0, 300.0


@dataclass(frozen=True)
class Case:
    """A set of images: which molecule, how many, and how noisy."""

    molecule: str
    count: int
    snr: float
    seed: int = 1

    @property
    def name(self) -> str:
        return f"{self.molecule}_{self.count}_{self.snr:g}"


@dataclass(frozen=True)
class Recovery:
    """What came of a case.

    Attributes:
        areas: under the FSC with the truth: true, disturbed and refined. share: of the loss that came back.
        disturbed, refined: errors of rotation, shift and defocus. cpu: seconds that refinement took.
    """

    case: Case
    areas: dict[str, float]
    share: float
    disturbed: dict[str, float]
    refined: dict[str, float]
    cpu: float


CASES = (
    Case("rigid", 5000, 0.1),
    Case("rigid", 5000, 0.03),
    Case("rigid", 1000, 0.1),
    Case("linear-1d", 5000, 0.1),
)


def simulate(case: Case, folder: Path) -> Path:
    """The images of a case, 64 pixels wide. Returns the STAR file."""
    out = folder / f"sim_{case.name}"
    words = ["simulate", "particles", "--set", case.molecule, "--count", case.count, "--box", 64, "--pixel-size", 4]
    words += ["--snr", case.snr, "--seed", case.seed, "--out", out]
    measure.run([FRAZIL, *map(str, words)], folder, folder / "simulate.log")
    return out / "outputs" / "particles.star"


def disturb(star: Path, out: Path) -> None:
    """The same particles with wrong poses and defoci."""
    import torch

    from frazil.data.stack import read_particles, write_particles_star
    from frazil.numerics.rotations import from_rotation_vector
    from frazil.physics.pose import Pose

    particles, generator = read_particles(star), torch.Generator().manual_seed(0)
    pose, optics, count = particles.pose, particles.optics, particles.count
    assert pose is not None and optics is not None
    vector = torch.randn(count, 3, generator=generator, dtype=torch.float64) * math.radians(DEGREES) / math.sqrt(3)
    rotation = (from_rotation_vector(vector) @ pose.rotation.double()).float()
    step = PIXELS * particles.grid.pixel_size / math.sqrt(2)
    shift = pose.shift + step * torch.randn(count, 2, generator=generator)
    more = DEFOCUS * torch.randn(count, generator=generator)
    wrong = dataclasses.replace(optics, defocus_u=optics.defocus_u + more, defocus_v=optics.defocus_v + more)
    write_particles_star(particles.given(pose=Pose(rotation, shift), optics=wrong), out)


def reconstruct(folder: Path, name: str, star: Path, *words: object) -> Cost:
    """`frazil reconstruct` into a folder of that name."""
    out = measure.fresh(folder / name)
    out.rmdir()
    command = [FRAZIL, "reconstruct", star, "--no-report", "--out", out, *map(str, words)]
    return measure.run(command, folder, folder / f"{name}.log")


def area(outputs: Path, truth: Path) -> float:
    """Mean correlation over all shells of the map of both halves with the truth."""
    from frazil.data.mrc import read_volume
    from frazil.numerics.shells import shell_correlation

    a, b = (read_volume(outputs / f"half_{half}.mrc")[0] for half in "ab")
    return float(shell_correlation(a + b, read_volume(truth)[0])[1:].mean())


def errors(outputs: Path, true: Path) -> dict[str, float]:
    """Medians of the errors of rotation (°) and shift (Å), and the root mean square of that of the defocus (Å)."""
    import torch

    from frazil.data.stack import read_particles
    from frazil.numerics.rotations import geodesic_angle

    found, known = read_particles(outputs / "particles.star"), read_particles(true)
    assert found.pose is not None and known.pose is not None and found.optics is not None and known.optics is not None
    angle = torch.rad2deg(geodesic_angle(found.pose.rotation, known.pose.rotation))
    shift = (found.pose.shift - known.pose.shift).norm(dim=1)
    defocus = (found.optics.defocus_u - known.optics.defocus_u).square().mean().sqrt()
    return {"rotation": float(angle.median()), "shift": float(shift.median()), "defocus": float(defocus)}


def recovered(case: Case, folder: Path) -> Recovery:
    """What a case loses by wrong poses and defoci, and gets back."""
    true = simulate(case, folder)
    wrong = true.parent / "disturbed.star"
    disturb(true, wrong)
    truth = true_map(true.parent / "truth" / "volumes", folder)
    costs = {
        "true": reconstruct(folder, f"true_{case.name}", true),
        "disturbed": reconstruct(folder, f"disturbed_{case.name}", wrong),
        "refined": reconstruct(folder, f"refined_{case.name}", wrong, "--refine.rounds", ROUNDS),
    }
    areas = {name: area(folder / f"{name}_{case.name}" / "outputs", truth) for name in costs}
    left = {name: errors(folder / f"{name}_{case.name}" / "outputs", true) for name in ("disturbed", "refined")}
    share = (areas["refined"] - areas["disturbed"]) / (areas["true"] - areas["disturbed"])
    cpu = costs["refined"].minus(costs["disturbed"]).cpu
    return Recovery(case, areas, share, left["disturbed"], left["refined"], cpu)


def true_map(volumes: Path, folder: Path) -> Path:
    """The one map of rigid images; the mean of those along a motion for images of it."""
    import torch

    from frazil.data.mrc import read_volume, write_volume

    files = sorted(volumes.glob("volume_*.mrc"))
    if len(files) == 1:
        return files[0]
    read = [read_volume(file) for file in files]
    write_volume(folder / "mean.mrc", torch.stack([volume for volume, _ in read]).mean(0), read[0][1].pixel_size)
    return folder / "mean.mrc"


def real(folder: Path) -> tuple[dict[str, dict[str, float]], float]:
    """Resolutions (Å) of apoferritin's half-maps and of the map against RELION's, with its poses and after refinement."""
    from apoferritin import agreement_with_map, half_map_figures

    source = REAL_DATA / "apoferritin" / "particles"
    if not (source / "particles.star").exists():
        sys.exit(f"no particles in {source}: set FRAZIL_DATA to the folder that holds apoferritin/")
    words: dict[str, tuple[object, ...]] = {"given": (), "refined": ("--refine.rounds", ROUNDS)}
    costs = {
        name: reconstruct(folder, f"apoferritin_{name}", source / "particles.star", "--symmetry", "O", *more)
        for name, more in words.items()
    }
    found: dict[str, dict[str, float]] = {}
    for name in words:
        outputs = folder / f"apoferritin_{name}" / "outputs"
        found[name] = half_map_figures(outputs / "half_a.mrc", outputs / "half_b.mrc")
        found[name]["with_relion"] = agreement_with_map(outputs / "consensus.mrc", source / "map.mrc", 7.0)[0]
    return found, costs["refined"].minus(costs["given"]).cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("simulated", "real"), help="leave out the other half")
    options = parser.parse_args()
    text, record = "", {}
    with tempfile.TemporaryDirectory(prefix="refinement-") as name:
        folder = Path(name)
        if options.only != "real":
            found = [recovered(case, folder) for case in CASES]
            text += simulated_text(found)
            record["simulated"] = [dataclasses.asdict(one) for one in found]
        if options.only != "simulated":
            maps, cpu = real(folder)
            text += real_text(maps, cpu)
            record["real"] = {"maps": maps, "cpu": cpu}
    measure.report("refinement", "Joint refinement of poses, defocus and scale", text.strip(), record)


def simulated_text(found: list[Recovery]) -> str:
    """The table of the simulated sets."""
    header = [
        "images",
        "SNR",
        "FSC area: true",
        "disturbed",
        "refined",
        "recovered",
        "rotation, °",
        "shift, Å",
        "defocus, Å",
    ]
    header.append("CPU s")

    def both(one: Recovery, name: str, digits: int) -> str:
        return f"{one.disturbed[name]:.{digits}f} → {one.refined[name]:.{digits}f}"

    rows = [
        [f"{one.case.count:,} {one.case.molecule}", f"{one.case.snr:g}"]
        + [f"{one.areas[name]:.3f}" for name in ("true", "disturbed", "refined")]
        + [f"{100 * one.share:.0f} %", both(one, "rotation", 2), both(one, "shift", 2), both(one, "defocus", 0)]
        + [f"{one.cpu:.0f}"]
        for one in found
    ]
    return (
        measure.markdown_table(header, rows)
        + f"\n\n64² images at 4 Å/px. Disturbed: {DEGREES:g}°, {PIXELS:g} pixel and {DEFOCUS:g} Å, root mean squares. FSC"
        " area: mean over shells of the correlation of both halves' map with the truth (of a motion, the mean of its maps)."
        " Errors: medians, of the defocus the root mean square. CPU seconds: those of refinement alone.\n\n"
    )


def real_text(maps: dict[str, dict[str, float]], cpu: float) -> str:
    """The table of the real particles."""
    header = ["poses", "unmasked 0.143, Å", "unmasked 0.5", "sphere 0.143", "sphere 0.5", "RELION's map at 0.95"]
    names = ("unmasked_0.143", "unmasked_0.5", "sphere_0.143", "sphere_0.5", "with_relion")
    rows = [
        [poses, *(f"{maps[key][name]:.2f}" for name in names)]
        for key, poses in (("given", "RELION's"), ("refined", "refined"))
    ]
    return (
        measure.markdown_table(header, rows)
        + "\n\nHalf-maps of 1,000 particles of apoferritin, 96² at 2.5 Å/px, symmetry O; sphere: of 75 Å radius. RELION's map"
        " is made with RELION's poses: where poses change, agreement with it falls."
        f" Refinement took {cpu:.0f} CPU seconds.\n"
    )


if __name__ == "__main__":
    main()
