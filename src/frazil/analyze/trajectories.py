"""Paths through a latent cloud, with cryoDRGN's definitions: along a straight line, and from particle to particle.

(Paths along principal components: `components.Components.along`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from frazil.errors import InputError

# cryoDRGN's defaults
DIRECT_STEPS = 6
MOST_NEIGHBOURS, AVERAGE_NEIGHBOURS = 10, 5.0


def direct_path(anchors: Float[np.ndarray, "anchors latent"], steps: int) -> Float[np.ndarray, "points latent"]:
    """Points on the straight lines from anchor to anchor, ``steps`` on each including both its ends.

    An anchor between two lines is there once, so that A anchors give (A - 1) (steps - 1) + 1 points.
    """
    share = (np.arange(steps - 1) / (steps - 1))[:, None]
    legs = [first + share * (last - first) for first, last in zip(anchors[:-1], anchors[1:], strict=True)]
    return np.concatenate([*legs, anchors[-1:]])


def neighbours(
    cloud: Float[np.ndarray, "particles latent"], count: int
) -> tuple[Float[np.ndarray, "particles count"], Int[np.ndarray, "particles count"]]:
    """(distances, rows) of the ``count`` nearest particles of each, itself the first, nearest first."""
    from sklearn.neighbors import NearestNeighbors

    distance, rows = NearestNeighbors(n_neighbors=count).fit(cloud).kneighbors(cloud)
    return distance, rows.astype(np.int64)


def graph_path(
    latent: Float[np.ndarray, "particles latent"],
    anchors: Sequence[int],
    most: int = MOST_NEIGHBOURS,
    average: float = AVERAGE_NEIGHBOURS,
) -> Int[np.ndarray, " path"]:
    """Particles (rows) on the shortest path from anchor to anchor through the graph of nearest neighbours.

    An edge leads from every particle to each of its ``most`` nearest, itself among them, if it is shorter than the
    (average x particles)-th shortest of them all: long edges would leave the cloud. Lengths are Euclidean; edges are
    followed in their own direction (Dijkstra 1959). Rows that are not finite are left out.

    Raises:
        InputError: if an anchor is not finite, or no path leads from one to the next.
    """
    rows = np.flatnonzero(np.isfinite(latent).all(axis=1))
    place = np.full(len(latent), -1)
    place[rows] = np.arange(len(rows))
    lost = [anchor for anchor in anchors if place[anchor] < 0]
    if lost:
        raise InputError(f"the latent of anchor {lost[0]} is not finite", where="--graph", remedy="choose another")
    graph = _neighbour_graph(latent[rows].astype(np.float64), min(most, len(rows)), average)
    path = [int(place[anchors[0]])]
    for first, last in zip(anchors[:-1], anchors[1:], strict=True):
        leg = _shortest(graph, int(place[first]), int(place[last]))
        if leg is None:
            raise InputError(
                f"no path leads from particle {first} to {last}: the cloud is in pieces",
                where="--graph",
                remedy="raise --average-neighbours and --most-neighbours, or take --direct",
            )
        path += leg[1:]
    return rows[np.array(path)]


def _neighbour_graph(cloud: np.ndarray, most: int, average: float) -> Any:
    from scipy.sparse import csr_matrix

    distance, near = neighbours(cloud, most)
    kept = min(int(len(cloud) * average), distance.size)
    reach = np.partition(distance.ravel(), kept - 1)[kept - 1]
    # an edge of length 0 to another particle (the same latent) must not vanish from the sparse matrix
    length = np.maximum(distance, np.finfo(np.float64).tiny)
    keep = distance < reach
    start = np.repeat(np.arange(len(cloud)), most).reshape(distance.shape)
    return csr_matrix((length[keep], (start[keep], near[keep])), shape=(len(cloud), len(cloud)))


def _shortest(graph: Any, first: int, last: int) -> list[int] | None:
    from scipy.sparse.csgraph import dijkstra

    reached, before = dijkstra(graph, indices=first, return_predecessors=True)
    if not np.isfinite(reached[last]):
        return None
    path = [last]
    while path[-1] != first:
        path.append(int(before[path[-1]]))
    return path[::-1]
