"""The whole way, very small: simulate, reconstruct, analyze, decode, evaluate, and one report, as `frazil demo` does it."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from frazil.cli import main
from frazil.data.mrc import read_volume
from frazil.data.stack import read_particles

TINY = ("--count", "60", "--box", "16", "--latent-dim", "3", "--device", "cpu", "--threads", "1")


@pytest.fixture(scope="module", autouse=True)
def flat_surfaces() -> Iterator[None]:
    """Surfaces of a few pixels: what a surface looks like is tested elsewhere."""
    from frazil.figures import film, maps, strips

    def flat(*_: object, **__: object) -> np.ndarray:
        return np.ones((8, 8, 4))

    with pytest.MonkeyPatch.context() as patch:
        for module in (film, maps, strips):
            patch.setattr(module, "render_surface", flat)
        yield


def _run(*argv: str) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        return main(list(argv)), said.getvalue()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished demo and what it said."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    code, said = _run("demo", "--out", str(out), *TINY)
    assert code == 0, said
    return out, said


def test_every_step_is_told_as_a_command_and_leaves_a_job(demo: tuple[Path, str]) -> None:
    out, said = demo
    for number, verb in enumerate(("simulate", "reconstruct", "reconstruct", "analyze", "decode", "evaluate"), start=1):
        assert f"[{number}/6] frazil {verb} " in said
    for step in ("simulate", "consensus", "ensemble", "analyze", "decode"):
        assert json.loads((out / step / "status.json").read_text())["state"] == "finished"


def test_the_steps_fit_together(demo: tuple[Path, str]) -> None:
    out, _ = demo
    latent = np.load(out / "ensemble" / "outputs" / "latent.npy")
    assert latent.shape == (60, 3) and np.isfinite(latent).all()
    assert read_particles(out / "analyze" / "outputs" / "states.star").count == 60
    values, grid = read_volume(out / "decode" / "outputs" / "volumes" / "volume_000.mrc")
    assert grid.box_size == 16 and grid.pixel_size == 16.0 and np.isfinite(values.numpy()).all()


def test_the_report_shows_the_motion_the_truth_and_the_scores(demo: tuple[Path, str]) -> None:
    out, _ = demo
    page = (out / "report.html").read_text()
    for words in ("The motion", "Found and true", "The latent space", "Scores against the truth", "frazil simulate"):
        assert words in page
    assert "data:image/gif;base64," in page
    scores = json.loads((out / "outputs" / "scores.json").read_text())
    assert 0 <= scores["latent"]["spearman_isomap"] <= 1 and "consensus" in scores and "states" in scores


def test_the_closing_lines_say_how_good(demo: tuple[Path, str]) -> None:
    made, good, following = demo[1].splitlines()[-3:]
    assert made.startswith("made") and "report.html" in made
    assert "|Spearman|" in good and following.startswith("next  frazil")


def test_the_same_demo_again_is_already_done(demo: tuple[Path, str]) -> None:
    code, said = _run("demo", "--out", str(demo[0]), *TINY)
    assert code == 0 and "already done" in said


def test_a_stopped_demo_goes_on_and_repeats_no_finished_step(demo: tuple[Path, str]) -> None:
    out = demo[0]
    (out / "status.json").write_text(json.dumps({"verb": "demo", "state": "interrupted"}))
    (out / "report.html").unlink()
    code, said = _run("demo", "--out", str(out), *TINY)
    assert code == 0 and "going on with" in said
    assert said.count("already done") == 5
    assert (out / "report.html").exists()


def test_other_settings_do_not_overwrite_a_finished_demo(demo: tuple[Path, str]) -> None:
    code, said = _run("demo", "--out", str(demo[0]), *TINY, "--seed", "5")
    assert code == 2 and "with other settings" in said


def test_real_particles_are_reconstructed_with_their_symmetry(demo: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "data" / "apoferritin" / "particles"
    folder.mkdir(parents=True)
    for name in ("particles.star", "particles.mrcs"):
        shutil.copy(demo[0] / "simulate" / "outputs" / name, folder / name)
    shutil.copy(demo[0] / "consensus" / "outputs" / "consensus.mrc", folder / "map.mrc")
    out = tmp_path / "real"
    code, said = _run("demo", "--out", str(out), "--data", str(tmp_path / "data"), "--device", "cpu", "--threads", "1")
    assert code == 0, said
    assert "--symmetry O" in said and "to the published map" in (out / "figures" / "fsc.json").read_text()
    assert "between half-maps" in said


def test_a_data_folder_without_the_particles_is_refused(tmp_path: Path) -> None:
    code, said = _run("demo", "--out", str(tmp_path / "out"), "--data", str(tmp_path))
    assert code == 2
    assert f"{tmp_path}: there is no apoferritin/particles/particles.star. Give the folder" in said


def test_a_failing_step_ends_the_demo_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "out" / "simulate").mkdir(parents=True)
    (tmp_path / "out" / "simulate" / "outputs").mkdir()
    code, said = _run("demo", "--out", str(tmp_path / "out"), *TINY)
    assert code == 1
    assert "this folder has outputs but is no job" in said and "the step simulate of the demo failed" in said


def test_a_demo_stopped_in_a_step_is_interrupted_and_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import frazil.simulate

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(frazil.simulate, "run", stopped)
    code, said = _run("demo", "--out", str(tmp_path / "demo"), *TINY)
    assert code == 130 and "the same command goes on where it stopped" in said
    assert json.loads((tmp_path / "demo" / "status.json").read_text())["state"] == "interrupted"
