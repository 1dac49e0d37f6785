"""Where the molecule is: a soft outline of what is dense in a map."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.numerics.masks import mask_from_volume, otsu_threshold, soft_sphere
from frazil.numerics.shells import low_pass
from frazil.physics.grid import Grid

# it is drawn on a map of this resolution (Å), or of this share of the box when pixels are large
RESOLUTION, LARGEST_SHELL = 15.0, 0.4
# how far it reaches beyond what is dense, and its soft edge, Å
EXTEND, EDGE = 6.0, 8.0


def smoothed_for_outline(volume: Float[Tensor, "n n n"], grid: Grid) -> Float[Tensor, "n n n"]:
    """A map in which the molecule is one piece."""
    return low_pass(volume, min(grid.shell_of(RESOLUTION), LARGEST_SHELL * grid.last_shell))


def outline(volume: Float[Tensor, "n n n"], grid: Grid) -> Float[Tensor, "n n n"]:
    """A soft mask around the molecule of a bright map, its threshold chosen by Otsu's criterion inside the box's sphere.

    A threshold relative to the highest density would leave out what is thin or blurred by motion.
    """
    smooth = smoothed_for_outline(volume, grid)
    sphere = soft_sphere(grid.box_size, grid.box_size / 2 - 2, 0.0).to(volume.device) > 0.5
    threshold = otsu_threshold(smooth[sphere])
    smooth = torch.where(sphere, smooth, smooth.min())
    extend = max(EXTEND / grid.pixel_size, 2.0)
    return mask_from_volume(smooth, threshold, extend, max(EDGE / grid.pixel_size, 3.0))
