"""Tilt pairs: both views of a particle have one latent, which is the one of all that both images say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from frazil.cli import main
from frazil.data.stack import read_particles, write_particles_star
from frazil.inference.coefficient_posteriors import GaussianPrior, LandmarkPrior
from frazil.numerics.masks import soft_sphere
from frazil.numerics.spectrum_table import complete_axis_plane, gather_table, table_corners
from frazil.numerics.statistics import spearman
from frazil.reconstruct.basis_job import measured_noise
from frazil.reconstruct.division import kept_back
from frazil.reconstruct.expectation import Pass, said_by_all
from frazil.reconstruct.growth import one_state
from frazil.reconstruct.linear import Halves, evidence_of_the_other_half, expect
from frazil.reconstruct.maximisation import Stage
from frazil.reconstruct.states import Sorter
from frazil.reconstruct.whitened import WhitenedImages

VOLUMES, BAND = 4, 8
LEARNT = ("--density", "basis", "--no-report", "--threads", 1, "--basis.passes", 1, "--basis.landmarks", 12)


def simulated(folder: Path, count: int, box: int, snr: float, *more: str) -> Path:
    flags = ["--set", "linear-1d", "--count", str(count), "--box", str(box), "--pixel-size", str(192 / box)]
    flags += ["--resolution", "32", "--snr", str(snr), "--tilt-pairs", "45", "--seed", "1", *more]
    assert main(["simulate", "particles", *flags, "--out", str(folder)]) == 0
    return folder / "outputs" / "particles.star"


def without(star: Path, column: str) -> Path:
    """A table in which nobody knows this column."""
    path = star.with_name(f"without_{column}.star")
    path.write_text(star.read_text().replace(f"_{column} ", f"_not{column} "))
    return path


# ------------------------------------------------------------------------------------------------- against dense algebra


class Seen:
    """A few pairs, random volumes of both halves, and what dense matrices make of them.

    Attributes:
        model: for every image the slices of its half's volumes at the contrast of the image. values: whitened images.
    """

    def __init__(self, folder: Path, box: int) -> None:
        particles = read_particles(simulated(folder, 12, box, 0.5))
        generator = torch.Generator().manual_seed(box)
        self.images = WhitenedImages(particles, BAND, measured_noise(particles), sign=1)
        self.stage = Stage.of(self.images, BAND, "C1")
        size = (self.stage.layout.count, 2, VOLUMES)
        strength = torch.tensor([2.0, 1, 1, 0.5]) * 0.2 / self.images.gain[0].mean()
        a, b = (torch.randn(size, generator=generator) * strength for _ in (0, 1))
        self.tables = a, b
        # contrasts that are known exactly: E[s^2] = E[s]^2
        contrast = 0.8 + 0.4 * torch.rand(len(self.images), 1, generator=generator)
        self.scale = torch.cat((contrast, contrast.square()), dim=1)
        self.halves = Halves(torch.zeros(VOLUMES, 2, 2, 2), torch.zeros(VOLUMES, 2, 2, 2), self.scale, 0.1)
        self.model, self.values = self._compared()

    def _compared(self) -> tuple[Tensor, Tensor]:
        models, values = [], []
        for which in (0, 1):
            own = self.images.half(which)
            rows = torch.arange(own.start, own.stop)
            seen, factor = self.images.chosen(rows, self.stage.plane.count)
            rotation = self.images.rotation[rows]
            slices = gather_table(self.tables[which], self.stage.layout, rotation, self.stage.plane, factor)
            models.append(slices.flatten(1, 2) * self.scale[rows, :1, None])
            values.append(seen.flatten(1))
        return torch.cat(models).double(), torch.cat(values).double()

    def particle(self, image: int) -> tuple[Tensor, Tensor]:
        """All that is seen of the particle of an image: one tall matrix and one long vector."""
        own = self.images.views.particle == self.images.views.particle[image]
        assert int(own.sum()) == 2
        return self.model[own].flatten(0, 1), self.values[own].flatten()


@pytest.fixture(params=[24, 25], ids=["even", "odd"])
def seen(request: pytest.FixtureRequest, tmp_path: Path) -> Seen:
    return Seen(tmp_path / "pairs", request.param)


def test_the_posterior_of_a_pair_is_that_of_one_image_twice_as_large(seen: Seen) -> None:
    found = expect(seen.images, seen.halves, seen.tables, seen.stage, GaussianPrior(), update=False)
    first, covariance, evidence = (
        torch.cat([getattr(half, name) for half in found]) for name in ("first", "covariance", "evidence")
    )
    for image in range(len(seen.images)):
        slices, values = seen.particle(image)
        mean, directions = slices[:, 0], slices[:, 1:]
        precision = torch.eye(VOLUMES - 1).double() + directions.T @ directions
        weights = torch.linalg.solve(precision, directions.T @ (values - mean))
        torch.testing.assert_close(first[image, 1:].double(), weights, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(covariance[image].double(), precision.inverse(), atol=1e-4, rtol=1e-3)
        # log N(y; a_0, 1 + A A^T) - log N(y; 0, 1)
        left = values - mean
        marginal = torch.eye(len(left)).double() + directions @ directions.T
        log = (values @ values - left @ torch.linalg.solve(marginal, left) - torch.linalg.slogdet(marginal)[1]) / 2
        torch.testing.assert_close(2 * evidence[image].double(), log, atol=0.02, rtol=1e-3)


def test_what_images_say_can_be_limited_to_their_coarse_coefficients(seen: Seen) -> None:
    coarse = int((seen.stage.plane.shell <= 5).sum())
    plan = Pass(seen.stage.layout, seen.stage.plane, GaussianPrior(), informed=coarse)
    gram, projection = said_by_all(seen.images, plan, seen.tables)
    slices, values = (seen.model / seen.scale[:, :1, None])[:, : 2 * coarse], seen.values[:, : 2 * coarse]
    torch.testing.assert_close(gram.double(), slices.mT @ slices, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(projection.double(), (slices.mT @ values[..., None])[..., 0], atol=1e-4, rtol=1e-4)


def test_landmarks_are_weighed_by_both_views(seen: Seen) -> None:
    generator = torch.Generator().manual_seed(3)
    weights = torch.cat((torch.ones(6, 1), torch.randn(6, VOLUMES - 1, generator=generator)), dim=1)
    prior = LandmarkPrior(weights, torch.full((6,), 1 / 6))
    found = expect(seen.images, seen.halves, seen.tables, seen.stage, prior)
    share = torch.cat([half.share for half in found if half.share is not None])
    for image in range(len(seen.images)):
        slices, values = seen.particle(image)
        log = -(values - (slices @ weights.double().T).T).square().sum(1) / 2
        torch.testing.assert_close(share[image].double(), torch.softmax(log, 0), atol=1e-3, rtol=1e-2)


def test_the_change_of_the_volumes_is_the_slope_of_the_expected_likelihood_of_both_views(seen: Seen) -> None:
    """Of all images, with the moments that each particle has."""
    found = expect(seen.images, seen.halves, seen.tables, seen.stage, GaussianPrior())
    layout = seen.stage.layout
    moments = expect(seen.images, seen.halves, seen.tables, seen.stage, GaussianPrior(), update=False)
    for which in (0, 1):
        own = seen.images.half(which)
        mean, covariance = moments[which].first, moments[which].covariance
        assert covariance is not None
        table = seen.tables[which].clone().requires_grad_()
        second = mean[:, :, None] * mean[:, None, :]
        second[:, 1:, 1:] += covariance
        values, factor = seen.images.chosen(torch.arange(own.start, own.stop), seen.stage.plane.count)
        slices, size = _sliced(table, seen, own, factor), found[which].scale  # contrasts of images, with these moments
        fit = (size[:, :1] * mean * (slices * values.flatten(1)[..., None]).sum(1)).sum()
        spread = (size[:, 1, None, None] * (slices.mT @ slices) * second).sum()
        (slope,) = torch.autograd.grad(fit - spread / 2, table)
        for gradient in (found[which].gradient, slope):
            complete_axis_plane(gradient, layout)
        torch.testing.assert_close(found[which].gradient, slope, atol=2e-3 * float(slope.abs().max()), rtol=1e-2)


def _sliced(table: Tensor, seen: Seen, own: range, factor: Tensor) -> Tensor:
    """Slices by interpolation that autograd sees through."""
    index, weight, mirrored = table_corners(
        seen.stage.layout, seen.images.rotation[own.start : own.stop], seen.stage.plane
    )
    sign = torch.stack((factor, torch.where(mirrored, -factor, factor)), dim=-1)
    return ((table[index] * weight[..., None, None]).sum(-3) * sign[..., None]).flatten(1, 2)


def test_a_particle_has_one_say_in_how_many_directions_there_are(seen: Seen) -> None:
    halves = Halves(torch.zeros(2, 24, 24, 24), torch.zeros(2, 24, 24, 24), seen.scale, 0.0)
    assert evidence_of_the_other_half(seen.images, halves, seen.stage).shape == (12, 2)


def test_states_are_weighed_by_both_views(seen: Seen) -> None:
    mask = soft_sphere(seen.stage.box, 0.4 * seen.stage.box, 1.0).expand(2, *(seen.stage.box,) * 3)
    sorter = Sorter(seen.images, seen.stage, mask, 0.0, seen.scale)
    share = torch.tensor([0.1, 0.2, 0.3, 0.4])
    members, evidence = sorter.weighed(seen.tables, share, sorter.all_rows())
    for image in range(len(seen.images)):
        slices, values = seen.particle(image)
        log = ((values @ values) - (values[:, None] - slices).square().sum(0)) / 2 + share.log()
        torch.testing.assert_close(torch.cat(members)[image].double(), torch.softmax(log, 0), atol=1e-3, rtol=1e-2)
        torch.testing.assert_close(2 * evidence[image].double(), torch.logsumexp(log, 0), atol=0.02, rtol=1e-3)


def test_images_kept_back_are_of_other_particles(seen: Seen) -> None:
    mask = soft_sphere(seen.stage.box, 0.4 * seen.stage.box, 1.0).expand(2, *(seen.stage.box,) * 3)
    sorter = Sorter(seen.images, seen.stage, mask, 0.0, seen.scale)
    learnt, judged = (
        {int(number) for half in rows for number in seen.images.views.particle[half]}
        for rows in kept_back(sorter.all_rows(), seen.images.views)
    )
    assert learnt and judged and not learnt & judged
    assert one_state(sorter, torch.zeros(24, 1)).states.count == 1


# ------------------------------------------------------------------------------------------------------- as users meet it


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The star file of 200 particles in two views each, with much noise."""
    return simulated(tmp_path_factory.mktemp("pairs") / "sim", 200, 24, 0.25)


@pytest.fixture(scope="module")
def learnt(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learnt") / "job"
    assert main([str(word) for word in ("reconstruct", pairs, *LEARNT, "--latent-dim", 1, "--out", out)]) == 0
    return out


def truth_of(star: Path) -> Tensor:
    return torch.from_numpy(np.load(star.parent / "truth" / "latent.npy"))[:, 0]


def nearness(job: Path, star: Path) -> float:
    latent = torch.from_numpy(np.load(job / "outputs" / "latent.npy"))[:, 0]
    return abs(spearman(latent, truth_of(star)))


def test_both_views_have_one_latent_and_one_covariance(learnt: Path) -> None:
    outputs = learnt / "outputs"
    for name in ("latent.npy", "latent_covariance.npy"):
        values = np.load(outputs / name)
        assert len(values) == 400
        np.testing.assert_array_equal(values[::2], values[1::2])
        assert len(np.unique(values[::2], axis=0)) > 150
    contrast = np.load(outputs / "contrast.npy")
    assert (contrast[::2] != contrast[1::2]).any()  # of an image, not of a particle
    log = (learnt / "log.txt").read_text()
    assert "400 views of 200 particles, 24 px" in log and "the views of a particle share one latent" in log


def test_pairs_are_nearer_the_truth_than_single_views(
    run_frazil: Any, learnt: Path, pairs: Path, tmp_path: Path
) -> None:
    strangers = without(pairs, "rlnMicrographTiltAngle")
    assert run_frazil("reconstruct", strangers, *LEARNT, "--latent-dim", 1, "--out", tmp_path / "job").code == 0
    log = (tmp_path / "job" / "log.txt").read_text()
    assert "400 particles of 24 px" in log and "share one latent" not in log
    alone, together = nearness(tmp_path / "job", pairs), nearness(learnt, pairs)
    assert together > 0.9 and 1 - together < 0.8 * (1 - alone)


def test_a_particle_is_judged_once(run_frazil: Any, learnt: Path, pairs: Path, tmp_path: Path) -> None:
    """Whatever stands in the row of its second view."""
    shutil.copytree(learnt, tmp_path / "job")
    latent = np.load(learnt / "outputs" / "latent.npy")
    latent[1::2] = 0
    np.save(tmp_path / "job" / "outputs" / "latent.npy", latent)
    figures = []
    for job in (learnt, tmp_path / "job"):
        done = run_frazil("evaluate", job, "--truth", pairs.parent.parent, "--images", 4, "--json")
        assert done.code == 0, done.stderr
        figures.append(json.loads(done.stdout))
    assert figures[0]["latent"] == figures[1]["latent"]
    assert figures[0]["calibration"]["coverage_90"] == figures[1]["calibration"]["coverage_90"]


def test_analysis_takes_a_job_of_pairs(run_frazil: Any, learnt: Path, tmp_path: Path) -> None:
    words = ("--clusters", 2, "--steps", 2, "--box", 12, "--umap", "never")
    done = run_frazil("analyze", learnt, *words, "--out", tmp_path / "analysis")
    assert done.code == 0, done.stderr
    states = read_particles(tmp_path / "analysis" / "outputs" / "states.star", need_images=False)
    state = states.table["particles"].numbers("frazilState")
    assert len(state) == 400
    np.testing.assert_array_equal(state[::2], state[1::2])


def test_states_of_pairs_hold_whole_particles(run_frazil: Any, tmp_path: Path) -> None:
    flags = ("--set", "discrete-10", "--count", 150, "--box", 24, "--pixel-size", 8, "--snr", 1, "--resolution", 32)
    assert run_frazil("simulate", "particles", *flags, "--tilt-pairs", 30, "--out", tmp_path / "sim").code == 0
    star = tmp_path / "sim" / "outputs" / "particles.star"
    words = ("--basis.components", 4, "--basis.within", 1, "--basis.resolution", 40)
    done = run_frazil("reconstruct", star, *LEARNT, *words, "--out", tmp_path / "job")
    assert done.code == 0, done.stderr
    component = np.load(tmp_path / "job" / "outputs" / "component.npy")
    np.testing.assert_array_equal(component[::2], component[1::2])
    assert len(set(component)) > 1


def test_half_sets_that_are_drawn_keep_pairs_together(run_frazil: Any, pairs: Path, tmp_path: Path) -> None:
    unhalved = without(pairs, "rlnRandomSubset")
    assert run_frazil("reconstruct", unhalved, "--no-report", "--threads", 1, "--out", tmp_path / "job").code == 0
    half_set = read_particles(tmp_path / "job" / "outputs" / "particles.star").half_set
    assert half_set is not None
    assert torch.equal(half_set[::2], half_set[1::2])
    assert int(half_set.sum()) == 200


def test_half_sets_that_divide_pairs_are_refused(run_frazil: Any, pairs: Path, tmp_path: Path) -> None:
    particles = read_particles(pairs)
    star = pairs.with_name("divided.star")
    write_particles_star(particles.with_half_set(torch.arange(400) % 2), star)
    done = run_frazil("reconstruct", star, *LEARNT, "--out", tmp_path / "job")
    assert done.code == 2
    assert "the views of a particle at several tilts are in different half-sets" in done.stderr
    assert "divided.star" in done.stderr and "rlnRandomSubset" in done.stderr


def test_what_does_not_use_the_tilts_says_so(run_frazil: Any, pairs: Path, tmp_path: Path) -> None:
    words = ("--preset", "cryodrgn", "--latent-dim", 1, "--train.epochs", 1, "--train.width", 8, "--no-report")
    words = (*words, "--train.encoder-width", 8, "--threads", 1)
    assert run_frazil("reconstruct", pairs, *words, "--out", tmp_path / "field").code == 0
    assert "each view of a particle gets a latent of its own" in (tmp_path / "field" / "log.txt").read_text()
    done = run_frazil("export", pairs, "--to", "cryodrgn", "--out", tmp_path / "export")
    assert done.code == 0, done.stderr
    assert "do not tell tilt pairs" in (tmp_path / "export" / "log.txt").read_text()
