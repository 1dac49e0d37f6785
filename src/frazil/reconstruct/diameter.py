"""How large a molecule is, from images whose poses nobody knows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.inference.matching import CoarseImages
from frazil.reconstruct.ab_initio import Level, random_guess

# images that are looked at
MOST_IMAGES = 4000
# the rim is where the mean density has fallen to this share of its peak; the sphere reaches so much further
RIM, MARGIN = 0.05, 1.15


def estimated_diameter(level: Level, images: CoarseImages, generator: torch.Generator) -> float | None:
    """Å across a sphere around the molecule; None where density reaches the edge of the sphere that the level allows.

    Images in random poses make a volume that depends on the radius alone: the mean of the molecule over all directions. Its
    rim is blurred by the shifts of the particles, which makes the sphere no smaller.
    """
    profile = radial_mean(random_guess(level, images, 1, MOST_IMAGES, generator).volumes[0])
    peak = int(profile.abs().argmax())
    relative = profile / profile[peak]
    beyond = torch.nonzero(relative[peak:] < RIM)[:, 0]
    if len(beyond) == 0:
        return None
    outer = peak + int(beyond[0])
    inner = relative[outer - 1]
    radius = outer - 1 + float((inner - RIM) / (inner - relative[outer]))
    return 2 * MARGIN * radius * level.search.grid.extent / level.low.box_size


def radial_mean(volume: Float[Tensor, "n n n"]) -> Float[Tensor, " radii"]:
    """Means over voxels at radius 0, 1, ... of the centre, as far as the sphere in the box reaches."""
    n = volume.shape[0]
    axis = torch.arange(n, dtype=torch.float32) - n // 2
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt().round().to(torch.int64).flatten()
    total = torch.zeros(int(radius.max()) + 1).index_add_(0, radius, volume.flatten())
    return (total / torch.bincount(radius).clamp(min=1))[: n // 2 - 1]
