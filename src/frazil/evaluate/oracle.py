"""What the images could give at best, with everything known: the figure beside every figure.

The oracle's map of a state is backprojected from that state's own images at their true poses; in a continuous motion,
from the images whose true coordinates lie nearest. How many those are, and how the map is filtered (not at all, or by a
Wiener filter from the FSC of its half-maps), is whatever brings the oracle closest to the truth on a few maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.data.stack import Particles
from frazil.data.truth import Truth
from frazil.evaluate.classes import Labels
from frazil.evaluate.fsc import area_under, benchmark_curve
from frazil.inference.backproject import backproject, noise_weights
from frazil.inference.half_map import HalfMap
from frazil.numerics.fourier import images_to_coefficients
from frazil.numerics.shells import shell_correlation
from frazil.physics.density import Voxels
from frazil.physics.grid import Grid
from frazil.physics.microscope import Microscope
from frazil.physics.noise import Noise

# shares of all images that may stand for one conformation of a continuous motion
WINDOWS = (0.01, 0.03, 0.1)
# maps on which the window and the filter are chosen
TRIALS = 6
FEWEST_IMAGES = 20
IMAGES_AT_ONCE = 256


@final
@dataclass(frozen=True)
class Choice:
    """How the oracle makes its maps.

    Attributes:
        images: nearest in the true coordinate; None for all images of a state.
        ratio: signal-to-noise ratio in each shell for the Wiener filter; None for no filter.
        name: of the filter.
    """

    images: int | None
    ratio: Float[Tensor, " shells"] | None
    name: str


@final
class Oracle:
    """Maps from images with everything known.

    Args:
        particles: the simulated stack, at its true poses. true_maps: one per trial, for choosing. mask: for choosing.
        trials: of which conformations those are: latents, or numbers of states.
    """

    def __init__(
        self,
        particles: Particles,
        truth: Truth,
        grid: Grid,
        trials: Sequence[np.ndarray | int],
        true_maps: Sequence[Tensor],
        mask: Tensor,
    ) -> None:
        self._particles, self._truth, self._grid = particles, truth, grid
        self._noise = noise_weights(particles, grid)
        self._found: dict[bytes, Tensor] = {}
        self.choice = self._choose(trials, true_maps, mask)

    def __call__(self, where: np.ndarray | int) -> Tensor:
        """The map of a conformation (a true latent) or of a state (its number)."""
        key = np.asarray(where).tobytes()
        if key not in self._found:
            halves = self._halves(where, self.choice.images)
            self._found[key] = (halves[0] + halves[1]).volume(self.choice.ratio)
        return self._found[key]

    def _rows(self, where: np.ndarray | int, images: int | None) -> Int[Tensor, " rows"]:
        if images is None:
            return torch.from_numpy(np.flatnonzero(self._truth.state == where))
        return torch.from_numpy(np.argsort(true_distance(self._truth, np.asarray(where)), kind="stable")[:images])

    def _halves(self, where: np.ndarray | int, images: int | None) -> tuple[HalfMap, HalfMap]:
        weight = torch.zeros(self._truth.count)
        weight[self._rows(where, images)] = 1
        return backproject(self._particles, self._grid, weight=weight, noise=self._noise)

    def _choose(self, trials: Sequence[np.ndarray | int], true_maps: Sequence[Tensor], mask: Tensor) -> Choice:
        n = self._grid.box_size
        windows: Sequence[int | None] = (None,)
        if self._truth.latent is not None:
            windows = sorted({max(FEWEST_IMAGES, round(share * self._truth.count)) for share in WINDOWS})
        best: tuple[float, Choice] | None = None
        for images in windows:
            halves = [self._halves(where, images) for where in trials]
            for choice in _filters(halves, mask, images):
                made = [(a + b).volume(choice.ratio) for a, b in halves]
                areas = [area_under(benchmark_curve(x, y, mask), n) for x, y in zip(made, true_maps, strict=True)]
                if best is None or np.mean(areas) > best[0]:
                    best = float(np.mean(areas)), choice
        assert best is not None
        return best[1]


def most_likely_states(
    particles: Particles, truth: Truth, volumes: Float[Tensor, "states n n n"], grid: Grid
) -> Labels:
    """The state that explains each image best when poses, optics, noise, maps and populations are all known.

    Bayes' rule: no classification of these images errs less often. The noise is that of the simulation.
    """
    if particles.pose is None:
        raise ValueError("poses are needed")
    noise = simulated_noise(truth, grid)
    share = torch.bincount(torch.from_numpy(truth.state).long(), minlength=len(volumes)).double() / truth.count
    seen = [Microscope(Voxels(volume, grid), noise) for volume in volumes]
    best = np.empty(truth.count, np.int64)
    for rows, images in particles.chunks(IMAGES_AT_ONCE):
        optics = None if particles.optics is None else particles.optics[rows].to(torch.float32)
        pose = particles.pose[rows].to(torch.float32)
        coefficients = images_to_coefficients(images, grid.half_plane())
        found = [one.log_likelihood(coefficients, pose, optics, grid).double() for one in seen]
        best[rows.numpy()] = (torch.stack(found, 1) + share.log()).argmax(1).numpy()
    return best


def simulated_noise(truth: Truth, grid: Grid) -> Noise:
    """The noise that the simulation says it added; white of unit variance where it says nothing."""
    facts = truth.facts
    frequency = torch.arange(grid.box_size // 2 + 1) * grid.frequency_step
    shape = 1 + facts.get("noise_excess", 0.0) / (1 + (facts.get("noise_length", 0.0) * frequency).square())
    density = facts.get("noise_spectral_density", grid.pixel_size**4)
    return Noise((density * shape * grid.box_size**2 / grid.pixel_size**4).float())


def _filters(halves: Sequence[tuple[HalfMap, HalfMap]], mask: Tensor, images: int | None) -> list[Choice]:
    """No filter, and Wiener filters by the mean FSC of all half-maps, as they are and inside the mask."""
    pairs = [(a.volume(), b.volume()) for a, b in halves]
    whole = torch.stack([shell_correlation(a, b) for a, b in pairs]).mean(0)
    inside = torch.stack([shell_correlation(a * mask, b * mask) for a, b in pairs]).mean(0)
    named = (("none", None), ("Wiener", signal_to_noise(whole)), ("Wiener inside the mask", signal_to_noise(inside)))
    return [Choice(images, ratio, name) for name, ratio in named]


def signal_to_noise(correlation: Float[Tensor, " shells"]) -> Float[Tensor, " shells"]:
    """Power of the signal to that of the noise in the mean of two half-maps: ``2 FSC / (1 - FSC)``.

    Neighbouring shells are averaged: the FSC of few images is uneven.
    """
    padded = torch.nn.functional.pad(correlation[None, None], (1, 1), mode="replicate")
    smooth = torch.nn.functional.avg_pool1d(padded, 3, 1)[0, 0].clamp(1e-3, 0.999)
    return 2 * smooth / (1 - smooth)


def true_distance(truth: Truth, latent: Float[np.ndarray, " latent"]) -> Float[np.ndarray, " particles"]:
    """Distance of every particle's true coordinates from some, with the ends of circular ones joined."""
    assert truth.latent is not None
    gap = np.abs(truth.latent - latent)
    circular = np.asarray(truth.facts.get("circular", [False] * gap.shape[1]))
    return np.linalg.norm(np.where(circular, np.minimum(gap, 1 - gap), gap), axis=1)
