"""What the cloud of latent coordinates looks like: its axes, its states, paths through it, a map of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from frazil.errors import InputError

# UMAP is fitted on at most this many particles: time and memory grow faster than their number
UMAP_AT_MOST = 100_000


@dataclass(frozen=True)
class Components:
    """Principal components of a latent cloud.

    Attributes:
        mean: centre of the cloud. axes: unit vectors, one row per component, most variance first; the largest entry of
            each is positive, so that a component never turns round between runs.
        fraction: share of the variance along each. coordinates: of every particle along every axis (NaN where the
            latent is).
    """

    mean: Float[np.ndarray, " latent"]
    axes: Float[np.ndarray, "components latent"]
    fraction: Float[np.ndarray, " components"]
    coordinates: Float[np.ndarray, "particles components"]

    def along(
        self, component: int, steps: int, low: float = 5.0, high: float = 95.0
    ) -> Float[np.ndarray, "steps latent"]:
        """Points on the axis of a component (0 is the first), through the mean of the cloud.

        They go in equal steps from the `low`-th to the `high`-th percentile of the particles' coordinates.
        """
        spread = self.coordinates[:, component]
        first, last = np.percentile(spread[np.isfinite(spread)], (low, high))
        return self.mean + np.linspace(first, last, steps)[:, None] * self.axes[component]

    def project(self, latent: Float[np.ndarray, "points latent"]) -> Float[np.ndarray, "points components"]:
        """Coordinates of latent points along the axes."""
        return (latent - self.mean) @ self.axes.T


@dataclass(frozen=True)
class States:
    """Particles in groups of similar conformation.

    Attributes:
        state: (N,) the state of each particle, 0 to K - 1; -1 where the latent is not finite.
        rows: (K,) the particle nearest to the centre of each state: decoding a real particle's latent cannot leave the
            cloud, as the mean of a curved cluster would.
        centres: (K, d) the latents of those particles.
    """

    state: Int[np.ndarray, " particles"]
    rows: Int[np.ndarray, " states"]
    centres: Float[np.ndarray, "states latent"]

    @property
    def counts(self) -> Int[np.ndarray, " states"]:
        """Particles in each state."""
        return np.bincount(self.state[self.state >= 0], minlength=len(self.rows))


def finite_rows(latent: Float[np.ndarray, "particles latent"]) -> Int[np.ndarray, " rows"]:
    """Rows whose latent holds neither NaN nor infinity."""
    return np.flatnonzero(np.isfinite(latent).all(axis=1))


def principal_components(latent: Float[np.ndarray, "particles latent"]) -> Components:
    """Principal component analysis of the finite rows of a latent table.

    Raises:
        InputError: fewer than two rows are finite.
    """
    rows = finite_rows(latent)
    if len(rows) < 2:
        raise InputError(
            f"{len(rows)} of {len(latent)} latent coordinates are finite, at least two are needed",
            remedy="reconstruct again: training did not converge",
        )
    cloud = latent[rows].astype(np.float64)
    mean = cloud.mean(axis=0)
    variance, axes = np.linalg.eigh((cloud - mean).T @ (cloud - mean) / len(cloud))
    axes, variance = axes.T[::-1], np.clip(variance[::-1], 0, None)
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    axes = axes * np.where(largest < 0, -1.0, 1.0)[:, None]
    total = variance.sum()
    fraction = variance / total if total > 0 else np.zeros_like(variance)
    return Components(mean, axes, fraction, (latent.astype(np.float64) - mean) @ axes.T)


def cluster(latent: Float[np.ndarray, "particles latent"], components: Components, count: int, seed: int) -> States:
    """k-means states, each centre snapped to its nearest particle, numbered along the first principal component.

    Raises:
        InputError: more clusters than particles with different finite latents.
    """
    from sklearn.cluster import KMeans

    rows = finite_rows(latent)
    cloud = latent[rows].astype(np.float64)
    different = len(np.unique(cloud, axis=0)) if len(cloud) < 100_000 else len(cloud)
    if count > different:
        raise InputError(
            f"{count} clusters were asked of {different} different latent coordinates",
            where="--clusters",
            remedy=f"give at most {different}",
        )
    starts: Any = 4 if len(cloud) < 100_000 else 1
    found = KMeans(count, n_init=starts, random_state=seed).fit(cloud)
    order = np.argsort(components.project(found.cluster_centers_)[:, 0], kind="stable")
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count)
    labels = rank[found.labels_]
    nearest = np.array([_nearest_member(cloud, labels, k, found.cluster_centers_[order[k]]) for k in range(count)])
    state = np.full(len(latent), -1, dtype=np.int64)
    state[rows] = labels
    return States(state, rows[nearest], latent[rows[nearest]])


def _nearest_member(cloud: np.ndarray, labels: np.ndarray, state: int, centre: np.ndarray) -> int:
    members = np.flatnonzero(labels == state)
    return int(members[np.square(cloud[members] - centre).sum(axis=1).argmin()])


def umap_plane(latent: Float[np.ndarray, "particles latent"], seed: int) -> Float[np.ndarray, "particles 2"]:
    """UMAP of a latent table in the plane (McInnes, Healy and Melville 2018), the same for the same seed.

    Past `UMAP_AT_MOST` particles a random part is embedded; the others, and rows that are not finite, get NaN.
    """
    import warnings

    rows = finite_rows(latent)
    if len(rows) > UMAP_AT_MOST:
        rows = np.sort(np.random.default_rng(seed).choice(rows, UMAP_AT_MOST, replace=False))
    plane = np.full((len(latent), 2), np.nan, dtype=np.float32)
    with warnings.catch_warnings():
        # a seed makes UMAP use one thread, and it says so each time
        warnings.filterwarnings("ignore", message="n_jobs value")
        from umap import UMAP

        neighbours = max(2, min(15, len(rows) - 1))
        plane[rows] = UMAP(n_neighbors=neighbours, random_state=seed, init=_start(len(rows))).fit_transform(
            latent[rows]
        )
    return plane


def _start(count: int) -> str:
    # the spectral start needs more points than it has eigenvectors
    return "spectral" if count > 10 else "random"
