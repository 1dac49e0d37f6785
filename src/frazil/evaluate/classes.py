"""Discrete states found against the true ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

Labels = Int[np.ndarray, " count"]


def cluster(latent: Float[np.ndarray, "count latent"], clusters: int) -> Labels:
    """k-means on z, the best of ten starts."""
    from sklearn.cluster import KMeans

    starts: Any = 10  # scikit-learn's annotation knows only "auto"
    return KMeans(clusters, n_init=starts, random_state=0).fit_predict(np.asarray(latent, np.float64))


def agreement_figures(found: Labels, state: Labels) -> dict[str, float]:
    """Adjusted Rand index, adjusted mutual information, and, after the best assignment of classes to states, accuracy.

    `largest_population_difference` is in percent of all particles: how far the share of any state is from the share of
    the classes assigned to it. A class more than there are states stands for none.
    """
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

    state_of = best_assignment(found, state)
    assigned = np.array([state_of[label] for label in np.unique(found)])[np.unique(found, return_inverse=True)[1]]
    states = np.unique(state)
    shares = np.array([[np.mean(labels == one) for one in states] for labels in (assigned, state)])
    return {
        "adjusted_rand_index": float(adjusted_rand_score(state, found)),
        "adjusted_mutual_information": float(adjusted_mutual_info_score(state, found)),
        "accuracy": float(np.mean(assigned == state)),
        "largest_population_difference": 100 * float(np.abs(shares[0] - shares[1]).max()),
    }


def best_assignment(found: Labels, state: Labels) -> dict[int, int]:
    """The state of each class, one to one, that most particles agree with (-1 for a class left over): Kuhn 1955."""
    from scipy.optimize import linear_sum_assignment

    classes, in_class = np.unique(found, return_inverse=True)
    states, in_state = np.unique(state, return_inverse=True)
    counts = np.zeros((len(classes), len(states)), np.int64)
    np.add.at(counts, (in_class, in_state), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    chosen = dict(zip(classes[rows].tolist(), states[columns].tolist(), strict=True))
    return {label: chosen.get(label, -1) for label in classes.tolist()}
