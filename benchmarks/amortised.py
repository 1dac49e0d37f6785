"""Do amortised poses come out right, and what do they cost? The preset `cryofire` and frazil's own variant on hinge images.

20,000 images of 32 pixels, poses unknown: median rotation error after global alignment, how many are within 20 degrees, the
error of shifts, images encoded per second, processor and wall seconds. A molecule that moves has no frame of its own: a pose
and a turn that goes with the conformation cannot be told apart by any image. So the error is also given with every true
state aligned for itself, and for the same molecule standing still (`--set rigid`). A run that reaches its limit of time stops
at its last whole step, and what its encoder says then is measured: unfinished runs are marked.

Results of sets and runs that are not asked for stay as they were.

    .venv/bin/python benchmarks/amortised.py [--count 20000] [--sets linear-1d rigid] [--runs variant cryofire] [--minutes 60]
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import measure
from frazil.data.stack import Particles, read_particles
from frazil.engine.checkpoint import load_checkpoint, part
from frazil.evaluate.poses import align_rotations, pose_errors, pose_figures
from frazil.numerics.rotations import geodesic_angle
from frazil.physics.pose import Pose
from frazil.reconstruct import Config
from frazil.reconstruct.amortised import AmortisedPoses
from frazil.reconstruct.coefficients import standardise
from frazil.reconstruct.found_poses import ROWS_AT_ONCE, make_density, make_encoder

RUNS = {
    "variant": (
        *("--poses", "amortised", "--amortised.epochs", "25", "--amortised.last-radius", "10"),
        *("--density", "basis"),
    ),
    "cryofire": ("--preset", "cryofire", "--latent-dim", "1"),
}
# degrees beyond which a pose is of another view rather than an inexact one
WRONG = 20.0


@dataclass(frozen=True)
class Spent:
    """Seconds of a command, and whether it came to its end."""

    wall: float
    cpu: float
    finished: bool


def run_for(command: list[str], limit: float, log: Path) -> Spent:
    """Run a command; after `limit` seconds ask it to stop and wait until it has written its checkpoint."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait()
            code = None
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    if code not in (0, None):
        raise RuntimeError(f"exit code {code}: {' '.join(command)}\n{log.read_text()[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(wall, cpu, code == 0)


def trained_task(job: Path, particles: Particles) -> tuple[AmortisedPoses, float]:
    """The encoder and density of a job's last checkpoint, and the images they have seen."""
    import tomllib

    config = Config.model_validate(tomllib.loads((job / "job.toml").read_text())["reconstruct"])
    images = standardise(particles, sign=1.0)
    latent_dim = (config.latent_dim or 0) if config.made_of == "field" else 0
    density, _ = make_density(config, images, latent_dim, "cpu")
    task = AmortisedPoses(images, particles.optics, make_encoder(config, images, latent_dim), density, config.amortised)
    tensors, state = load_checkpoint(job / "checkpoints" / "amortised.safetensors")
    for name, module in task.modules().items():
        module.load_state_dict(part(f"module/{name}", tensors))
    epochs = state["sampler"]["epoch"] + state["sampler"]["position"] / particles.count
    return task, epochs * particles.count


def encoded(task: AmortisedPoses, seen: float) -> tuple[Pose, float]:
    """The best guess of every particle, and images encoded per second: those of the network alone, on all threads."""
    found = [task.best(rows, seen)[0] for rows in torch.arange(len(task.images)).split(ROWS_AT_ONCE)]
    rows = torch.arange(min(2048, len(task.images)))
    images, transfer = task.batch(rows)
    layout = task.layout_after(seen)
    with torch.no_grad():
        task.guess(images, transfer, layout)
        start = time.perf_counter()
        for _ in range(3):
            task.guess(images, transfer, layout)
    rate = 3 * len(rows) / (time.perf_counter() - start)
    return Pose(torch.cat([one.rotation for one in found]), torch.cat([one.shift for one in found])), rate


def figures_of(pose: Pose, truth: Path, pixel_size: float) -> dict[str, float]:
    """Errors against the truth."""
    rotation, shift = (torch.from_numpy(np.load(truth / f"{name}.npy")) for name in ("rotation", "shift"))
    state = torch.from_numpy(np.load(truth / "state.npy"))
    figures = pose_figures(pose_errors(pose, Pose(rotation, shift)), pixel_size)
    angle = torch.rad2deg(
        geodesic_angle(align_rotations(pose.rotation, rotation).apply(pose.rotation), rotation.double())
    )
    own = torch.empty(len(state), dtype=torch.float64)
    for k in state.unique():
        rows = state == k
        aligned = align_rotations(pose.rotation[rows], rotation[rows]).apply(pose.rotation[rows])
        own[rows] = torch.rad2deg(geodesic_angle(aligned, rotation[rows].double()))
    return {
        "rotation_median": float(figures["rotation_error_median"]),
        "rotation_median_within_states": float(own.median()),
        "within_20_degrees": float((angle < WRONG).double().mean()),
        "shift_median_px": float(figures["shift_error_median_px"]),
    }


def measured(name: str, star: Path, folder: Path, minutes: float, more: list[str]) -> dict[str, float | str | bool]:
    """One run and its figures."""
    job = folder / name
    command = [str(measure.FRAZIL), "reconstruct", str(star), *RUNS[name], "--no-report", *more, "--out", str(job)]
    spent = run_for(command, 60 * minutes, folder / f"{name}.log")
    particles = read_particles(star)
    task, seen = trained_task(job, particles)
    pose, rate = encoded(task, seen)
    truth, pixel = star.parent / "truth", particles.grid.pixel_size
    result: dict[str, float | str | bool] = {"run": name, "finished": spent.finished, "images_seen": seen}
    result |= {f"encoder_{key}": value for key, value in figures_of(pose, truth, pixel).items()}
    if spent.finished:
        found = read_particles(job / "outputs" / "particles.star", need_images=False).pose
        assert found is not None
        result |= figures_of(found, truth, pixel)
    return result | {"encoded_per_second": rate, "wall_seconds": spent.wall, "cpu_seconds": spent.cpu}


def table(rows: list[dict[str, float | str | bool]]) -> str:
    """Lines of a table in Markdown."""
    names = ("set", "run", "finished", "images_seen", "encoder_rotation_median", "rotation_median",
             "rotation_median_within_states", "within_20_degrees", "shift_median_px", "encoded_per_second", "wall_seconds",
             "cpu_seconds")  # fmt: skip
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [row.get(name, "-") for name in names]
        shown = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Simulate, run, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--sets", nargs="+", default=["linear-1d", "rigid"])
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--minutes", type=float, default=60, help="wall minutes after which a run is stopped")
    parser.add_argument("--more", default="", help="further flags of frazil reconstruct")
    parser.add_argument("--keep", type=Path, help="folder for stacks and jobs, kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = options.keep or Path(temporary)
        rows = []
        for name in options.sets:
            folder = base / name
            folder.mkdir(parents=True, exist_ok=True)
            flags = ["--set", name, "--count", options.count, "--box", 32, "--pixel-size", 8, "--snr", options.snr]
            simulate = [
                measure.FRAZIL,
                "simulate",
                "particles",
                *map(str, flags),
                "--seed",
                "1",
                "--out",
                folder / "sim",
            ]
            measure.run(simulate, folder, folder / "sim.log")
            star = folder / "sim" / "outputs" / "particles.star"
            for run in options.runs:
                rows.append({"set": name} | measured(run, star, folder, options.minutes, options.more.split()))
                print(table(rows[-1:]), flush=True)
    measure.RESULTS.mkdir(exist_ok=True)
    kept = measure.RESULTS / "amortised.json"
    now = {(row["set"], row["run"]) for row in rows}
    before = json.loads(kept.read_text()) if kept.exists() else []
    rows = [row for row in before if (row["set"], row["run"]) not in now] + rows
    kept.write_text(json.dumps(rows, indent=2) + "\n")
    (measure.RESULTS / "amortised.md").write_text(table(rows))


if __name__ == "__main__":
    main()
