"""The landscape of volumes: many decoded maps, their principal components inside a mask, and their clusters.

The latent of a network is a coordinate without a scale: what is far apart in it may look the same. Here distances are those
between maps. Definitions are those of cryoDRGN's analyze_landscape: maps at k-means centres, a mask around what is dense in
any of them, principal components of the masked maps without their negative parts, and average linkage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Bool, Float, Int

from frazil.errors import InputError

# the mask: voxels above half of this percentile (the mean over all maps), and this much around them, Å
DENSE_PERCENTILE, DILATION = 99.99, 5.0


@final
@dataclass(frozen=True)
class Landscape:
    """Decoded maps in the space of their own principal components.

    Attributes:
        coordinates: of every map along every component. fraction: share of the variance along each.
        components: (K, voxels) unit vectors over the mask; mean: (voxels,) of the masked maps.
        state: the cluster of every map, numbered along the first component.
        weight: particles nearest to each map.
    """

    coordinates: Float[np.ndarray, "maps components"]
    fraction: Float[np.ndarray, " components"]
    components: Float[np.ndarray, "components voxels"]
    mean: Float[np.ndarray, " voxels"]
    state: Int[np.ndarray, " maps"]
    weight: Int[np.ndarray, " maps"]

    @property
    def state_count(self) -> int:
        """Number of clusters."""
        return int(self.state.max()) + 1

    @property
    def population(self) -> Int[np.ndarray, " states"]:
        """Particles in each cluster."""
        return np.bincount(self.state, weights=self.weight, minlength=self.state_count).astype(np.int64)


def landscape_mask(volumes: Float[np.ndarray, "maps n n n"], pixel_size: float) -> Bool[np.ndarray, "n n n"]:
    """Voxels that are dense in any map, and those within `DILATION` of them.

    Raises:
        InputError: no voxel is dense: the maps are empty.
    """
    from scipy.ndimage import binary_dilation

    threshold = float(np.mean([np.percentile(volume, DENSE_PERCENTILE) / 2 for volume in volumes]))
    inside = np.asarray((volumes >= threshold).any(axis=0)) & (threshold > 0)
    if not inside.any():
        raise InputError("the decoded maps hold no density", remedy="give a mask with --landscape.mask")
    steps = int(DILATION // pixel_size)
    return np.asarray(binary_dilation(inside, iterations=steps)) if steps else inside


def explore(
    volumes: Float[np.ndarray, "maps n n n"],
    mask: Float[np.ndarray, "n n n"] | Bool[np.ndarray, "n n n"],
    weight: Int[np.ndarray, " maps"],
    components: int,
    states: int,
    seed: int,
) -> Landscape:
    """Principal components and clusters of maps.

    Args:
        mask: its values multiply the maps; voxels where it is 0 are left out. weight: particles that each map stands for.
        components: at most as many as there are maps less one. states: at most as many as there are maps.
    """
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.decomposition import PCA

    inside = mask > 0
    vectors = np.clip(volumes[:, inside] * mask[inside].astype(np.float32), 0, None)
    count = max(1, min(components, len(volumes) - 1, vectors.shape[1]))
    pca = PCA(count, random_state=seed).fit(vectors)
    coordinates = pca.transform(vectors)
    axes = np.asarray(pca.components_)
    # the largest entry of each component is positive: the picture does not turn round between runs
    largest = axes[np.arange(count), np.abs(axes).argmax(axis=1)]
    sign = np.where(largest < 0, -1.0, 1.0)
    coordinates, axes = coordinates * sign, axes * sign[:, None]
    labels = AgglomerativeClustering(min(states, len(volumes)), linkage="average").fit_predict(vectors)
    places = [coordinates[labels == k, 0].mean() for k in range(labels.max() + 1)]
    rank = np.argsort(np.argsort(places, kind="stable"), kind="stable")
    fraction = np.nan_to_num(pca.explained_variance_ratio_)
    return Landscape(coordinates, fraction, axes, pca.mean_, rank[labels].astype(np.int64), weight.astype(np.int64))


def state_maps(
    volumes: Float[np.ndarray, "maps n n n"], landscape: Landscape
) -> list[tuple[Float[np.ndarray, "n n n"], Float[np.ndarray, "n n n"]]]:
    """(mean, standard deviation) of the maps of each cluster, weighted by the particles they stand for."""
    found = []
    for k in range(landscape.state_count):
        members = landscape.state == k
        weight = landscape.weight[members].astype(np.float64)
        weight = weight / weight.sum() if weight.sum() > 0 else np.full(len(weight), 1 / len(weight))
        mean = np.einsum("m,mzyx->zyx", weight, volumes[members])
        spread = np.einsum("m,mzyx->zyx", weight, (volumes[members] - mean) ** 2)
        found.append((mean.astype(np.float32), np.sqrt(spread).astype(np.float32)))
    return found


def place_particles(
    latent: Float[np.ndarray, "particles latent"],
    points: Float[np.ndarray, "maps latent"],
    coordinates: Float[np.ndarray, "maps components"],
) -> Float[np.ndarray, "particles components"]:
    """Volume coordinates of every particle, interpolated between the decoded maps around it in the latent.

    The nearest maps count by the inverse square of their distance, measured in standard deviations of the decoded points,
    so that a particle at a map has exactly its coordinates. NaN where the latent is.
    """
    from sklearn.neighbors import KNeighborsRegressor

    rows = np.flatnonzero(np.isfinite(latent).all(axis=1))
    scale = points.std(axis=0)
    scale = np.where(scale > 0, scale, 1)
    inverse_square: Any = lambda distance: 1 / np.maximum(distance, 1e-9) ** 2  # noqa: E731
    regression = KNeighborsRegressor(min(2 * points.shape[1] + 2, len(points)), weights=inverse_square)
    placed = np.full((len(latent), coordinates.shape[1]), np.nan)
    placed[rows] = regression.fit(points / scale, coordinates).predict(latent[rows] / scale)
    return placed
