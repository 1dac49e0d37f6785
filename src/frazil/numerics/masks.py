"""Soft masks in real space: circles, spheres, and the outline of a map."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor


def _soft_ball(box_size: int, dimensions: int, radius: float, edge: float, like: Tensor | None) -> Tensor:
    dtype = torch.float32 if like is None else like.dtype
    device = "cpu" if like is None else like.device
    x = (torch.arange(box_size, dtype=dtype, device=device) - box_size // 2).square()
    squared = x
    for _ in range(dimensions - 1):
        squared = squared[..., None] + x
    return raised_cosine(squared.sqrt() - radius, edge)


def raised_cosine(beyond: Float[Tensor, "*shape"], edge: float) -> Float[Tensor, "*shape"]:
    """1 where ``beyond`` is 0 or less, 0 where it is ``edge`` or more, half a cosine between."""
    return 0.5 + 0.5 * torch.cos(torch.pi * (beyond / max(edge, 1e-6)).clamp(0, 1))


def soft_circle(box_size: int, radius: float, edge: float, like: Tensor | None = None) -> Float[Tensor, "n n"]:
    """1 inside ``radius`` pixels of the centre, falling to 0 over the next ``edge`` pixels."""
    return _soft_ball(box_size, 2, radius, edge, like)


def soft_sphere(box_size: int, radius: float, edge: float, like: Tensor | None = None) -> Float[Tensor, "n n n"]:
    """1 inside ``radius`` voxels of the centre, falling to 0 over the next ``edge`` voxels."""
    return _soft_ball(box_size, 3, radius, edge, like)


def largest_piece(inside: Bool[Tensor, "n n n"]) -> Bool[Tensor, "n n n"]:
    """The largest connected region of a binary volume (all of it when it is empty)."""
    labels, count = ndimage.label(inside.cpu().numpy())  # type: ignore[misc]
    if count <= 1:
        return inside
    sizes = torch.bincount(torch.from_numpy(labels).reshape(-1).to(torch.int64))
    sizes[0] = 0
    return (torch.from_numpy(labels) == int(sizes.argmax())).to(inside.device)


def otsu_threshold(values: Float[Tensor, " count"]) -> float:
    """The threshold that best splits values into two classes (Otsu 1979)."""
    low, high = float(values.min()), float(values.max())
    counts = torch.histc(values, bins=256, min=low, max=high).to(torch.float64)
    centres = low + (torch.arange(256, dtype=torch.float64) + 0.5) * (high - low) / 256
    below = counts.cumsum(0)
    above = below[-1] - below
    sums = (counts * centres).cumsum(0)
    gap = sums / below.clamp(min=1) - (sums[-1] - sums) / above.clamp(min=1)
    return float(centres[int((below * above * gap**2).argmax())])


def mask_from_volume(
    volume: Float[Tensor, "n n n"], threshold: float, extend: float, edge: float
) -> Float[Tensor, "n n n"]:
    """A soft mask around the largest region above a threshold.

    Args:
        volume: a low-passed map, density positive.
        threshold: density above which a voxel belongs to the molecule.
        extend: how far the mask reaches beyond the region, voxels. edge: width of the soft edge beyond that, voxels.
    """
    inside = largest_piece(volume > threshold)
    distance = torch.from_numpy(ndimage.distance_transform_edt(~inside.cpu().numpy()))
    return raised_cosine(distance.to(volume.dtype).to(volume.device) - extend, edge)
