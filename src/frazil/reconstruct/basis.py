"""An ensemble of weighted volumes with given poses: from particles to latents, their covariance, and two halves of a model.

The work is a list of steps with one state between them. The state is kept in a checkpoint, so a job that was killed goes on
after the last whole step and ends with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.inference.coefficient_posteriors import GaussianPrior
from frazil.inference.local_refinement import PriorWidths
from frazil.numerics.masks import soft_sphere
from frazil.numerics.spectrum_table import volumes_of_table
from frazil.reconstruct.basis_of_states import FIRST_BAND_OF_STATES, StateSteps
from frazil.reconstruct.basis_state import BasisState, Latents, Step
from frazil.reconstruct.expectation import Expectation, noise_left
from frazil.reconstruct.linear import (
    Halves,
    dimensions_told,
    evidence_of_the_other_half,
    expect,
    linear_pass,
    maximise,
    with_random_directions,
)
from frazil.reconstruct.marching import marching_bands
from frazil.reconstruct.maximisation import LEAST_CORRELATION, Stage, half_correlations, resize_to, smoothed
from frazil.reconstruct.nonlinear import MOST_VOLUMES, manifold_of, on_manifold
from frazil.reconstruct.region import region_of_change
from frazil.reconstruct.unsure_poses import UnsurePoses
from frazil.reconstruct.whitened import WhitenedImages

if TYPE_CHECKING:
    from frazil.engine.job import Job
    from frazil.engine.metrics import Metrics
    from frazil.reconstruct.basis_config import BasisConfig

# passes at the bands of the linear model, coarsest first; the rest get as many as the last
LINEAR_PASSES = (12, 6, 3)
# the number of directions is chosen, and the manifold drawn, at the second band
PLACING_BANDS = 2
# passes of the non-linear model at each band below the finest
NONLINEAR_PASSES = 2
# correlation that new directions are granted on their first pass
FIRST_CORRELATION = 0.3
FIRST_SCALE_SPREAD = 0.1
CHECKPOINT_SECONDS = 30.0
# the sphere that holds the molecule: radius and edge as shares of the box
SPHERE, SPHERE_EDGE = 0.44, 0.05


@final
@dataclass
class BasisLearner:
    """Learns the ensemble step by step.

    Attributes:
        images: whitened. config: settings. latent_dim: number of coordinates, None to choose. symmetry: point group.
        seed: of the first random directions. focus: mask of the directions on the grid of the images, or None.
        component: the discrete state that all these images are of; None where that is not known. file: what the checkpoint
            is called where it is not. pose_prior: what was known of poses that were then refined; None for given ones.
    """

    images: WhitenedImages
    config: BasisConfig
    latent_dim: int | None
    symmetry: str
    seed: int
    focus: Float[Tensor, "n n n"] | None = None
    component: int | None = None
    file: str = "basis"
    pose_prior: PriorWidths | None = None
    _stages: dict[int, Stage] = field(default_factory=dict)

    @property
    def bands(self) -> list[int]:
        """Band limits from coarse to fine."""
        finest = self.images.plane.band
        return marching_bands(finest, FIRST_BAND_OF_STATES) if self.config.components > 1 else marching_bands(finest)

    @property
    def placing_band(self) -> int:
        """The band whose coefficients say where a particle is."""
        return self.bands[-1] if self.config.components > 1 else self.bands[min(PLACING_BANDS, len(self.bands)) - 1]

    def steps(self) -> list[tuple[str, Step]]:
        """What is to be done, in order, with a name for each step."""
        begin: list[tuple[str, Step]] = [(f"mean at shell {self.bands[-1]}", self._mean)] * 2
        return begin + (StateSteps(self).all() if self.config.components > 1 else self._steps_of_motion())

    def _steps_of_motion(self) -> list[tuple[str, Step]]:
        bands = self.bands
        finest, linear = bands[-1], self.config.model == "linear"
        steps: list[tuple[str, Step]] = [("first directions", self.begin)]
        for number, band in enumerate(bands if linear else bands[:PLACING_BANDS]):
            passes = LINEAR_PASSES[min(number, len(LINEAR_PASSES) - 1)]
            steps += [(f"principal components to shell {band}", partial(self.linear, band=band))] * passes
            if band == self.bands[min(PLACING_BANDS, len(bands)) - 1]:
                steps.append(("number of directions", partial(self._choose, band=band)))
        if linear:
            return steps
        first = self.placing_band
        steps.append(("landmarks", partial(self._draw_manifold, band=first)))
        following = [first] * NONLINEAR_PASSES
        for finer in bands[PLACING_BANDS:]:
            following += [finer] * (NONLINEAR_PASSES if finer != finest else 0)
        following += [finest] * self.config.passes
        steps.append((f"motion to shell {first}", partial(self._sharpen, band=first, least=FIRST_CORRELATION)))
        steps += [(f"motion to shell {band}", partial(self._sharpen, band=band)) for band in following[1:]]
        return steps

    @property
    def name(self) -> str:
        """What the files of this work are called."""
        return self.file if self.component is None else f"component_{self.component:03d}"

    def checkpoint(self, job: Job) -> Path:
        """Where the state is kept between two steps."""
        return job.checkpoints / f"{self.name}.safetensors"

    def learn(
        self, state: BasisState, job: Job, metrics: Metrics, report: Callable[[str, BasisState], None]
    ) -> BasisState:
        """Take every step that is left; stop early where no direction is told.

        Args:
            metrics: to be taken back to where the checkpoint was. report: told the name of each step and the state after it.
        """
        path = self.checkpoint(job)
        of_state = "" if self.component is None else f" of state {self.component}"
        done = 0
        processes = self.images.processes
        found = processes.from_first(lambda: BasisState.load(path) if job.resumed and path.is_file() else None)
        if found is not None:
            state, done, text = found
            self.images.set_noise(state.noise)
            metrics.restore(text)
            job.log(f"going on after step {done}{of_state}")
        steps = self.steps()
        saved = time.monotonic()
        with job.progress(len(steps), f"learning conformations{of_state}", unit="steps") as progress:
            progress.advance(done)
            for number, (name, step) in enumerate(steps[done:], start=done + 1):
                if state.rigid:
                    break
                state = processes.same(step(state))
                report(name, state)
                progress.advance(1)
                every = self.config.checkpoint_every
                due = time.monotonic() - saved > CHECKPOINT_SECONDS if every is None else number % every == 0
                if processes.first and (due or number == len(steps) or state.rigid):
                    state.save(path, number, metrics.text())
                    saved = time.monotonic()
        return state

    def together(self, state: BasisState) -> Float[Tensor, "volumes n n n"]:
        """The mean of the halves, each shell of each volume weighed by what both together are worth.

        A half that correlates with the other by f is shrunk by f; both together deserve 2 f / (1 + f)
        (Rosenthal and Henderson 2003).
        """
        stage = self.stage(self.images.plane.band)
        halves = state.halves.resized(stage.box)
        tables = stage.tables(halves.pair)
        curves = smoothed(half_correlations(*tables, stage.layout)).clamp(LEAST_CORRELATION, 1)
        shell = stage.layout.nearest_shell
        common = (tables[0] + tables[1]) / 2 * (2 / (1 + curves))[shell][:, None]
        return volumes_of_table(common, stage.layout, stage.box) * self.mask(stage.box, halves.a.shape[0], state.region)

    def latents(self, state: BasisState, together: Float[Tensor, "volumes n n n"] | None = None) -> Latents:
        """Posterior latents of every image, in working order. ``together``: see `BasisState.told_by`."""
        halves = state.told_by(together)
        found = self._placed(state, halves)
        if self.pose_prior is not None:
            weights = torch.cat((found[0].first, found[1].first))
            found = self._placed(state, halves, UnsurePoses(weights, self.pose_prior))
        share = (
            None if found[0].share is None or found[1].share is None else torch.cat((found[0].share, found[1].share))
        )
        if state.manifold is not None:
            assert share is not None
            return Latents(*state.manifold.latents(share), state.manifold.metric)
        assert found[0].covariance is not None and found[1].covariance is not None
        mean = torch.cat((found[0].first, found[1].first))[:, 1:]
        if state.mixture is not None and share is not None:
            # states are rigid: where in its state an image lies is nothing that it shows
            mean = share @ state.mixture.mean
        unit = ((found[0].information + found[1].information) / 2).diagonal()[1:].sqrt()
        return Latents(mean, torch.cat((found[0].covariance, found[1].covariance)), unit, share)

    def weights(self, state: BasisState) -> tuple[Float[Tensor, "images volumes"], Float[Tensor, "volumes volumes"]]:
        """Posterior mean weights of every image, in working order, by the volumes of its own half; and how well an image
        tells weights apart, see `Expectation`."""
        found = self._placed(state, state.halves)
        return torch.cat((found[0].first, found[1].first)), (found[0].information + found[1].information) / 2

    def _placed(
        self, state: BasisState, halves: Halves, unsure: UnsurePoses | None = None
    ) -> tuple[Expectation, Expectation]:
        # fine details say nothing of the conformation, but they hold the pose
        stage = self.stage(self.placing_band if unsure is None else self.bands[-1])
        halves = halves.resized(stage.box)
        informed = None if unsure is None else self._informed(stage)
        tables = stage.tables(halves.pair)
        return expect(self.images, halves, tables, stage, state.prior, update=False, informed=informed, unsure=unsure)

    def seeing(self, images: WhitenedImages, state: BasisState) -> tuple[BasisLearner, BasisState]:
        """The same learner with the same images read at other poses, and what it knows, in their working order."""
        scale = torch.empty_like(state.halves.scale)
        scale[self.images.order] = state.halves.scale
        return (
            replace(self, images=images, _stages={}),
            replace(state, halves=replace(state.halves, scale=scale[images.order])),
        )

    def improved(self, state: BasisState) -> BasisState:
        """The state of a motion after one more pass over the images at the finest band."""
        step = self.linear if state.manifold is None else self._sharpen
        return self.images.processes.same(step(state, band=self.bands[-1]))

    # -------------------------------------------------------------------------------------------------------- steps

    def stage(self, band: int) -> Stage:
        """What all steps at a band share."""
        if band not in self._stages:
            self._stages = {band: Stage.of(self.images, band, self.symmetry)}  # one at a time: coverage is large
        return self._stages[band]

    def _informed(self, stage: Stage) -> int:
        """How many coefficients say where a particle is: those of the band at which the manifold was drawn."""
        return int((stage.plane.shell <= self.placing_band).sum())

    def mask(self, box: int, volumes: int, region: Tensor | None = None) -> Float[Tensor, "volumes n n n"]:
        """What the mean and the directions are multiplied by. ``region``: where the density changes, once that is known."""
        sphere = soft_sphere(box, SPHERE * box, SPHERE_EDGE * box)
        mask = sphere.expand(volumes, box, box, box)
        for part in (self.focus, region):
            if part is not None:
                resized = resize_to(part[None], box) * (box / part.shape[-1]) ** 3
                mask = torch.cat((mask[:1], mask[1:] * resized.clamp(0, 1)))
        return mask

    def _mean(self, state: BasisState) -> BasisState:
        """A step of the mean alone at the finest band, and the noise that it leaves."""
        stage = self.stage(self.images.plane.band)
        halves = state.halves.resized(stage.box)
        tables = stage.tables(halves.pair)
        found = expect(self.images, halves, tables, stage, GaussianPrior(), residual=True)
        halves = maximise(halves, tables, found, stage, self.mask(stage.box, 1))
        # a state may have few images of an optics group: groups keep their proportions
        noise = noise_left(state.noise, found, self.images, alike=self.component is not None)
        self.images.set_noise(noise)
        self._stages = {}  # coverage is measured in units of the noise
        return replace(state, halves=halves, noise=noise)

    def begin(self, state: BasisState) -> BasisState:
        """Random directions at the coarsest band."""
        stage = self.stage(self.bands[0])
        halves = state.halves.resized(stage.box)
        tried = max(self.config.most_dimensions, min(self.config.components - 1, MOST_VOLUMES))
        count = tried if self.latent_dim is None else self.latent_dim
        mask = self.mask(stage.box, 2)[1]
        spread = FIRST_SCALE_SPREAD if self.config.scale else 0.0
        begun = with_random_directions(halves, count, stage, mask, self.seed)
        return replace(state, halves=replace(begun, spread=spread))

    def linear(self, state: BasisState, *, band: int) -> BasisState:
        """A pass of the linear model at a band."""
        stage = self.stage(band)
        halves = state.halves.resized(stage.box)
        mask = self.mask(stage.box, halves.a.shape[0], state.region)
        halves, evidence = linear_pass(self.images, halves, stage, mask)
        return replace(state, halves=halves, evidence=(*state.evidence, evidence))

    def _choose(self, state: BasisState, *, band: int) -> BasisState:
        """Keep as many directions as the images of the other half ask for, where both halves agree that density changes."""
        stage = self.stage(band)
        halves = state.halves.resized(stage.box)
        evidence = evidence_of_the_other_half(self.images, halves, stage)
        gain = evidence - evidence[:, :1]
        error = gain.std(0) / len(gain) ** 0.5
        gains = tuple(zip(gain.mean(0).tolist(), error.tolist(), strict=True))
        kept = dimensions_told(evidence) if self.latent_dim is None else self.latent_dim
        a, b = (volumes[: kept + 1] for volumes in halves.pair)
        region = region_of_change(a[1:], b[1:])
        mask = self.mask(stage.box, kept + 1, region)
        return replace(state, halves=replace(halves, a=a * mask, b=b * mask), gains=gains, region=region)

    def _draw_manifold(self, state: BasisState, *, band: int) -> BasisState:
        stage = self.stage(band)
        halves = state.halves.resized(stage.box)
        found = expect(self.images, halves, stage.tables(halves.pair), stage, GaussianPrior(), update=False)
        latent = torch.cat((found[0].first, found[1].first))[:, 1:]
        # a unit of distance is what an image can just tell
        metric = ((found[0].information + found[1].information) / 2).diagonal()[1:].sqrt()
        manifold = manifold_of(
            latent, metric, landmarks=self.config.landmarks, volumes=self.config.volumes, seed=self.seed
        )
        return replace(state, halves=on_manifold(halves, manifold), manifold=manifold)

    def _sharpen(self, state: BasisState, *, band: int, least: float = 0.0) -> BasisState:
        """A step of the volumes at a band, with the conformations placed by the coarse coefficients."""
        stage = self.stage(band)
        halves = state.halves.resized(stage.box)
        tables = stage.tables(halves.pair)
        found = expect(self.images, halves, tables, stage, state.prior, informed=self._informed(stage))
        mask = self.mask(stage.box, halves.a.shape[0], state.region)
        halves = maximise(halves, tables, found, stage, mask, least=least, together=False)
        evidence = torch.cat((found[0].evidence, found[1].evidence)).mean()
        return replace(state, halves=halves, evidence=(*state.evidence, float(evidence)))
