"""The steps by which discrete states are learnt: from the first directions to states side by side in a basis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, final

import torch

from frazil.inference.coefficient_posteriors import GaussianPrior
from frazil.reconstruct.basis_state import BasisState, Step
from frazil.reconstruct.growth import (
    Growth,
    clustered,
    completed,
    confined,
    grown,
    joined,
    one_state,
    settled,
    settled_apart,
)
from frazil.reconstruct.linear import Halves, expect
from frazil.reconstruct.maximisation import Stage
from frazil.reconstruct.nearest_states import between_nearest
from frazil.reconstruct.region import region_of_change
from frazil.reconstruct.states import Sorter, States, as_basis

if TYPE_CHECKING:
    from frazil.reconstruct.basis import BasisLearner

# states divide at coarse bands, whose few voxels leave little to be wrong about: from this one on, at so many
FIRST_BAND_OF_STATES, DIVIDING_BANDS = 10, 2
# passes of the linear model, whose latents are the first to divide by
LINEAR_PASSES = 12
# rounds in which states divide at each of those bands (all may, in one round), and at the finest by pieces
DIVIDING_ROUNDS, COMPLETING_ROUNDS = 8, 2
# passes when a band is new
SORTING_PASSES = 3


@final
@dataclass(frozen=True)
class StateSteps:
    """What a learner of discrete states does."""

    learner: BasisLearner

    def all(self) -> list[tuple[str, Step]]:
        """In order, with a name for each. States divide at the coarser bands, and where a piece shows it at the finest."""
        bands = self.learner.bands
        steps: list[tuple[str, Step]] = [("first directions", self.learner.begin)]
        first = f"principal components to shell {bands[0]}"
        steps += [(first, partial(self.learner.linear, band=bands[0]))] * LINEAR_PASSES
        steps.append(("one state", self._one_state))
        for number, band in enumerate(bands):
            if number > 0:
                passes = [partial(self._sort, band=band, first=done == 0) for done in range(SORTING_PASSES)]
                steps += [(f"states to shell {band}", one) for one in passes]
            if number < DIVIDING_BANDS:
                steps += [(f"states divided at shell {band}", partial(self._divide, band=band))] * DIVIDING_ROUNDS
                what, step = ("states or clusters", self._cluster) if number == 0 else ("states joined", self._join)
                steps.append((what, partial(step, band=band)))
        steps += [("states divided by pieces", self._complete)] * COMPLETING_ROUNDS
        steps += [("states told from their nearest", self._tell_from_nearest)] * self.learner.config.passes
        return [*steps, ("states side by side", self._as_basis)]

    def _sorter(self, state: BasisState, stage: Stage) -> Sorter:
        mask = self.learner.mask(stage.box, 2, state.region)
        return Sorter(self.learner.images, stage, mask, state.halves.spread, state.halves.scale)

    def _one_state(self, state: BasisState) -> BasisState:
        """All images in one state, with the latents that the linear model gives them."""
        stage = self.learner.stage(self.learner.bands[0])
        halves = state.halves.resized(stage.box)
        found = expect(self.learner.images, halves, stage.tables(halves.pair), stage, GaussianPrior(), update=False)
        latent = torch.cat((found[0].first, found[1].first))[:, 1:]
        state = replace(state, region=region_of_change(halves.a[1:], halves.b[1:]))
        begun = one_state(self._sorter(state, stage), latent)
        halves = replace(halves, a=begun.states.a, b=begun.states.b)
        return replace(state, halves=halves, share=begun.states.share, whole=begun.whole, placed=latent)

    def _divide(self, state: BasisState, *, band: int) -> BasisState:
        """A round of divisions; nothing happens once all states are whole."""
        return self._grown(state, *grown(*self._growth(state, band), self.learner.config.components, self.learner.seed))

    def _cluster(self, state: BasisState, *, band: int) -> BasisState:
        return self._grown(
            state, *clustered(*self._growth(state, band), self.learner.config.components, self.learner.seed)
        )

    def _join(self, state: BasisState, *, band: int) -> BasisState:
        return self._grown(state, *joined(*self._growth(state, band)))

    def _complete(self, state: BasisState) -> BasisState:
        """A round of divisions at the finest band, by pieces of density that few images have or lack."""
        return self._grown(
            state, *completed(*self._growth(state, self.learner.bands[-1]), self.learner.config.components)
        )

    def _tell_from_nearest(self, state: BasisState) -> BasisState:
        return self._grown(state, *settled_apart(*self._growth(state, self.learner.bands[-1]), 1))

    def _sort(self, state: BasisState, *, band: int, first: bool = False) -> BasisState:
        """A pass over all images. ``first``: at this band, which shows better where states differ."""
        sorter, growth = self._growth(state, band)
        if first:
            growth, sorter, region = confined(sorter, growth, self.learner.mask(sorter.stage.box, 2))
            state = replace(state, region=region)
        else:
            growth, sorter = settled(sorter, growth, 1)
        # at a finer band a state may turn out to be two
        return self._grown(state, replace(growth, whole=torch.zeros_like(growth.whole)), sorter)

    def _growth(self, state: BasisState, band: int) -> tuple[Sorter, Growth]:
        assert state.share is not None and state.whole is not None and state.placed is not None
        stage = self.learner.stage(band)
        halves = state.halves.resized(stage.box)
        return self._sorter(state, stage), Growth(States(halves.a, halves.b, state.share), state.whole, state.placed)

    def _grown(self, state: BasisState, growth: Growth, sorter: Sorter) -> BasisState:
        halves = Halves(growth.states.a, growth.states.b, sorter.scale, sorter.spread)
        evidence = state.evidence if growth.evidence is None else (*state.evidence, growth.evidence)
        return replace(state, halves=halves, share=growth.states.share, whole=growth.whole, evidence=evidence)

    def _as_basis(self, state: BasisState) -> BasisState:
        sorter, growth = self._growth(state, self.learner.bands[-1])
        mixture, halves = as_basis(sorter.shrunk(growth.states), state.halves)
        _, told = as_basis(sorter.shrunk(between_nearest(growth.states)), state.halves)
        return replace(state, halves=halves, mixture=mixture, sorted_by=told.pair, share=None, whole=None, placed=None)
