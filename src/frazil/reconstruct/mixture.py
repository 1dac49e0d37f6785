"""Discrete states: each component of the mixture has a map of its own, and every image is weighed between them.

The latents of the linear model are sorted into clusters, which say where to begin. What tells two states apart may be too
weak to be among the principal components, and is found once particles are sorted: so the map of component j is
``V_0 + sum_k f_k(j) V_k`` with C - 1 functions f of the component, orthonormal under its share, which can be any map.
Expectation and maximisation then sort and average in turn. (Fitting Gaussians of any shape to the latents first was tried:
their covariances take in neighbouring states, and particles end up less well sorted than by the clusters.)
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.inference.coefficient_posteriors import MixturePrior
from frazil.reconstruct.linear import Halves

STARTS = 50
# variance within a component, of one between them: states are discrete, but no particle is placed with certainty
LEAST_VARIANCE = 1e-3


def sorted_states(
    latent: Float[Tensor, "images latent"], halves: Halves, components: int, seed: int
) -> tuple[MixturePrior, Halves]:
    """The mixture to begin with and the volumes of its basis.

    Args:
        latent: posterior means of the linear model, of unit variance. halves: its volumes. seed: of the clusters' starts.
    """
    from sklearn.cluster import KMeans

    labels = KMeans(components, n_init=STARTS, random_state=seed).fit(latent.numpy()).labels_  # type: ignore[arg-type]
    member = torch.nn.functional.one_hot(torch.from_numpy(labels).to(torch.int64), components).to(latent.dtype)
    share = member.mean(0)
    mean = member.T @ latent / member.sum(0)[:, None]
    functions = functions_of_components(share)
    centre = share @ mean
    slopes = (functions * share[:, None]).T @ (mean - centre)

    def moved(volumes: Tensor) -> Tensor:
        first = volumes[:1] + torch.tensordot(centre, volumes[1:], 1)[None]
        return torch.cat((first, torch.tensordot(slopes, volumes[1:], 1)))

    spread = LEAST_VARIANCE**0.5 * torch.eye(components - 1).repeat(components, 1, 1)
    return MixturePrior(share, functions, spread), replace(halves, a=moved(halves.a), b=moved(halves.b))


def functions_of_components(share: Float[Tensor, " components"]) -> Float[Tensor, "components functions"]:
    """C - 1 functions of the component with mean 0 and covariance 1 under the share."""
    root = share.sqrt()
    beside = torch.eye(len(share)) - root[:, None] * root
    return torch.linalg.eigh(beside)[1][:, 1:] / root[:, None]
