"""From a simulated stack to conformations and back to the truth, every command by its flags."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from frazil.cli import main

PIXEL = 8.0
TRAINING = [
    *("--preset", "cryodrgn", "--latent-dim", "2", "--density", "field", "--poses", "given"),
    *("--train.epochs", "2", "--train.batch-size", "10", "--train.accumulate", "2", "--train.checkpoint-every", "2"),
    *("--train.encoder", "mlp", "--train.encoder-width", "12", "--train.encoder-layers", "1"),
    *("--train.width", "12", "--train.layers", "1", "--train.domain", "hartley", "--train.box", "16"),
    *("--train.encoding", "geom_lowf", "--train.encoding-features", "4", "--train.encoding-sigma", "0.4"),
    *("--train.window-inner", "0.8", "--train.window-outer", "0.95", "--train.coefficients", "0.5"),
    *("--train.learning-rate", "1e-3", "--train.beta", "0.1", "--train.beta-control", "0.5"),
    *("--train.refine-poses", "--train.pose-pretrain", "1", "--train.pose-learning-rate", "1e-4"),
    *("--train.precision", "float32"),
]


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the jobs `sim` and `rec`."""
    folder = tmp_path_factory.mktemp("whole-way")
    simulated = [
        "--set",
        "linear-1d",
        "--count",
        "40",
        "--box",
        "20",
        "--pixel-size",
        "8",
        "--snr",
        "0.5",
        "--seed",
        "1",
    ]
    assert main(["simulate", "particles", *simulated, "--out", str(folder / "sim")]) == 0
    star = str(folder / "sim/outputs/particles.star")
    assert main(["reconstruct", star, *TRAINING, "--no-report", "--out", str(folder / "rec"), "--threads", "1"]) == 0
    return folder


def test_the_training_did_what_its_flags_say(way: Path) -> None:
    latent = np.load(way / "rec/outputs/latent.npy")
    assert latent.shape == (40, 2) and np.isfinite(latent).all()
    lines = [json.loads(line) for line in (way / "rec/metrics.jsonl").read_text().splitlines()]
    assert max(line.get("step", 0) for line in lines) == 4  # 40 particles, 2 batches of 10 per step, 2 epochs
    assert "million weights" in (way / "rec/log.txt").read_text()


@pytest.mark.parametrize("verb", ["analyze", "decode"])
def test_pixel_size_survives_every_command(run_frazil: Callable, way: Path, tmp_path: Path, verb: str) -> None:
    flags = {
        "analyze": [
            "--clusters",
            "3",
            "--components",
            "1",
            "--steps",
            "2",
            "--umap",
            "never",
            "--level",
            "0.01",
            "--box",
            "10",
        ],
        "decode": ["--particles", "0,3", "--box", "10"],
    }[verb]
    ended = run_frazil(verb, way / "rec", *flags, "--out", tmp_path / "job")
    assert ended.code == 0, ended.stderr
    maps = sorted((tmp_path / "job/outputs").rglob("*.mrc"))
    assert len(maps) == {"analyze": 5, "decode": 2}[verb]
    for path in maps:
        with mrcfile.open(path) as file:
            assert file.data.shape == (10, 10, 10)
            assert float(file.voxel_size.x) * 10 == pytest.approx(PIXEL * 20)


def test_evaluate_takes_a_mask_and_a_symmetry(run_frazil: Callable, way: Path) -> None:
    mask = way / "rec/outputs/mask.mrc"
    flags = ["--truth", way / "sim", "--mask", mask, "--symmetry", "C2", "--images", "2", "--json"]
    ended = run_frazil("evaluate", way / "rec", *flags)
    assert ended.code == 0, ended.stderr
    figures = json.loads(ended.stdout)
    assert figures["particles"]["count"] == 40
    assert figures["poses"]["rotation_error_median"] < 5  # the poses were given, and hardly refined
