"""What is known of an ensemble of weighted volumes between two steps of its learning, and its file; and of its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from frazil.engine.checkpoint import load_checkpoint, part, save_checkpoint, under
from frazil.inference.coefficient_posteriors import CoefficientPrior, GaussianPrior, MixturePrior
from frazil.reconstruct.linear import Halves
from frazil.reconstruct.maximisation import Volumes
from frazil.reconstruct.nonlinear import Manifold


@final
@dataclass(frozen=True)
class BasisState:
    """All that is known between two steps.

    Attributes:
        halves: volumes and contrasts. noise: power of a coefficient (optics groups, shells).
        manifold: of the non-linear model. mixture: of discrete states, once they are weights of a basis. sorted_by: their
            volumes in both halves as images are compared with them, see `between_nearest`.
        share: of the images in each state while states are maps of their own, one for each volume of the halves.
        whole: which of those states were found to be indivisible at this band. placed: latents of all images in the linear
            model, from which states divide.
        evidence: mean log evidence per image after each pass. gains: what each number of directions explains of the images
            of the other half, per image, with its standard error; empty before the choice.
        region: how far both halves agree that density changes there, None before the choice.
    """

    halves: Halves
    noise: Float[Tensor, "groups shells"]
    manifold: Manifold | None = None
    mixture: MixturePrior | None = None
    sorted_by: tuple[Volumes, Volumes] | None = None
    share: Float[Tensor, " states"] | None = None
    whole: Bool[Tensor, " states"] | None = None
    placed: Float[Tensor, "images latent"] | None = None
    evidence: tuple[float, ...] = ()
    gains: tuple[tuple[float, float], ...] = ()
    region: Float[Tensor, "n n n"] | None = None

    @property
    def rigid(self) -> bool:
        """Whether no direction was told."""
        return bool(self.gains) and self.halves.a.shape[0] == 1

    @property
    def prior(self) -> CoefficientPrior:
        """The prior of the weights in the model as it is."""
        if self.manifold is not None:
            return self.manifold.prior
        return GaussianPrior() if self.mixture is None else self.mixture

    def told_by(self, together: Float[Tensor, "volumes n n n"] | None) -> Halves:
        """What the images of each half-set are compared with in the end.

        Args:
            together: the volumes of both half-sets, for those of a motion. Discrete states need none: an image is drawn to an
                average that it is in, so it is compared with the maps of the other half-set.
        """
        if self.mixture is not None:
            a, b = self.halves.pair if self.sorted_by is None else self.sorted_by
            return replace(self.halves, a=b, b=a)
        assert together is not None
        return replace(self.halves, a=together, b=together)

    def save(self, path: Path, done: int, metrics: str) -> None:
        """Write the state after ``done`` steps, with the text of the metrics so far."""
        tensors = {"a": self.halves.a, "b": self.halves.b, "scale": self.halves.scale, "noise": self.noise}
        told: dict[str, Any] = {
            "done": done,
            "metrics": metrics,
            "spread": self.halves.spread,
            "evidence": self.evidence,
        }
        if self.manifold is not None:
            names = ("positions", "metric", "functions", "share")
            tensors |= under("manifold", {name: getattr(self.manifold, name) for name in names})
            told["spacing"] = self.manifold.spacing
        if self.mixture is not None:
            tensors |= under("mixture", {name: getattr(self.mixture, name) for name in ("share", "mean", "spread")})
        if self.sorted_by is not None:
            tensors |= under("sorted", {"a": self.sorted_by[0], "b": self.sorted_by[1]})
        if self.share is not None and self.whole is not None and self.placed is not None:
            kept = {"share": self.share, "whole": self.whole.to(torch.uint8), "placed": self.placed}
            tensors |= under("states", kept)
        if self.region is not None:
            tensors["region"] = self.region
        save_checkpoint(path, tensors, told | {"gains": self.gains})

    @staticmethod
    def load(path: Path) -> tuple[BasisState, int, str]:
        """The state of a checkpoint, the number of steps done, and the text of the metrics."""
        tensors, told = load_checkpoint(path)
        manifold = None
        if "spacing" in told:
            kept = part("manifold", tensors)
            manifold = Manifold(kept["positions"], kept["metric"], kept["functions"], kept["share"], told["spacing"])
        kept = part("mixture", tensors)
        mixture = MixturePrior(kept["share"], kept["mean"], kept["spread"]) if kept else None
        kept = part("sorted", tensors)
        sorted_by = (kept["a"], kept["b"]) if kept else None
        kept = part("states", tensors)
        states = (kept["share"], kept["whole"].to(torch.bool), kept["placed"]) if kept else (None, None, None)
        halves = Halves(tensors["a"], tensors["b"], tensors["scale"], told["spread"])
        gains = tuple((gain, error) for gain, error in told["gains"])
        state = BasisState(
            halves,
            tensors["noise"],
            manifold,
            mixture,
            sorted_by,
            *states,
            evidence=tuple(told["evidence"]),
            gains=gains,
        )
        return replace(state, region=tensors.get("region")), told["done"], told["metrics"]


@final
@dataclass(frozen=True)
class Latents:
    """Posterior latents of images.

    Attributes:
        mean, covariance: of the latent of every image, which has unit variance over all images. unit: standard errors of
            one image in a unit of each latent. component: probability of each component of a mixture; None without one.
    """

    mean: Float[Tensor, "images latent"]
    covariance: Float[Tensor, "images latent latent"]
    unit: Float[Tensor, " latent"]
    component: Float[Tensor, "images components"] | None = None


# what is done to all that is known
Step = Callable[[BasisState], BasisState]
