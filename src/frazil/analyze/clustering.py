"""States: particles in groups of similar conformation, by k-means, a mixture of Gaussians, or communities of a graph.

Whatever the method, a state's centre is a real particle, and states are numbered along the first principal component. States
that the reconstruction has learnt itself keep its order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
from jaxtyping import Float, Int

from frazil.analyze.components import Components, finite_rows
from frazil.analyze.trajectories import neighbours
from frazil.errors import InputError

Method = Literal["kmeans", "gmm", "leiden"]

KMEANS_STATES = 10
# without a number of states, mixtures of 1 to this many Gaussians are compared
MOST_GAUSSIANS = 12
# mixtures are fitted to at most this many particles, and then asked of all
GAUSSIANS_FROM_AT_MOST = 50_000
# edges of each particle in the graph whose communities are found
GRAPH_NEIGHBOURS = 15


@final
@dataclass(frozen=True)
class States:
    """Particles in groups of similar conformation.

    Attributes:
        state: (N,) the state of each particle, 0 to K - 1; -1 where the latent is not finite.
        rows: (K,) the particle nearest to the centre of each state: decoding a real particle's latent cannot leave the
            cloud, as the mean of a curved cluster would.
        centres: (K, d) the latents of those particles.
        method: how they were found, in words.
        probability: (N, K) of each particle's membership, where the method gives one.
        learnt: whether they are the discrete states that the reconstruction has learnt itself.
    """

    state: Int[np.ndarray, " particles"]
    rows: Int[np.ndarray, " states"]
    centres: Float[np.ndarray, "states latent"]
    method: str = "k-means of the latent"
    probability: Float[np.ndarray, "particles states"] | None = None
    learnt: bool = False

    @property
    def counts(self) -> Int[np.ndarray, " states"]:
        """Particles in each state."""
        return np.bincount(self.state[self.state >= 0], minlength=len(self.rows))


def find_states(
    latent: Float[np.ndarray, "particles latent"],
    components: Components,
    method: Method,
    count: int | None,
    resolution: float,
    seed: int,
) -> States:
    """Group the finite rows of a latent table.

    Args:
        method: ``kmeans``: k-means, `KMEANS_STATES` when no number is given. ``gmm``: a mixture of Gaussians with full
            covariances; without a number, the one of the least Bayesian information criterion (Schwarz 1978).
            ``leiden``: communities of the graph of nearest neighbours (Traag, Waltman and van Eck 2019).
        count: number of states; leiden finds its own. resolution: of leiden; higher gives more states.

    Raises:
        InputError: more states than particles with different finite latents, a number given to leiden, or leiden's
            library is not installed.
    """
    rows = finite_rows(latent)
    cloud = latent[rows].astype(np.float64)
    if method == "leiden":
        if count is not None:
            raise InputError(
                "leiden finds the number of states itself", where="--clusters", remedy="give --resolution instead"
            )
        return _assemble(latent, rows, components, *_communities(cloud, resolution, seed))
    different = len(np.unique(cloud, axis=0)) if len(cloud) < 100_000 else len(cloud)
    if count is not None and count > different:
        raise InputError(
            f"{count} clusters were asked of {different} different latent coordinates",
            where="--clusters",
            remedy=f"give at most {different}",
        )
    if method == "gmm":
        return _assemble(latent, rows, components, *_mixture(cloud, count, different, seed))
    return _assemble(latent, rows, components, *_kmeans(cloud, min(count or KMEANS_STATES, different), seed))


def learnt_states(
    latent: Float[np.ndarray, "particles latent"], probability: Float[np.ndarray, "particles components"]
) -> States:
    """The discrete states that a reconstruction has learnt itself, in its order; those without a particle are left out.

    The particle at the centre of a state is the one that belongs to it most surely.

    Args:
        probability: of every component of the reconstruction, for every particle.
    """
    rows = finite_rows(latent)
    likeliest = probability.argmax(axis=1)
    used = np.unique(likeliest[rows])
    state = np.full(len(latent), -1, dtype=np.int64)
    state[rows] = np.searchsorted(used, likeliest[rows])
    members = [np.flatnonzero(state == k) for k in range(len(used))]
    surest = np.array([own[probability[own, k].argmax()] for own, k in zip(members, used, strict=True)])
    left_out = probability.shape[1] - len(used)
    words = "the discrete states that the job has learnt"
    words += (
        f", without {left_out} to which no particle belongs" if left_out else ", with their numbers in component.npy"
    )
    return States(state, surest, latent[surest], words, probability[:, used], learnt=True)


Found = tuple[np.ndarray, np.ndarray, str, np.ndarray | None]
"""Labels of the finite rows, centres, the method in words, probabilities where there are any."""


def _kmeans(cloud: np.ndarray, count: int, seed: int) -> Found:
    from sklearn.cluster import KMeans

    starts: Any = 4 if len(cloud) < 100_000 else 1
    found = KMeans(count, n_init=starts, random_state=seed).fit(cloud)
    return np.asarray(found.labels_), found.cluster_centers_, "k-means of the latent", None


def _mixture(cloud: np.ndarray, count: int | None, different: int, seed: int) -> Found:
    from sklearn.mixture import GaussianMixture

    few = cloud
    if len(cloud) > GAUSSIANS_FROM_AT_MOST:
        few = cloud[np.random.default_rng(seed).choice(len(cloud), GAUSSIANS_FROM_AT_MOST, replace=False)]
    # a state of fewer particles than its covariance has entries would be fitted to chance
    largest = max(1, min(MOST_GAUSSIANS, different // (2 * cloud.shape[1] + 2)))
    counts = range(1, largest + 1) if count is None else [count]
    # a floor under the variances in proportion to the cloud: a state cannot shrink to one point
    floor = 1e-6 * float(np.trace(np.cov(few.T).reshape(cloud.shape[1], -1))) / cloud.shape[1] + 1e-12
    fits = [GaussianMixture(k, n_init=2, reg_covar=floor, random_state=seed).fit(few) for k in counts]
    best = min(fits, key=lambda fit: fit.bic(few))
    share = best.predict_proba(cloud)
    labels = share.argmax(axis=1)
    # a Gaussian under another's shadow is no particle's likeliest: it is left out
    used = np.unique(labels)
    chosen = ", their number chosen by the Bayesian information criterion" if count is None else ""
    words = f"a mixture of {len(used)} Gaussians{chosen}"
    return np.searchsorted(used, labels), np.asarray(best.means_)[used], words, share[:, used]


def _communities(cloud: np.ndarray, resolution: float, seed: int) -> Found:
    try:
        # Leiden is in no library frazil needs anyway: networkx only names it, and igraph's and leidenalg's licence (GPL)
        # would bind those who pass frazil on. This one is a single compiled module under the MIT licence.
        from graspologic_native import leiden  # type: ignore[import-not-found]
    except ImportError:
        raise InputError(
            "the library that finds communities is not installed",
            where="--method leiden",
            remedy="pip install 'frazil[leiden]', or take --method gmm",
        ) from None
    distance, near = neighbours(cloud, min(GRAPH_NEIGHBOURS + 1, len(cloud)))
    names = [str(row) for row in range(len(cloud))]
    # an edge counts by how near its ends are, measured with each end's own scale (Zelnik-Manor and Perona 2004)
    scale = np.maximum(distance[:, -1], np.finfo(np.float64).tiny)
    edges = []
    for row, (far, others) in enumerate(zip(distance, near, strict=True)):
        weight = np.exp(-(far**2) / (scale[row] * scale[others]))
        edges += [
            (names[row], names[other], float(w))
            for other, w in zip(others, weight, strict=True)
            if other != row and w > 0
        ]
    _, partition = leiden(edges, resolution=resolution, seed=seed, iterations=3)
    labels = np.unique([partition[name] for name in names], return_inverse=True)[1].reshape(-1)
    centres = np.stack([cloud[labels == k].mean(axis=0) for k in range(labels.max() + 1)])
    return labels, centres, f"Leiden communities of the graph of {GRAPH_NEIGHBOURS} nearest neighbours", None


def _assemble(
    latent: np.ndarray,
    rows: np.ndarray,
    components: Components,
    labels: np.ndarray,
    centres: np.ndarray,
    method: str,
    probability: np.ndarray | None,
) -> States:
    """States in the order of their centres along the first component, each centre moved to its nearest particle."""
    cloud = latent[rows].astype(np.float64)
    order = np.argsort(components.project(centres)[:, 0], kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    labels = rank[labels]
    nearest = np.array([_nearest_member(cloud, labels, k, centres[order[k]]) for k in range(len(order))])
    state = np.full(len(latent), -1, dtype=np.int64)
    state[rows] = labels
    share = None
    if probability is not None:
        share = np.full((len(latent), len(order)), np.nan)
        share[rows] = probability[:, order]
    return States(state, rows[nearest], latent[rows[nearest]], method, share)


def _nearest_member(cloud: np.ndarray, labels: np.ndarray, state: int, centre: np.ndarray) -> int:
    members = np.flatnonzero(labels == state)
    return int(members[np.square(cloud[members] - centre).sum(axis=1).argmin()])
