"""What the cloud of latent coordinates looks like: its axes, and a map of it in the plane."""

from __future__ import annotations

from dataclasses import dataclass

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
