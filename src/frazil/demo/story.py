"""What the demo does, step by step, and the report that tells it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from frazil.data.truth import Truth, read_truth
from frazil.demo.steps import Steps
from frazil.engine.files import write_json
from frazil.errors import InputError

if TYPE_CHECKING:
    from frazil.demo import Config
    from frazil.engine.job import Job

# true states that are shown beside what was found
SHOWN_STATES = 5


def run_demo(config: Config, job: Job) -> None:
    """Run the simulated story, or the real one when there is data."""
    if config.data is None:
        run_hinge(config, job)
    else:
        run_real(config, job, config.data)


def run_hinge(config: Config, job: Job) -> None:
    """Simulate a hinge, reconstruct it, and say how well."""
    began = time.monotonic()
    steps = Steps(config, job, 6, [])
    seed = str(config.seed)
    simulated = steps.run(
        "simulate", "simulate", "particles", "--set", "linear-1d", "--count", str(config.count), "--box",
        str(config.box), "--pixel-size", f"{256 / config.box:g}", "--resolution", f"{1280 / config.box:g}",
        "--snr", "0.1", "--seed", seed,
    )  # fmt: skip
    particles = str(simulated / "outputs" / "particles.star")
    consensus = steps.run("consensus", "reconstruct", particles, "--seed", seed)
    coordinates = [] if config.latent_dim is None else ["--latent-dim", str(config.latent_dim)]
    ensemble = steps.run("ensemble", "reconstruct", particles, "--preset", "frazil", *coordinates, "--seed", seed)
    analysis = steps.run("analyze", "analyze", str(ensemble), "--seed", seed, "--umap", "never")
    truth = read_truth(simulated)
    rows = shown_rows(truth)
    decoded = steps.run("decode", "decode", str(ensemble), "--particles", ",".join(map(str, rows)))
    scores = steps.figures_of("evaluate", str(ensemble), "--truth", str(simulated), "--images", "20")
    write_json(job.outputs / "scores.json", scores)
    from frazil.demo.report import hinge_report

    folders = {"simulate": simulated, "consensus": consensus, "analyze": analysis, "decode": decoded}
    hinge_report(job, truth, shown_states(truth), folders, scores, steps.said)
    job.log("")
    job.made(job.folder / "report.html", good_line(scores), f"frazil reconstruct --help    # {_minutes(began)} in all")


def run_real(config: Config, job: Job, data: Path) -> None:
    """Reconstruct the apoferritin particles of EMPIAR-10146 that `data` holds."""
    began = time.monotonic()
    particles = data / "apoferritin" / "particles" / "particles.star"
    if not particles.exists():
        raise InputError(
            "there is no apoferritin/particles/particles.star",
            where=data,
            remedy="give the folder that holds apoferritin/, or leave --data out",
        )
    steps = Steps(config, job, 3, [])
    seed = str(config.seed)
    made = steps.run("reconstruct", "reconstruct", str(particles), "--symmetry", "O", "--seed", seed)
    analysis = steps.run("analyze", "analyze", str(made), "--seed", seed)
    scores: dict[str, Any] = {}
    reference = particles.with_name("map.mrc")
    if reference.exists():
        scores = steps.figures_of("evaluate", str(made), "--truth", str(reference))
    write_json(job.outputs / "scores.json", scores)
    from frazil.demo.report import real_report

    good = real_report(job, made, reference if reference.exists() else None, scores, steps.said)
    job.log("")
    job.made(job.folder / "report.html", good, f"chimerax {analysis / 'open.cxc'}    # {_minutes(began)} in all")


def shown_rows(truth: Truth) -> list[int]:
    """For a few true states, evenly along the motion, the particle whose true conformation is nearest."""
    if truth.latent is None or truth.volume_latents is None:
        raise InputError("the simulated truth has no latent coordinates", remedy="run the demo again with --again")
    states = shown_states(truth)
    away = np.linalg.norm(truth.latent[None] - truth.volume_latents[states][:, None], axis=-1)
    return [int(row) for row in away.argmin(axis=1)]


def shown_states(truth: Truth) -> list[int]:
    """The true states that the report shows, evenly along the motion."""
    count = len(truth.volumes)
    return sorted(set(np.linspace(0, count - 1, min(SHOWN_STATES, count)).round().astype(int).tolist()))


def good_line(scores: dict[str, Any]) -> str:
    """How good the demo's ensemble is, in one line."""
    parts = []
    latent = scores.get("latent", {})
    if "spearman_isomap" in latent:
        parts.append(f"order along the motion, against truth: |Spearman| {latent['spearman_isomap']:.3f}")
    difference = scores.get("states", {}).get("difference_map_correlation", {})
    if "median" in difference:
        parts.append(f"what moves, against truth: correlation {difference['median']:.2f}")
    return "; ".join(parts) or "see the report"


def _minutes(began: float) -> str:
    whole = round(time.monotonic() - began)
    return f"{whole // 60} min {whole % 60} s"
