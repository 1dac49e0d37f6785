"""Whether the stated uncertainty of z is right: the share of particles whose truth lies in their 90 % interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from frazil.data.truth import Truth

LEVEL = 0.9
FEWEST_NEIGHBOURS, MOST_NEIGHBOURS = 30, 1000
MOST_PARTICLES = 2000


@runtime_checkable
class ProjectingEnsemble(Protocol):
    """An ensemble that knows which of its latents is nearest to a map."""

    def project_volume(self, volume: Float[Tensor, "n n n"]) -> Float[Tensor, " latent"]:
        """The latent whose density differs least from a map on the grid of the ensemble."""
        ...


def coverage_of_truth(latent: np.ndarray, covariance: np.ndarray, truth: Truth) -> dict[str, Any]:
    """`along_truth` for every true coordinate; numbered when there are several."""
    assert truth.latent is not None
    circular = truth.facts.get("circular", [False] * truth.latent.shape[1])
    found = [
        along_truth(latent, covariance, column, circular=bool(wrap))
        for column, wrap in zip(truth.latent.T, circular, strict=True)
    ]
    if len(found) == 1:
        return dict(found[0])
    return {f"coordinate_{index}": figures for index, figures in enumerate(found, start=1)}


def coverage_of_latent(
    ensemble: ProjectingEnsemble,
    latent: np.ndarray,
    covariance: np.ndarray,
    true_map: Callable[[int], Tensor],
    images: int,
) -> dict[str, Any]:
    """`in_latent` for particles spread evenly over the rows, whose true maps are projected onto the ensemble."""
    rows = np.arange(0, len(latent), max(1, len(latent) // max(images, 1)))[:images]
    if len(rows) == 0:
        return {}
    true_latent = np.stack([ensemble.project_volume(true_map(int(row))).detach().cpu().numpy() for row in rows])
    return {"projected": in_latent(latent[rows], covariance[rows], true_latent) | {"count": len(rows)}}


def along_truth(
    latent: Float[np.ndarray, "count latent"],
    covariance: Float[np.ndarray, "count latent latent"],
    truth: Float[np.ndarray, " count"],
    *,
    circular: bool = False,
) -> dict[str, float]:
    """Coverage of a true coordinate: what z and its covariance say of it, by a local regression.

    Near each particle, over others whose z lies within two standard deviations of its posterior (at least 30), the truth
    is ``a + g.(z - z_i)``; nothing that z stands for can vary faster. When the posterior is right, the truth of the
    particle has mean a and variance ``g^T C_i g``. The error of a itself is added, and what the error of g adds on average
    is taken off; a weak prior keeps g small in directions in which z does not vary. Also given: the median standard
    deviation stated and the root mean square error found, both of the coordinate. A circular coordinate is unrolled about
    its neighbours' mean. On at most 2,000 particles.
    """
    points, dimensions = np.asarray(latent, np.float64), latent.shape[1]
    rows = np.unique(np.linspace(0, len(points) - 1, min(len(points), MOST_PARTICLES)).round().astype(int))
    least = min(max(FEWEST_NEIGHBOURS, 4 * (dimensions + 1)), len(points) - 1)
    # slopes beyond twice that of a straight line through everything are not expected, least of all where z hardly varies
    widest = np.linalg.eigvalsh(np.cov(points.T).reshape(dimensions, -1))[-1]
    stiffness = np.diag([1e-12] + [widest / (4 * np.var(truth) + 1e-12)] * dimensions)
    error, deviation = np.empty(len(rows)), np.empty(len(rows))
    for index, row in enumerate(rows):
        own = np.asarray(covariance[row], np.float64)
        others = _within(points, row, own, least)
        offset, value = points[others] - points[row], truth[others]
        origin = np.angle(np.exp(2j * np.pi * value).mean()) / (2 * np.pi) if circular else 0.0
        if circular:
            value = (value - origin + 0.5) % 1 - 0.5
        design = np.c_[np.ones(len(others)), offset]
        square = design.T @ design
        plain = np.linalg.lstsq(design, value, rcond=None)[0]
        scatter = np.square(value - design @ plain).sum() / max(len(others) - design.shape[1], 1)
        inverse = np.linalg.inv(square + scatter * stiffness)
        fitted = inverse @ design.T @ value
        uncertainty = scatter * inverse @ square @ inverse  # of the fitted values
        spread = fitted[1:] @ own @ fitted[1:] - np.trace(own @ uncertainty[1:, 1:])
        deviation[index] = np.sqrt(max(spread, 0) + uncertainty[0, 0])
        error[index] = truth[row] - origin - fitted[0]
    if circular:
        error = (error + 0.5) % 1 - 0.5
    return {
        "coverage_90": float(np.mean(np.abs(error) <= stats.norm.ppf(0.5 + LEVEL / 2) * deviation)),
        "stated_deviation": float(np.median(deviation)),
        "rms_error": float(np.sqrt(np.mean(error**2))),
    }


def _within(points: np.ndarray, row: int, covariance: np.ndarray, least: int) -> np.ndarray:
    """Rows within two standard deviations of one, itself left out: at least some, at most a thousand of the nearest."""
    offset = points - points[row]
    distance = np.einsum("ni,ni->n", offset, np.linalg.solve(covariance, offset.T).T)
    distance[row] = np.inf
    wanted = int(np.clip((distance < 4).sum(), least, min(MOST_NEIGHBOURS, len(points) - 1)))
    return np.argpartition(distance, wanted - 1)[:wanted]


def in_latent(
    latent: Float[np.ndarray, "count latent"],
    covariance: Float[np.ndarray, "count latent latent"],
    true_latent: Float[np.ndarray, "count latent"],
) -> dict[str, float]:
    """Coverage of true latents that are known: of each coordinate alone, and of the ellipsoid of all together.

    `mean_square` is the mean of ``(z - z_true)^T C^-1 (z - z_true) / d``: 1 when the covariance is right.
    """
    error = np.asarray(true_latent, np.float64) - latent
    deviation = np.sqrt(np.einsum("nii->ni", covariance))
    square = np.einsum("ni,ni->n", error, np.linalg.solve(covariance, error[..., None])[..., 0])
    dimensions = error.shape[1]
    return {
        "coverage_90_each": float(np.mean(np.abs(error) <= stats.norm.ppf(0.5 + LEVEL / 2) * deviation)),
        "coverage_90_joint": float(np.mean(square <= stats.chi2.ppf(LEVEL, dimensions))),
        "mean_square": float(square.mean() / dimensions),
    }
