"""Families of maps against the true family."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.evaluate.fsc import area_under, benchmark_curve, benchmark_resolution, same_box
from frazil.numerics.masks import raised_cosine, soft_sphere
from frazil.numerics.shells import low_pass


def correlation(a: Float[Tensor, "*voxels"], b: Float[Tensor, "*voxels"], mask: Tensor | None = None) -> float:
    """Pearson correlation of the voxels of two maps, all or some in a row; with a mask, weighted by it."""
    weight = torch.ones_like(a, dtype=torch.float64) if mask is None else mask.double()
    total = weight.sum()
    a, b = a.double(), b.double()
    a, b = a - (a * weight).sum() / total, b - (b * weight).sum() / total
    scale = ((a.square() * weight).sum() * (b.square() * weight).sum()).sqrt()
    return float((a * b * weight).sum() / scale) if scale > 0 else 0.0


def difference_map_correlations(
    decoded: Float[Tensor, "states *voxels"], true: Float[Tensor, "states *voxels"], mask: Tensor | None = None
) -> list[float]:
    """For each state: correlation of (decoded - mean of the decoded) with (true - mean of the true), see `correlation`.

    The rigid part drops out, so that only what moves is judged.
    """
    same_box(decoded[0], true[0])
    decoded, true = decoded - decoded.mean(0), true - true.mean(0)
    return [correlation(a, b, mask) for a, b in zip(decoded, true, strict=True)]


def areas_and_resolutions(
    decoded: Float[Tensor, "states n n n"], true: Float[Tensor, "states n n n"], mask: Tensor | None = None
) -> tuple[Float[Tensor, " states"], Float[Tensor, " states"]]:
    """FSC areas and resolutions at 0.5 in pixels of decoded maps against true ones, by CryoBench's rules."""
    n = decoded.shape[-1]
    curves = [benchmark_curve(a, b, mask) for a, b in zip(decoded, true, strict=True)]
    areas = torch.tensor([area_under(curve, n) for curve in curves])
    return areas, torch.tensor([benchmark_resolution(curve, 0.5, n) for curve in curves])


def family_mask(volumes: Float[Tensor, "states n n n"], extend: float = 3.0, edge: float = 4.0) -> Tensor:
    """A soft mask around all true states together.

    The union of the regions above 5 % of the maximum of each state low-passed to a quarter of Nyquist, grown by
    ``extend`` voxels, with an edge of ``edge`` voxels. When all maps are empty, the sphere that fits the box.
    """
    from scipy import ndimage

    n = volumes.shape[-1]
    inside = torch.zeros_like(volumes[0], dtype=torch.bool)
    for volume in volumes:
        smooth = low_pass(volume, max(2.0, n / 8))
        inside |= smooth > 0.05 * smooth.max()
    if not bool(inside.any()):
        return soft_sphere(n, n / 2, edge)
    distance = torch.from_numpy(ndimage.distance_transform_edt(~inside.numpy()))
    return raised_cosine(distance.to(volumes.dtype) - extend, edge)


def spread(values: Tensor) -> dict[str, float]:
    """Mean, standard deviation and median."""
    values = values.double()
    return {
        "mean": float(values.mean()),
        "std": float(values.std(correction=0)),
        "median": float(values.median()),
    }
