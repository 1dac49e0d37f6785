"""Tables: one trainable row per particle. A row moves only when its particle is seen."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from frazil.numerics.rotations import from_rotation_vector
from frazil.physics.pose import Pose


@final
class PoseTable(nn.Module):
    """Poses of all particles, as small corrections of the ones given: ``R = exp([w]) R_given``, ``t = t_given + s``.

    Gradients are sparse: with `row_optimizer` a particle outside the batch keeps its pose and its moments, where the
    momentum of a dense optimiser would move it.

    Args:
        given: the poses to start from. pixel_size: Å; corrections of the shift are held in pixels, so that one learning
            rate serves rotations and shifts.
    """

    rotation: Tensor
    shift: Tensor

    def __init__(self, given: Pose, pixel_size: float) -> None:
        super().__init__()
        self.pixel_size = pixel_size
        self.register_buffer("rotation", given.rotation.to(torch.float32))
        self.register_buffer("shift", given.shift.to(torch.float32))
        self.correction = nn.Embedding(given.rotation.shape[0], 5, sparse=True)
        nn.init.zeros_(self.correction.weight)

    def forward(self, rows: Int[Tensor, " batch"]) -> Pose:
        """The present poses of some particles."""
        correction = self.correction(rows)
        rotation = from_rotation_vector(correction[:, :3]) @ self.rotation[rows]
        return Pose(rotation, self.shift[rows] + correction[:, 3:] * self.pixel_size)


@final
class LatentTable(nn.Module):
    """A free latent coordinate per particle, in place of an encoder.

    Args:
        count: particles. latent_dim: coordinates. spread: standard deviation of the first values.
        generator: draws them.
    """

    def __init__(
        self, count: int, latent_dim: int, spread: float = 0.1, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.latent = nn.Embedding(count, latent_dim, sparse=True)
        with torch.no_grad():
            self.latent.weight.copy_(torch.randn(count, latent_dim, generator=generator) * spread)

    def forward(self, rows: Int[Tensor, " batch"]) -> Float[Tensor, "batch latent"]:
        """The present latents of some particles."""
        return self.latent(rows)


def row_optimizer(table: nn.Module, learning_rate: float) -> torch.optim.SparseAdam:
    """Adam whose moments belong to rows and move only with them."""
    return torch.optim.SparseAdam(list(table.parameters()), lr=learning_rate)
