"""`frazil analyze`: states, maps, tables and a report that all belong together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from frazil.analyze import analyze_job, pictures
from frazil.analyze.components import umap_plane
from frazil.cli import main
from frazil.data.mrc import read_volume
from frazil.data.stack import read_particles
from frazil.figures import raymarch

SMALL = ("--clusters", "3", "--steps", "3", "--components", "1", "--umap", "never", "--device", "cpu")


def _analyze(job: Path, out: Path, *flags: str) -> int:
    return main(["analyze", str(job), "--out", str(out), *flags])


@pytest.mark.usefixtures("fast_pictures")
def test_states_maps_and_report_belong_together(ensemble_job: Path, straight, tmp_path: Path, capsys) -> None:
    out = tmp_path / "analysis"
    assert _analyze(ensemble_job, out, *SMALL) == 0
    outputs = out / "outputs"
    particles = read_particles(outputs / "states.star", need_images=False)
    block = particles.table["particles"]
    state, mine = block.integers("frazilState"), block.integers("rlnMyOwnColumn").tolist()
    assert mine == list(range(0, 120, 2)), "every input column is kept, in the order of the input"
    for k in range(3):
        subset = read_particles(outputs / "states" / f"state_{k:03d}.star")  # images are found from there too
        assert subset.count == (state == k).sum() > 0
        assert torch.isfinite(subset.images(slice(0, 1))).all()
    centres = np.load(outputs / "centres.npy")
    latent = np.load(ensemble_job / "outputs" / "latent.npy")
    for k, centre in enumerate(centres):
        assert (latent == centre).all(axis=1).any(), "a centre is a particle"
        expected = straight.density(torch.from_numpy(centre)).voxels(straight.grid)
        torch.testing.assert_close(read_volume(outputs / "volumes" / f"state_{k:03d}.mrc")[0], expected)
    assert sorted(p.name for p in (outputs / "volumes").glob("pc*")) == ["pc1_000.mrc", "pc1_001.mrc", "pc1_002.mrc"]
    coordinates = np.load(outputs / "pca.npy")
    assert coordinates.shape == (60, 3) and coordinates[state == 0, 0].mean() < coordinates[state == 2, 0].mean()
    page = (out / "report.html").read_text()
    assert "Motion along PC 1" in page and "data:image/png;base64," in page and "http" not in page.split("<body")[1]
    for name in ("latent_pca", "pc1_sections", "state_surfaces", "state_counts", "fsc", "learning_curve"):
        assert (out / "figures" / f"{name}.png").exists()
        json.loads((out / "figures" / f"{name}.json").read_text())
    volumes = [read_volume(path)[0] for path in sorted((outputs / "volumes").glob("state_*.mrc"))]
    level = json.loads((out / "figures" / "state_surfaces.json").read_text())["level"]
    assert level == pytest.approx(float(np.median([raymarch.contour_level(volume) for volume in volumes])))
    assert (out / "figures" / "motion_along_PC_1.gif").exists()
    script = (out / "open.cxc").read_text()
    assert "open outputs/volumes/state_002.mrc id 3" in script and "vseries true id 4" in script
    made, good, following = capsys.readouterr().out.splitlines()[-3:]
    assert "report.html" in made and "3 states of" in good and "chimerax" in following


@pytest.mark.usefixtures("fast_pictures")
def test_flags_change_what_they_say(ensemble_job: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    flags = ("--clusters", "2", "--components", "2", "--steps", "2", "--box", "8", "--level", "0.6", "--seed", "3")
    assert _analyze(ensemble_job, out, *flags, "--umap", "never", "--device", "cpu", "--threads", "1") == 0
    volumes = out / "outputs" / "volumes"
    assert len(list(volumes.iterdir())) == 2 + 2 * 2
    assert read_volume(volumes / "pc2_001.mrc")[1].pixel_size == 6.0
    assert "level 0.6 " in (out / "open.cxc").read_text()
    assert json.loads((out / "figures" / "state_surfaces.json").read_text())["level"] == 0.6


@pytest.mark.parametrize(("flag", "dimensions", "wanted"), [
    ("auto", 2, False), ("auto", 3, True), ("always", 2, True), ("never", 8, False),
])  # fmt: skip
def test_umap_is_made_of_three_coordinates_and_more_unless_told(flag: str, dimensions: int, wanted: bool) -> None:
    from frazil.analyze import Config

    assert analyze_job._wants_umap(Config(job=Path("x"), umap=flag), dimensions) is wanted  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.usefixtures("fast_pictures")
def test_umap_separates_what_is_apart_and_repeats(ensemble_job: Path, tmp_path: Path) -> None:
    latent = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    latent[30:] += 40
    np.save(ensemble_job / "outputs" / "latent.npy", latent)
    assert _analyze(ensemble_job, tmp_path / "a", "--clusters", "2", "--components", "0", "--umap", "always") == 0
    first = np.load(tmp_path / "a" / "outputs" / "umap.npy")
    np.testing.assert_array_equal(first, umap_plane(latent, seed=0))
    near = np.linalg.norm(first[:30] - first[:30].mean(0), axis=1).max()
    assert np.linalg.norm(first[:30].mean(0) - first[30:].mean(0)) > near
    assert (tmp_path / "a" / "figures" / "latent_umap.png").exists()


@pytest.mark.usefixtures("fast_pictures")
def test_a_rigid_job_gets_a_report_of_its_map(rigid_job: Path, tmp_path: Path, capsys) -> None:
    assert _analyze(rigid_job, tmp_path / "a", "--level", "0.5") == 0
    figures = {path.stem for path in (tmp_path / "a" / "figures").glob("*.png")}
    assert figures == {
        "map_surface",
        "map_sections",
        "map_projections",
        "fsc",
        "guinier",
        "viewing_directions",
        "shifts",
    }
    script = (tmp_path / "a" / "open.cxc").read_text()
    assert "open ../consensus/outputs/consensus_sharpened.mrc id 1" in script
    assert "good" in capsys.readouterr().out


@pytest.mark.usefixtures("fast_pictures")
def test_a_nan_latent_costs_one_particle(ensemble_job: Path, tmp_path: Path) -> None:
    latent = np.load(ensemble_job / "outputs" / "latent.npy")
    latent[11] = np.nan
    np.save(ensemble_job / "outputs" / "latent.npy", latent)
    assert _analyze(ensemble_job, tmp_path / "a", *SMALL) == 0
    table = read_particles(tmp_path / "a" / "outputs" / "states.star", need_images=False).table
    assert table["particles"].integers("frazilState")[11] == -1
    assert "1 particles have no finite latent" in (tmp_path / "a" / "report.html").read_text()


def test_latents_that_do_not_belong_are_refused(ensemble_job: Path, tmp_path: Path, capsys) -> None:
    outputs = ensemble_job / "outputs"
    (outputs / "latent_covariance.npy").unlink()
    np.save(outputs / "latent.npy", np.random.default_rng(0).normal(size=(60, 2)))
    assert _analyze(ensemble_job, tmp_path / "a", *SMALL) == 2
    assert "latent.npy has 2 coordinates, the ensemble has 3" in capsys.readouterr().err
    np.save(outputs / "latent.npy", np.random.default_rng(0).normal(size=(59, 3)))
    assert _analyze(ensemble_job, tmp_path / "b", *SMALL) == 2
    assert "60 particles, but latent.npy has 59 rows" in capsys.readouterr().err


def test_too_many_clusters_and_impossible_flags_are_refused(ensemble_job: Path, tmp_path: Path, capsys) -> None:
    assert _analyze(ensemble_job, tmp_path / "a", "--clusters", "61") == 2
    assert "--clusters: 61 clusters were asked of 60 different latent coordinates" in capsys.readouterr().err
    for flag in (("--clusters", "0"), ("--steps", "1"), ("--components", "-1"), ("--umap", "maybe"), ("--box", "99")):
        assert _analyze(ensemble_job, tmp_path / "b", *flag) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_job_with_nothing_to_show_is_refused(rigid_job: Path, tmp_path: Path, capsys) -> None:
    for path in (rigid_job / "outputs").glob("consensus*.mrc"):
        path.unlink()
    assert _analyze(rigid_job, tmp_path / "a") == 2
    assert "this job has neither an ensemble nor a consensus map" in capsys.readouterr().err


def test_the_uncertainty_is_told_as_a_share_of_the_spread(ensemble_job: Path) -> None:
    from frazil.analyze.components import principal_components
    from frazil.analyze.reconstruction import read_reconstruction

    found = read_reconstruction(ensemble_job)
    assert found.latent is not None
    components = principal_components(found.latent)
    share = 0.2 / np.std(components.coordinates[:, 0])  # the covariance is 0.04 in every direction
    assert f"is {share:.0%} of the spread" in pictures._uncertainty(found, components)
