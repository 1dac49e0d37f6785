"""`frazil analyze`: every choice beyond the plain command changes what it says, and refuses what it cannot do."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from frazil.cli import main
from frazil.data.mrc import read_volume, write_volume
from frazil.data.stack import read_particles
from frazil.physics.grid import Grid

PLAIN = ("--clusters", "3", "--components", "0", "--umap", "never", "--device", "cpu")


def _analyze(job: Path, out: Path, *flags: str) -> int:
    return main(["analyze", str(job), "--out", str(out), *PLAIN, *flags])


def _states(out: Path) -> np.ndarray:
    table = read_particles(out / "outputs" / "states.star", need_images=False).table
    return table["particles"].integers("frazilState")


@pytest.mark.usefixtures("fast_pictures")
def test_a_mixture_and_communities_find_states_of_their_own(ensemble_job: Path, tmp_path: Path) -> None:
    latent = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32) * 0.1
    latent[20:40, 0] += 5
    latent[40:, 0] += 10
    np.save(ensemble_job / "outputs" / "latent.npy", latent)
    assert _analyze(ensemble_job, tmp_path / "gmm", "--method", "gmm") == 0
    np.testing.assert_array_equal(_states(tmp_path / "gmm"), np.repeat([0, 1, 2], 20))
    share = np.load(tmp_path / "gmm" / "outputs" / "state_probability.npy")
    assert share.shape == (60, 3) and share.min() >= 0
    assert "A mixture of 3 Gaussians, numbered" in (tmp_path / "gmm" / "report.html").read_text()
    pytest.importorskip("graspologic_native")
    plain = [flag for flag in PLAIN if flag not in ("--clusters", "3")]
    flags = ["--out", str(tmp_path / "leiden"), *plain, "--method", "leiden", "--resolution", "0.05"]
    assert main(["analyze", str(ensemble_job), *flags]) == 0
    np.testing.assert_array_equal(_states(tmp_path / "leiden"), np.repeat([0, 1, 2], 20))


@pytest.mark.usefixtures("fast_pictures")
def test_states_that_the_job_has_learnt_are_taken_unless_others_are_asked_for(ensemble_job, tmp_path) -> None:
    latent = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    member = np.arange(60) % 3
    np.save(ensemble_job / "outputs" / "latent.npy", latent)
    np.save(ensemble_job / "outputs" / "component_probability.npy", np.eye(4, dtype=np.float32)[member])
    plain = [flag for flag in PLAIN if flag not in ("--clusters", "3")]
    assert main(["analyze", str(ensemble_job), "--out", str(tmp_path / "learnt"), *plain]) == 0
    np.testing.assert_array_equal(_states(tmp_path / "learnt"), member)
    page = (tmp_path / "learnt" / "report.html").read_text()
    assert "The discrete states that the job has learnt, without 1 to which no particle belongs" in page
    assert _analyze(ensemble_job, tmp_path / "asked") == 0
    assert "K-means of the latent" in (tmp_path / "asked" / "report.html").read_text()


@pytest.mark.usefixtures("fast_pictures")
def test_paths_through_the_graph_and_on_straight_lines_are_decoded(ensemble_job, straight, tmp_path, capsys) -> None:
    latent = np.linspace([-2, 0, 0], [2, 1, 0], 60).astype(np.float32)
    np.save(ensemble_job / "outputs" / "latent.npy", latent)
    (tmp_path / "rows.txt").write_text("3\n50\n")
    flags = ("--graph", str(tmp_path / "rows.txt"), "--most-neighbours", "4", "--average-neighbours", "3.5")
    assert _analyze(ensemble_job, tmp_path / "a", *flags, "--direct", "0,59", "--direct-steps", "3") == 0
    outputs = tmp_path / "a" / "outputs"
    rows = np.loadtxt(outputs / "paths" / "graph_rows.txt").astype(int)
    assert rows[0] == 3 and rows[-1] == 50 and (np.diff(rows) > 0).all()
    points = np.load(outputs / "paths" / "direct.npy")
    np.testing.assert_allclose(points, np.stack([latent[0], (latent[0] + latent[59]) / 2, latent[59]]), atol=1e-6)
    middle = straight.density(torch.from_numpy(points[1]).float()).voxels(straight.grid)
    torch.testing.assert_close(read_volume(outputs / "volumes" / "direct_001.mrc")[0], middle)
    assert len(list((outputs / "volumes").glob("graph_*.mrc"))) == min(len(rows), 40)
    script, scene = ((tmp_path / "a" / name).read_text() for name in ("open.cxc", "open.mvsj"))
    assert "straight path" in script and "volume morph #1000 frames 20" in script
    urls = [s["root"]["children"][0]["params"]["url"] for s in json.loads(scene)["snapshots"]]
    assert all((tmp_path / "a" / url).exists() for url in urls) and "outputs/volumes/direct_002.mrc" in urls
    assert "Along the graph" in (tmp_path / "a" / "report.html").read_text()
    latent[30:, 0] += 1.0
    np.save(ensemble_job / "outputs" / "latent.npy", latent)
    assert _analyze(ensemble_job, tmp_path / "b", *flags) == 0
    assert "with 4 neighbours the cloud is in pieces; the path goes by up to" in capsys.readouterr().out


def test_paths_that_cannot_be_are_refused(ensemble_job: Path, tmp_path: Path, capsys) -> None:
    for flags, message in (
        (("--graph", "3"), "--graph: a path joins at least two particles, 1 are given"),
        (("--direct", "3,99"), "--direct: row 99 does not exist"),
        (("--direct-steps", "1"), "direct_steps = '1' cannot be used"),
        (("--most-neighbours", "1"), "most_neighbours = '1' cannot be used"),
    ):
        assert _analyze(ensemble_job, tmp_path / "a", *flags, "--again") == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1


@pytest.mark.usefixtures("fast_pictures")
def test_the_landscape_has_maps_clusters_and_a_place_for_every_particle(ensemble_job, straight, tmp_path) -> None:
    mask = torch.ones(8, 8, 8)
    write_volume(tmp_path / "mask.mrc", mask, 6.0)
    flags = ("--landscape.maps", "20", "--landscape.states", "3", "--landscape.components", "4")
    flags += ("--landscape.box", "8", "--landscape.mask", str(tmp_path / "mask.mrc"))
    assert _analyze(ensemble_job, tmp_path / "a", *flags, "--keep", "volume1 > 0 and landscape_state in 0, 1, 2") == 0
    folder = tmp_path / "a" / "outputs" / "landscape"
    rows = list(csv.DictReader((folder / "maps.csv").open()))
    assert len(rows) == 20 and sum(int(row["particles"]) for row in rows) == 60
    assert {row["state"] for row in rows} == {"0", "1", "2"} and "volume4" in rows[0] and "volume5" not in rows[0]
    placed = np.load(folder / "particles.npy")
    assert placed.shape == (60, 4) and np.isfinite(placed).all()
    latent = np.load(ensemble_job / "outputs" / "latent.npy")
    assert abs(np.corrcoef(placed[:, 0], latent[:, 0])[0, 1]) > 0.9, "the first coordinate moves most density"
    mean, grid = read_volume(folder / "state_000_mean.mrc")
    assert grid == Grid(8, 6.0) and read_volume(folder / "state_000_std.mrc")[0].min() >= 0
    assert torch.isfinite(mean).all() and (folder / "state_002_mean.mrc").exists()
    for name in ("landscape_energy", "landscape_maps", "landscape_variance", "landscape_states", "landscape_spreads"):
        assert (tmp_path / "a" / "figures" / f"{name}.png").exists()
    kept = read_particles(tmp_path / "a" / "outputs" / "selected.star", need_images=False)
    assert kept.count == (placed[:, 0] > 0).sum()


def test_a_mask_that_does_not_fit_is_refused(ensemble_job: Path, tmp_path: Path, capsys, fast_pictures) -> None:
    write_volume(tmp_path / "mask.mrc", torch.ones(8, 8, 8), 6.0)
    flags = ("--landscape.maps", "5", "--landscape.mask", str(tmp_path / "mask.mrc"))
    assert _analyze(ensemble_job, tmp_path / "a", *flags) == 2
    assert "a mask of 8 voxels along each side, the maps have 16. Give --landscape.box 8" in capsys.readouterr().err
    write_volume(tmp_path / "mask.mrc", torch.zeros(8, 8, 8), 6.0)
    assert _analyze(ensemble_job, tmp_path / "b", *flags, "--landscape.box", "8") == 2
    assert "mask.mrc: the mask is empty" in capsys.readouterr().err


@pytest.mark.usefixtures("fast_pictures")
def test_a_rule_and_a_lasso_select_particles_with_all_their_columns(ensemble_job: Path, tmp_path: Path, capsys) -> None:
    polygon = [[-9, -9], [9, -9], [9, 9], [-9, 9]]
    (tmp_path / "lasso.json").write_text(json.dumps({"x": "z1", "y": "z2", "polygon": polygon}))
    flags = ("--keep", "pc1 > 0 and rlnMyOwnColumn < 100 and uncertainty < 1", "--lasso", str(tmp_path / "lasso.json"))
    assert _analyze(ensemble_job, tmp_path / "a", *flags) == 0
    outputs = tmp_path / "a" / "outputs"
    expected = (np.load(outputs / "pca.npy")[:, 0] > 0) & (np.arange(60) * 2 < 100)
    chosen, rest = (read_particles(outputs / f"{name}.star") for name in ("selected", "rejected"))
    assert chosen.table["particles"].integers("rlnMyOwnColumn").tolist() == (np.flatnonzero(expected) * 2).tolist()
    assert chosen.count + rest.count == 60 and torch.isfinite(rest.images(slice(0, 1))).all()
    said = capsys.readouterr().out
    assert f"{expected.sum()} of 60 particles selected" in said and f"{expected.sum()} particles selected" in said
    assert (tmp_path / "a" / "figures" / "latent_selected.png").exists()


@pytest.mark.usefixtures("fast_pictures")
def test_selections_that_cannot_be_are_refused(ensemble_job: Path, tmp_path: Path, capsys) -> None:
    for i, (rule, message) in enumerate(
        (
            ("pc1 > 1e9", "--keep: the selection keeps none of 60 particles"),
            ("pc1 < 1e9", "--keep: the selection keeps every one of 60 particles"),
            ("agreement > 0.5", "--keep: there is no column 'agreement'"),
        )
    ):
        assert _analyze(ensemble_job, tmp_path / f"{i}", "--keep", rule) == 2
        assert message in capsys.readouterr().err


@pytest.mark.usefixtures("fast_pictures")
def test_a_cryosparc_source_gives_cryosparc_tables(ensemble_job: Path, tmp_path: Path) -> None:
    from frazil.data.conversion import write_particles_cs

    particles = read_particles(ensemble_job / "outputs" / "particles.star", need_images=False)
    source = tmp_path / "source.cs"
    write_particles_cs(particles, source)
    (ensemble_job / "job.toml").write_text(f'[reconstruct]\nparticles = "{source}"\n')
    assert _analyze(ensemble_job, tmp_path / "a", "--keep", "pc1 > 0") == 0
    outputs = tmp_path / "a" / "outputs"
    for folder, name in ((outputs, "selected"), (outputs, "rejected"), (outputs / "states", "state_001")):
        star, cs = (read_particles(folder / f"{name}.{end}") for end in ("star", "cs"))
        np.testing.assert_array_equal(star.uid, cs.uid)
        torch.testing.assert_close(star.images(slice(0, 2)), cs.images(slice(0, 2)))


@pytest.mark.usefixtures("fast_pictures")
def test_states_have_half_maps_and_resolutions_where_the_job_has_halves(
    halved_job: Path, tmp_path: Path, capsys
) -> None:
    assert _analyze(halved_job, tmp_path / "a") == 0
    volumes = tmp_path / "a" / "outputs" / "volumes"
    a, b, local = (read_volume(volumes / f"state_001_{end}.mrc")[0] for end in ("half_a", "half_b", "local_resolution"))
    difference = float((a - b).std())
    assert difference == pytest.approx(0.02 * 2**0.5, rel=0.05), "each half has noise of its own"
    assert float(local[local > 0].min()) >= 6.0 and float(local.max()) <= 48.0
    page = (tmp_path / "a" / "report.html").read_text()
    assert "resolution (FSC 0.143)" in page and "Resolution of the states" in page
    for name in ("state_fsc", "state_local_resolution"):
        json.loads((tmp_path / "a" / "figures" / f"{name}.json").read_text())
    assert "median resolution" in capsys.readouterr().out


def test_halves_of_another_latent_are_refused(
    halved_job: Path, tmp_path: Path, capsys, straight, fast_pictures
) -> None:
    from frazil.data.ensemble import save_ensemble

    save_ensemble(halved_job / "outputs" / "half_b", type(straight)(straight.mean, straight.basis[:2], 3.0))
    assert _analyze(halved_job, tmp_path / "a") == 2
    assert "the ensemble of a half-set has 2 latent coordinates, the points have 3" in capsys.readouterr().err


@pytest.mark.usefixtures("fast_pictures")
def test_a_motion_that_the_images_show_agrees_with_them(imaged_job: Path, tmp_path: Path) -> None:
    assert _analyze(imaged_job, tmp_path / "a", "--agreement", "--keep", "agreement > 0.5 and state in 0, 2") == 0
    page = (tmp_path / "a" / "report.html").read_text()
    assert "No state shows a motion that its images deny" in page and "seen in the images" in page
    assert (tmp_path / "a" / "outputs" / "volumes" / "state_002_from_images_half_a.mrc").exists()
    assert (tmp_path / "a" / "figures" / "latent_agreement.png").exists()


@pytest.mark.usefixtures("fast_pictures")
def test_an_imagined_motion_is_flagged(imaged_job: Path, straight, tmp_path: Path, capsys) -> None:
    from frazil.data.ensemble import save_ensemble

    # the ensemble moves the other way than its images
    save_ensemble(imaged_job / "outputs", type(straight)(straight.mean, -straight.basis[:1], 3.0))
    assert _analyze(imaged_job, tmp_path / "a", "--agreement") == 0
    assert "2 of them not seen in the images" in capsys.readouterr().out
    assert "Do not interpret it" in (tmp_path / "a" / "report.html").read_text()


def test_agreement_without_poses_or_half_sets_is_refused(
    ensemble_job: Path, tmp_path: Path, capsys, fast_pictures
) -> None:
    assert _analyze(ensemble_job, tmp_path / "a", "--agreement") == 2
    assert "the particles of this job have no half-sets, maps cannot be made from them" in capsys.readouterr().err


def test_a_job_knows_its_pixel_size(ensemble_job: Path, tmp_path: Path, capsys) -> None:
    assert _analyze(ensemble_job, tmp_path / "a", "--pixel-size", "2") == 2
    assert "--pixel-size: a job knows its pixel size. Leave it out." in capsys.readouterr().err
