"""Coefficients that follow the motion: a learnt manifold of conformations with volumes that change smoothly along it.

The linear model places every particle in a flat space of a few coordinates; a large motion traces a curved path there, and
further directions, too weak to be placed by a single image, are functions of where on the path it is. So the path is marked
with landmarks, the smooth functions on it are found (the eigenfunctions of a kernel between landmarks: Coifman and Lafon
2006), and the volumes are their coefficients: V(z) = V_0 + sum_k c_k(z) V_k. Expectation weighs the landmarks for each
image (generative topographic mapping, Bishop et al. 1998), maximisation is that of the linear model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.inference.coefficient_posteriors import LandmarkPrior
from frazil.physics.basis import Landmarks
from frazil.reconstruct.linear import Halves

# spread of the kernel between landmarks, in distances to the nearest ones
KERNEL_SPREAD = 2.0
# spread of the interpolation between landmarks, in the same unit: narrow, so that sharp functions stay sharp
INTERPOLATION_SPREAD = 0.7
# functions whose eigenvalue falls below this change faster than the landmarks can tell
LEAST_EIGENVALUE = 0.03
MOST_VOLUMES = 24
# neighbours to which the cell of a landmark reaches
NEIGHBOURS = 2


@final
@dataclass(frozen=True)
class Manifold:
    """Landmarks in the latent space and the smooth functions on them.

    Attributes:
        positions: latents. metric: length of a unit of each latent, in standard errors of one image.
        functions: values at the landmarks, with mean 0 and covariance 1 under ``share``, slow ones first.
        share: probability of each landmark, that of the latents around it. Learnt from the posteriors pass by pass, it would
            end on a few landmarks, as any distribution does that best explains noisy data.
        spacing: typical distance to the nearest landmarks, in the metric.
    """

    positions: Float[Tensor, "landmarks latent"]
    metric: Float[Tensor, " latent"]
    functions: Float[Tensor, "landmarks basis"]
    share: Float[Tensor, " landmarks"]
    spacing: float

    @property
    def prior(self) -> LandmarkPrior:
        """The prior of the weights (1, c_1, ..., c_K)."""
        ones = torch.ones_like(self.functions[:, :1])
        return LandmarkPrior(torch.cat((ones, self.functions), dim=1), self.share)

    @property
    def interpolation(self) -> Landmarks:
        """The functions between the landmarks."""
        width = INTERPOLATION_SPREAD * self.spacing / self.metric
        return Landmarks(self.positions, self.functions, width)

    def latents(
        self, shares: Float[Tensor, "images landmarks"]
    ) -> tuple[Float[Tensor, "images latent"], Float[Tensor, "images latent latent"]]:
        """Posterior mean and covariance of the latent of all images.

        Where a posterior covers several landmarks, their spread is its spread (a sum over a lattice is as good as the
        integral). A landmark by itself stands for its cell, which reaches half way to its neighbours. All images together
        drew the landmarks, as smooth as the functions are: that leaves each unsure by ``functions / images`` in square.
        """
        # the spread is a small difference of large squares
        places, shares = (self.positions * self.metric).double(), shares.double()
        shares = shares / shares.sum(1, keepdim=True)
        square = (len(shares), places.shape[1], places.shape[1])
        mean = shares @ places
        outer = places[:, :, None] * places[:, None, :]
        spread = (shares @ outer.flatten(1)).reshape(square) - mean[:, :, None] * mean[:, None, :]
        cell = (shares @ _cells(places).flatten(1)).reshape(square)
        left = (1 - _trace(spread) / _trace(cell).clamp(min=1e-30)).clamp(min=0)
        drawn = self.functions.shape[1] / len(shares)
        spread = spread + left[:, None, None] * cell + drawn * torch.eye(places.shape[1])
        return (mean / self.metric).float(), (spread / (self.metric[:, None] * self.metric)).float()


def _cells(places: Float[Tensor, "landmarks latent"]) -> Float[Tensor, "landmarks latent latent"]:
    """Covariance of what is in the cell of each landmark, evenly filled."""
    nearest = torch.cdist(places, places).argsort(dim=1)[:, 1 : 1 + NEIGHBOURS]
    half = (places[nearest] - places[:, None]) / 2
    return (half[..., :, None] * half[..., None, :]).mean(1) / 3


def _trace(matrices: Float[Tensor, "images n n"]) -> Float[Tensor, " images"]:
    return matrices.diagonal(dim1=1, dim2=2).sum(-1)


def manifold_of(
    latent: Float[Tensor, "images latent"],
    metric: Float[Tensor, " latent"],
    *,
    landmarks: int,
    volumes: int | None,
    seed: int,
) -> Manifold:
    """Landmarks among the latents of all images, and the smooth functions on them.

    Args:
        metric: length of a unit of each latent, in standard errors of one image.
        volumes: how many functions; None for all that the landmarks can tell.
    """
    from sklearn.cluster import KMeans

    scaled = latent * metric
    count = min(landmarks, len(latent) // 2)
    clusters = KMeans(count, n_init="auto", random_state=seed).fit(scaled.numpy())
    places = torch.from_numpy(clusters.cluster_centers_).to(torch.float64)
    share = torch.bincount(torch.from_numpy(clusters.labels_).to(torch.int64), minlength=count).to(torch.float64)
    share = share / share.sum()
    squared = torch.cdist(places, places).square()
    functions = _smooth_functions(squared / _spacing(places) ** 2, share, volumes)
    # places vary as smoothly as volumes do: what is left is the noise of the latents they were drawn from
    mean = share @ places
    places = mean + functions @ ((functions * share[:, None]).T @ (places - mean))
    positions = (places / metric.to(torch.float64)).to(torch.float32)
    return Manifold(positions, metric, functions.to(torch.float32), share.to(torch.float32), _spacing(places))


def _spacing(places: Float[Tensor, "landmarks latent"]) -> float:
    """Typical distance to the nearest neighbours."""
    return float(torch.cdist(places, places).sort(dim=1).values[:, 1 : 1 + NEIGHBOURS].square().mean().sqrt())


def _smooth_functions(squared: Tensor, share: Tensor, volumes: int | None) -> Tensor:
    """Eigenfunctions of the diffusion between landmarks, the constant one left out, orthonormal under ``share``."""
    kernel = torch.exp(-0.5 * squared / KERNEL_SPREAD**2)
    density = kernel @ share
    kernel = kernel / (density[:, None] * density)
    degree = kernel @ share
    root = (share / degree).sqrt()
    values, vectors = torch.linalg.eigh(root[:, None] * kernel * root)
    values, vectors = values.flip(0), vectors.flip(1)
    told = int((values[1:] > LEAST_EIGENVALUE).sum())
    count = min(volumes or min(told, MOST_VOLUMES), len(share) - 1)
    found = vectors[:, 1 : count + 1] / share.sqrt()[:, None]
    found = found - share @ found
    covariance = (found * share[:, None]).T @ found
    return torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), found.T, upper=False).T


def on_manifold(halves: Halves, manifold: Manifold) -> Halves:
    """The linear model's volumes as coefficients of the manifold's functions: where the second stage begins."""
    mean = manifold.share @ manifold.positions
    slopes = (manifold.functions * manifold.share[:, None]).T @ (manifold.positions - mean)

    def moved(volumes: Tensor) -> Tensor:
        centre = volumes[:1] + torch.tensordot(mean, volumes[1:], 1)[None]
        return torch.cat((centre, torch.tensordot(slopes, volumes[1:], 1)))

    return replace(halves, a=moved(halves.a), b=moved(halves.b))
