"""The report says what moves, what says so, and what to type next; and plainly when nothing moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from frazil.config import JobConfig
from frazil.data.ensemble import save_ensemble
from frazil.engine.job import Job, open_job
from frazil.numerics.masks import soft_sphere
from frazil.physics.basis import BasisEnsemble
from frazil.physics.grid import Grid
from frazil.reconstruct.conformations import representatives, state_latents, told_share, typical_error
from frazil.reconstruct.ensemble_report import ensemble_sections, population_table

GRID = Grid(17, 4.0)
GAINS = "latent_coordinates,gain,error\n0,0,0\n1,{gain},0.1\n"


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """A job whose ensemble moves a ball along one latent coordinate; its halves differ by noise."""
    generator = torch.Generator().manual_seed(0)
    ball = soft_sphere(17, 3.0, 2.0)
    volumes = torch.stack((ball, (ball.roll(2, 2) - ball.roll(-2, 2)) / 2))
    with open_job("reconstruct", JobConfig(out=tmp_path / "a job", device="cpu"), [], "frazil reconstruct x") as opened:
        for folder in ("", "half_a", "half_b"):
            noise = 0.0 if not folder else 0.01 * torch.randn(volumes.shape, generator=generator)
            save_ensemble(opened.outputs / folder, BasisEnsemble(volumes + noise, GRID))
        rng = np.random.default_rng(0)
        np.save(opened.outputs / "latent.npy", rng.uniform(-1, 1, (200, 1)).astype(np.float32))
        np.save(opened.outputs / "latent_covariance.npy", np.full((200, 1, 1), 0.01, np.float32))
        np.save(opened.outputs / "contrast.npy", rng.normal(1, 0.1, 200).astype(np.float32))
        (opened.outputs / "latent_coordinates.csv").write_text(GAINS.format(gain=2.0))
        for step in (1, 2):
            opened.metric(step=step, stage="motion", resolution=9.0, evidence=1.0 * step)
        yield opened


def test_a_motion_is_shown_with_its_worth_its_choice_and_the_next_command(job: Job) -> None:
    sections, keys = ensemble_sections(job, seed=0)
    drawn = {name for section in sections for name in section.figures}
    conformations = {"conformation_surfaces", "conformation_sections", "latent_map", "conformation_fsc"}
    assert drawn == conformations | {"gains", "evidence", "contrast"}
    assert f"    frazil analyze '{job.folder}'" in sections[-1].text
    assert "Hardly anything" not in sections[0].text
    assert keys["latent coordinates"] == 1 and keys["coordinate 1 is known to"] == "97%"


def test_nothing_finer_than_what_was_learnt_is_compared(job: Job) -> None:
    sections, _ = ensemble_sections(job, seed=0)
    spec, _ = next(section.figures["conformation_fsc"] for section in sections if "conformation_fsc" in section.figures)
    # 17 voxels of 4 Å: 9 Å is shell 7.6
    assert {len(series["correlation"]) for series in spec["series"]} == {9}
    assert spec["series"][-1]["name"].startswith("change from 1 to")


def test_a_gain_that_is_next_to_nothing_is_called_that(job: Job) -> None:
    (job.outputs / "latent_coordinates.csv").write_text(GAINS.format(gain=0.002))
    assert "Hardly anything moves" in ensemble_sections(job, seed=0)[0][0].text


def test_latents_that_are_mostly_error_are_called_that(job: Job) -> None:
    np.save(job.outputs / "latent_covariance.npy", np.ones((200, 1, 1), np.float32))
    assert "Single images hardly say where they belong" in ensemble_sections(job, seed=0)[0][0].text


def test_states_are_told_with_their_populations_and_maps(job: Job) -> None:
    member = np.arange(200) % 4 > 0
    probability = np.stack((member, ~member, np.zeros(200)), axis=1).astype(np.float32)
    np.save(job.outputs / "component_probability.npy", probability)
    np.save(job.outputs / "latent.npy", np.where(member, 1.0, -1.0)[:, None].astype(np.float32))
    sections, keys = ensemble_sections(job, seed=0)
    header, *rows = sections[0].tables[0]
    assert [row[:4] for row in rows] == [
        (0, 150, "75.0%", "100%"),
        (1, 50, "25.0%", "100%"),
        ("1 other", 0, "0.0%", None),
    ]
    assert header[-1] == "resolution (FSC 0.143)"
    assert {"state_surfaces", "state_sections"} <= set(sections[0].figures)
    assert keys == {"states": 3, "particles placed with certainty": "100%"}


def test_an_ensemble_without_halves_is_shown_without_their_correlation(job: Job) -> None:
    (job.outputs / "half_b" / "ensemble.json").unlink()
    sections, keys = ensemble_sections(job, seed=0)
    assert not any("conformation_fsc" in section.figures for section in sections)
    assert "half-maps agree on what moves to (FSC 0.5)" not in keys


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_learning_curve_is_drawn_from_two_epochs_on(job: Job, epochs: int) -> None:
    for name in ("contrast.npy", "latent_coordinates.csv"):
        (job.outputs / name).unlink()
    lines = "".join(f'{{"epoch": {k}, "loss": 1.0}}\n' for k in range(epochs))
    (job.folder / "metrics.jsonl").write_text(lines)
    sections, _ = ensemble_sections(job, seed=0)
    assert any("learning_curve" in section.figures for section in sections) == (epochs > 1)


def test_the_page_of_a_job_holds_the_consensus_and_what_moves(run_frazil, small_stack: Path, tmp_path: Path) -> None:
    words = ("--latent-dim", 1, "--basis.model", "linear", "--basis.passes", 1, "--out", tmp_path / "job")
    assert run_frazil("reconstruct", small_stack, *words).code == 0
    page = (tmp_path / "job" / "report.html").read_text()
    for heading in ("What moves", "How many latent coordinates", "Learning", "Next", "The map", "Resolution", "Poses"):
        assert f"<h2>{heading}</h2>" in page
    assert f"<pre>frazil analyze {tmp_path / 'job'}</pre>" in page
    figures = tmp_path / "job" / "figures"
    for name in ("conformation_surfaces", "latent_map", "gains", "evidence", "map_surface", "fsc"):
        assert (figures / f"{name}.json").exists() and (figures / f"{name}.png").exists()
    assert np.load(tmp_path / "job" / "outputs" / "contrast.npy").shape == (80,)


def test_the_particles_shown_lie_where_others_do() -> None:
    """On a bow, the mean of all particles between two places lies off the bow; a particle in a dense place does not."""
    angle = np.random.default_rng(0).uniform(0, np.pi, 2000)
    bow = np.stack((np.cos(angle), np.sin(angle)), axis=1)
    bow[:20] = 0.3 * bow[:20]  # strays
    rows = representatives(bow)
    assert len(rows) == 5 and (rows >= 20).all()
    assert (np.diff(bow[rows, 0]) > 0).all()


def test_few_particles_are_shown_once_each() -> None:
    rows = representatives(np.array([[0.0], [1.0], [5.0]]))
    assert len(set(rows.tolist())) == len(rows) <= 3


def test_the_latent_of_a_state_follows_from_particles_that_may_be_in_several() -> None:
    rng = np.random.default_rng(0)
    truth, probability = rng.normal(size=(4, 3)), rng.dirichlet(np.full(4, 0.3), size=100)
    np.testing.assert_allclose(state_latents(probability @ truth, probability), truth, atol=1e-5)


def test_a_coordinate_is_known_as_far_as_its_spread_is_no_error() -> None:
    found = np.random.default_rng(0).normal(size=(100_000, 2)) * np.sqrt([3.0, 1.0])
    spread = np.broadcast_to(np.eye(2), (100_000, 2, 2))
    np.testing.assert_allclose(told_share(found, spread), [0.75, 0.5], atol=0.01)


def test_the_typical_error_is_that_of_a_particle() -> None:
    spread = np.array([np.diag([1.0, k]) for k in (9.0, 1.0, 4.0)])
    np.testing.assert_array_equal(typical_error(spread), np.diag([1.0, 4.0]))


def test_states_beyond_those_shown_are_summed_up() -> None:
    probability = np.eye(5)[np.repeat(np.arange(5), [10, 5, 3, 1, 1])]
    rows = population_table(probability, [0, 1, 2], [])
    assert rows[-1] == ("2 others", 2, "10.0%", None)
    assert rows[0][-1] == "mean probability of its particles"
