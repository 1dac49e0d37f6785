"""Discrete states that each may move: a mixture of Gaussians in the space of the linear model, freed from the noise.

What an image says of its weights is a Gaussian whose covariance is known (`inference.coefficient_posteriors`); the
mixture is fitted to what lies beneath that noise, not to the noisy positions. Source: Bovy, Hogg and Roweis 2011 (extreme
deconvolution).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.inference.coefficient_posteriors import GaussianPrior, MixturePrior

ROUNDS = 10
# after this many rounds a component is split and two are joined, if the images become more likely by it
FEW_ROUNDS = 3
EXCHANGES = 20
# images whose components are weighed at once
AT_ONCE = 256
# the least variance of a component along any direction, relative to the unit variance of all images
LEAST_VARIANCE = 1e-3
STARTS = 10


def fit_mixture(
    gram: Float[Tensor, "images volumes volumes"],
    projection: Float[Tensor, "images volumes"],
    components: int,
    metric: Float[Tensor, " latent"],
    seed: int,
) -> MixturePrior:
    """The mixture under which the images are most likely.

    Args:
        gram, projection: what every image says, see `GaussianPrior.moments`. metric: length of a unit of each latent in
            standard errors of one image; distances of the first clusters are measured in it. seed: of their starts.
    """
    from sklearn.cluster import KMeans

    mean = GaussianPrior().moments(gram, projection).first[:, 1:]
    labels = KMeans(components, n_init=STARTS, random_state=seed).fit((mean * metric).numpy()).labels_  # type: ignore[arg-type]
    member = torch.nn.functional.one_hot(torch.from_numpy(labels).to(torch.int64), components).to(mean.dtype)
    size = member.sum(0).clamp(min=1)
    centres = member.T @ mean / size[:, None]
    prior = _prior(size, centres, _scatter(member, mean, centres) / size[:, None, None])
    prior = exchanged(_after(prior, gram, projection, FEW_ROUNDS), gram, projection)
    return _after(prior, gram, projection, ROUNDS)


def _after(prior: MixturePrior, gram: Tensor, projection: Tensor, rounds: int) -> MixturePrior:
    for _ in range(rounds):
        prior = fitted_again(prior, gram, projection)
    return prior


def exchanged(
    prior: MixturePrior, gram: Float[Tensor, "images volumes volumes"], projection: Float[Tensor, "images volumes"]
) -> MixturePrior:
    """The mixture after joining the two nearest components and splitting the widest, as long as that is likelier.

    Clusters found from random starts often hold two states in one and share another between two. Source: Ueda et al. 2000.
    """
    best = float(evidence(prior, gram, projection).sum())
    for _ in range(EXCHANGES):
        trial = _after(_exchange(prior), gram, projection, FEW_ROUNDS)
        found = float(evidence(trial, gram, projection).sum())
        if found <= best:
            break
        prior, best = trial, found
    return prior


def _exchange(prior: MixturePrior) -> MixturePrior:
    """Two components that overlap most become one; the one that is widest for its share becomes two."""
    covariance = prior.spread @ prior.spread.mT
    count = len(prior.share)
    if count < 3:
        return prior
    gap = prior.mean[:, None] - prior.mean
    between = torch.linalg.solve(covariance[:, None] + covariance, gap[..., None])[..., 0]
    distance = (gap * between).sum(-1) + 1e9 * torch.eye(count)
    first, second = divmod(int(distance.argmin()), count)
    values, vectors = torch.linalg.eigh(covariance)
    width = prior.share * values[:, -1]
    width[first] = width[second] = -1
    widest = int(width.argmax())
    share, mean, spread = prior.share.clone(), prior.mean.clone(), prior.spread.clone()
    joined = share[first] + share[second]
    mean[first] = (share[first] * mean[first] + share[second] * mean[second]) / joined
    share[first] = joined
    step = values[widest, -1].sqrt() * vectors[widest, :, -1]
    mean[second], mean[widest] = mean[widest] + step, mean[widest] - step
    spread[second] = spread[widest]
    share[second] = share[widest] = share[widest] / 2
    return MixturePrior(share, mean, spread)


def evidence(
    prior: MixturePrior, gram: Float[Tensor, "images volumes volumes"], projection: Float[Tensor, "images volumes"]
) -> Float[Tensor, " images"]:
    """Log marginal likelihood of every image."""
    parts = zip(gram.split(AT_ONCE), projection.split(AT_ONCE), strict=True)
    return torch.cat([torch.logsumexp(prior.by_component(some, seen)[2], dim=1) for some, seen in parts])


def fitted_again(
    prior: MixturePrior, gram: Float[Tensor, "images volumes volumes"], projection: Float[Tensor, "images volumes"]
) -> MixturePrior:
    """The mixture after one more round of expectation and maximisation."""
    components, basis = prior.mean.shape
    size = torch.zeros(components)
    first = torch.zeros(components, basis)
    second = torch.zeros(components, basis, basis)
    for some, seen in zip(gram.split(AT_ONCE), projection.split(AT_ONCE), strict=True):
        means, covariances, log = prior.by_component(some, seen)
        share = torch.softmax(log, dim=1)
        size += share.sum(0)
        first += torch.einsum("ij,ijk->jk", share, means)
        second += torch.einsum("ij,ijkl->jkl", share, covariances)
        second += torch.einsum("ij,ijk,ijl->jkl", share, means, means)
    size = size.clamp(min=1e-3)
    centres = first / size[:, None]
    covariance = second / size[:, None, None] - centres[:, :, None] * centres[:, None, :]
    return _prior(size, centres, covariance)


def _scatter(member: Tensor, points: Tensor, centres: Tensor) -> Tensor:
    return torch.stack([((points - c) * m[:, None]).T @ (points - c) for m, c in zip(member.T, centres, strict=True)])


def _prior(size: Tensor, centres: Tensor, covariance: Tensor) -> MixturePrior:
    values, vectors = torch.linalg.eigh(covariance)
    spread = vectors * values.clamp(min=LEAST_VARIANCE).sqrt()[:, None, :]
    return MixturePrior(size / size.sum(), centres, spread)
