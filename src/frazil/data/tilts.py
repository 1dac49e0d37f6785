"""Images that are views of one particle at known tilts of the stage.

In a STAR file, beside the poses: rlnGroupName names the particle (cryoDRGN joins the views of a particle by it),
rlnMicrographTiltAngle is the tilt of the stage in degrees and rlnMicrographTiltAxisDirection the direction of its axis
in the image, degrees from x (90, the y axis, unless given). A table tells of views only when the tilt differs within a group:
RELION uses rlnGroupName for micrographs too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.data.table import Block
from frazil.data.views import ParticleViews
from frazil.errors import InputError
from frazil.numerics.rotations import rotation_about_y, rotation_about_z

PARTICLE, ANGLE, AXIS = "rlnGroupName", "rlnMicrographTiltAngle", "rlnMicrographTiltAxisDirection"


@final
@dataclass(frozen=True)
class TiltViews:
    """Which images show one particle, and how the stage was tilted for each.

    The pose of an image is ``R_image = stage R_particle``, with R_particle that of the untilted particle.

    Attributes:
        particle: number of each image's particle. angle: of the stage, degrees. axis: direction of the tilt axis from the
            x axis of the image, degrees.
    """

    particle: Int[Tensor, " images"]
    angle: Float[Tensor, " images"]
    axis: Float[Tensor, " images"]

    def __getitem__(self, rows: Any) -> TiltViews:
        return TiltViews(self.particle[rows], self.angle[rows], self.axis[rows])

    @property
    def stage(self) -> Float[Tensor, "images 3 3"]:
        """Rotation by each tilt: ``Z(axis - 90)^T Y(angle) Z(axis - 90)``, Y and Z as in the conventions of a pose."""
        radians = math.pi / 180
        to_y = rotation_about_z((self.axis.double() - 90) * radians)
        return to_y.mT @ rotation_about_y(self.angle.double() * radians) @ to_y

    def first_rows(self) -> Int[Tensor, " images"]:
        """For each image the first image of its particle."""
        return ParticleViews(self.particle).earliest


def read_tilts(block: Block) -> TiltViews | None:
    """The views that a particle table tells of; None when it tells of none.

    Raises:
        InputError: if a tilt is not a number.
    """
    if PARTICLE not in block or ANGLE not in block:
        return None
    particle = np.unique(block.text(PARTICLE), return_inverse=True)[1].reshape(-1)
    angle = block.numbers(ANGLE)
    axis = block.numbers(AXIS) if AXIS in block else np.full(block.count, 90.0)
    bad = ~(np.isfinite(angle) & np.isfinite(axis))
    if bad.any():
        raise InputError(
            "this tilt is not a number", where=block.where(int(np.argmax(bad))), remedy=f"correct {ANGLE} and {AXIS}"
        )
    tilts = TiltViews(torch.from_numpy(particle), torch.from_numpy(angle), torch.from_numpy(axis))
    first = angle[tilts.first_rows().numpy()]
    return tilts if (first != angle).any() else None


def tilt_columns(tilts: TiltViews) -> dict[str, np.ndarray | list[str]]:
    """The columns of a STAR file that say this."""
    return {
        PARTICLE: [f"particle_{number:06d}" for number in (tilts.particle + 1).tolist()],
        ANGLE: tilts.angle.double().numpy(),
        AXIS: tilts.axis.double().numpy(),
    }
