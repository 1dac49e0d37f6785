"""Latent coordinates against the true ones: does z order the particles as the truth does?"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int

from frazil.evaluate.classes import agreement_figures, cluster
from frazil.numerics.statistics import spearman

Latent = Float[np.ndarray, "count latent"]
MOST_POINTS = 2000


def thinned(count: int, most: int = MOST_POINTS) -> Int[np.ndarray, " kept"]:
    """At most ``most`` row numbers spread evenly over ``count`` rows."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def rank_correlation(a: Float[np.ndarray, " count"], b: Float[np.ndarray, " count"]) -> float:
    """Spearman's rank correlation."""
    return spearman(torch.from_numpy(np.asarray(a, np.float64)), torch.from_numpy(np.asarray(b, np.float64)))


def first_principal_component(latent: Latent) -> Float[np.ndarray, " count"]:
    """Projection of the latents onto the direction of largest variance."""
    centred = np.asarray(latent, np.float64) - np.mean(latent, axis=0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][0]


def pc1_correlation(latent: Latent, truth: Float[np.ndarray, " count"]) -> float:
    """``|Spearman|`` of the first principal component of z with a true coordinate."""
    return abs(rank_correlation(first_principal_component(latent), truth))


def isomap(latent: Latent, dimensions: int, neighbours: int = 30) -> Float[np.ndarray, "count dimensions"]:
    """Isometric embedding by geodesic distances in a neighbour graph (Tenenbaum et al. 2000)."""
    from sklearn.manifold import Isomap

    kept = np.asarray(latent, np.float64)
    return Isomap(n_neighbors=min(neighbours, len(kept) - 1), n_components=dimensions).fit_transform(kept)


def isomap_correlation(latent: Latent, truth: Float[np.ndarray, " count"]) -> float:
    """``|Spearman|`` of the best one-dimensional embedding of z with a true coordinate, on at most 2,000 points."""
    rows = thinned(len(latent))
    return abs(rank_correlation(isomap(latent[rows], 1)[:, 0], truth[rows]))


def circular_correlation(phase: Float[np.ndarray, " count"], truth: Float[np.ndarray, " count"]) -> float:
    """Correlation of two angles (radians), blind to where either starts and which way it turns.

    ``max over sign of |<exp(i (+-a - b))>|`` of their uniform ranks: 1 when one angle is a monotone map of the other
    round the circle, 0 when they have nothing to do with each other. Source: Fisher and Lee 1982 (rank version).
    """

    def even(angle: np.ndarray) -> np.ndarray:
        return 2 * np.pi * np.argsort(np.argsort(angle % (2 * np.pi))) / len(angle)

    a, b = even(phase), even(truth)
    return float(max(abs(np.exp(1j * (a - b)).mean()), abs(np.exp(1j * (a + b)).mean())))


def circle_correlation(latent: Latent, truth: Float[np.ndarray, " count"]) -> float:
    """Circular correlation of the angle of z in its best two-dimensional embedding with a coordinate that wraps at 1."""
    rows = thinned(len(latent))
    plane = isomap(latent[rows], 2) if np.shape(latent)[1] > 1 else np.c_[latent[rows], np.zeros(len(rows))]
    centred = plane - plane.mean(0)
    return circular_correlation(np.arctan2(centred[:, 1], centred[:, 0]), 2 * np.pi * truth[rows])


def neighbour_prediction(
    latent: Latent, truth: Float[np.ndarray, " count"], *, circular: bool = False, neighbours: int = 20
) -> float:
    """How well z knows a true coordinate: rank correlation of its mean over each particle's nearest neighbours in z.

    The particle itself is left out. A circular coordinate is averaged on the circle, and the circular correlation is
    given.
    """
    from sklearn.neighbors import NearestNeighbors

    rows = thinned(len(latent), 10_000)
    points, values = np.asarray(latent, np.float64)[rows], np.asarray(truth, np.float64)[rows]
    found = NearestNeighbors(n_neighbors=min(neighbours, len(rows) - 1)).fit(points).kneighbors(return_distance=False)
    if circular:
        mean = np.exp(2j * np.pi * values)[found].mean(1)
        return circular_correlation(np.angle(mean), 2 * np.pi * values)
    return rank_correlation(values[found].mean(1), values)


def _neighbour_order(points: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Row numbers of the ``count`` nearest points of each of ``rows``, itself excluded, nearest first."""
    squared = (points**2).sum(1)
    distance = squared[rows, None] + squared - 2 * points[rows] @ points.T
    distance[np.arange(len(rows)), rows] = np.inf
    nearest = np.argpartition(distance, count - 1, axis=1)[:, :count]
    order = np.argsort(np.take_along_axis(distance, nearest, 1), axis=1, kind="stable")
    return np.take_along_axis(nearest, order, 1)


def neighbourhood_similarity(
    latent: Latent, truth: Latent, *, subsets: int = 5, largest: int = 4000, step: int = 200
) -> tuple[float, float]:
    """Mean share of the k nearest neighbours that z and the truth have in common, and its deviation over subsets.

    Every fifth point makes a subset; k runs from ``step`` to ``largest`` in steps, and no further than a fifth of the
    subset (small data sets: ten equal steps up to there). Source: CryoBench.
    """
    results = []
    for first in range(subsets):
        a = np.asarray(latent, np.float64)[first::subsets]
        b = np.asarray(truth, np.float64)[first::subsets].reshape(len(a), -1)
        limit = min(largest, max(2, len(a) // 5), len(a) - 1)
        stride = step if limit >= 2 * step else max(1, limit // 10)
        results.append(_shared_share(a, b, np.arange(stride, limit + 1, stride)))
    return float(np.mean(results)), float(np.std(results))


def _shared_share(a: np.ndarray, b: np.ndarray, sizes: np.ndarray) -> float:
    total, largest = 0.0, int(sizes.max())
    for first in range(0, len(a), 500):
        rows = np.arange(first, min(first + 500, len(a)))
        in_a, in_b = _neighbour_order(a, rows, largest), _neighbour_order(b, rows, largest)
        # rank of each of a's neighbours among b's: shared by k when both ranks are below k
        rank = np.full((len(rows), len(a)), len(a))
        np.put_along_axis(rank, in_b, np.arange(largest)[None].repeat(len(rows), 0), 1)
        later = np.maximum(np.take_along_axis(rank, in_a, 1), np.arange(largest))
        total += sum(float((later < size).sum()) / size for size in sizes)
    return total / (len(a) * len(sizes))


def information_imbalance(a: Latent, b: Latent) -> float:
    """``2 / N`` times the mean rank in b of each particle's nearest neighbour in a: 0 when a predicts b, 1 when it
    cannot.

    On at most 2,000 points. Source: Glielmo et al. 2022 (DADApy).
    """
    rows = thinned(len(a))
    a, b = (np.asarray(points, np.float64)[rows].reshape(len(rows), -1) for points in (a, b))
    every = np.arange(len(rows))
    nearest = _neighbour_order(a, every, 1)[:, 0]
    distance = np.square(b[:, None] - b).sum(-1) if b.shape[1] < 8 else _squared_distances(b)
    rank = (distance < distance[every, nearest][:, None]).sum(1)  # itself counts: ranks start at 1
    return float(2 * rank.mean() / len(rows))


def _squared_distances(points: np.ndarray) -> np.ndarray:
    squared = (points**2).sum(1)
    return np.maximum(squared[:, None] + squared - 2 * points @ points.T, 0)


def latent_figures(
    latent: Latent,
    truth: Latent | None,
    state: Int[np.ndarray, " count"],
    circular: tuple[bool, ...] = (),
) -> dict[str, float]:
    """All figures that apply: of continuous coordinates when there are any, of discrete states otherwise."""
    if truth is None:
        states = len(np.unique(state))
        return agreement_figures(cluster(latent, states), state) if states > 1 else {}
    wraps = circular or (False,) * truth.shape[1]
    on_torus = np.concatenate([_unrolled(column, wrap) for column, wrap in zip(truth.T, wraps, strict=True)], axis=1)
    figures: dict[str, float] = {}
    if truth.shape[1] == 1 and not wraps[0]:
        figures["spearman_pc1"] = pc1_correlation(latent, truth[:, 0])
        figures["spearman_isomap"] = isomap_correlation(latent, truth[:, 0])
    if truth.shape[1] == 1 and wraps[0]:
        figures["circular_correlation"] = circle_correlation(latent, truth[:, 0])
    for index, wrap in enumerate(wraps):
        name = "neighbour_prediction" if truth.shape[1] == 1 else f"neighbour_prediction_{index + 1}"
        figures[name] = neighbour_prediction(latent, truth[:, index], circular=wrap)
    mean, deviation = neighbourhood_similarity(latent, on_torus)
    return figures | {
        "neighbourhood_similarity_mean": mean,
        "neighbourhood_similarity_std": deviation,
        "imbalance_latent_to_truth": information_imbalance(latent, on_torus),
        "imbalance_truth_to_latent": information_imbalance(on_torus, latent),
    }


def _unrolled(column: np.ndarray, wraps: bool) -> np.ndarray:
    if not wraps:
        return column[:, None]
    return np.stack([np.cos(2 * np.pi * column), np.sin(2 * np.pi * column)], axis=1)


def leakage_figures(latent: Latent, nuisances: dict[str, Latent]) -> dict[str, float]:
    """Information imbalance from z to what z must not know (pose, defocus): 1 when nothing leaked, 0 when z predicts it."""
    return {
        f"imbalance_latent_to_{name}": information_imbalance(latent, _standardised(values))
        for name, values in nuisances.items()
    }


def _standardised(values: np.ndarray) -> np.ndarray:
    deviation = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
