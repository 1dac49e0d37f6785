"""How particles lie in the ice: uniformly, or mostly on one side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.numerics.rotations import from_euler_zyz, random_rotations

# of the object, along which most views of a preferred orientation are; on no axis of the grid
PREFERRED_AXIS = (0.36, 0.48, 0.80)


@final
@dataclass(frozen=True)
class OrientationLaw:
    """Viewing directions about one axis of the object, in part uniform; in-plane angles always uniform.

    The density of directions v is ``u / (4 pi) + (1 - u) C exp(kappa a.v)``, the second term the law of von Mises and
    Fisher (Fisher 1953) about the axis a with ``kappa = 1 / spread^2``.

    Attributes:
        spread: standard deviation of a viewing direction from the axis along either of the two directions across it,
            degrees. uniform: share u of particles without a preference.
    """

    spread: float
    uniform: float

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "count 3 3"]:
        """Rotations, object to view, float64."""
        from scipy.stats import vonmises_fisher

        everywhere = random_rotations(count, generator, torch.float64)
        free = torch.rand(count, generator=generator, dtype=torch.float64) < self.uniform
        seed = int(torch.randint(2**31, (), generator=generator))
        concentration: Any = math.radians(self.spread) ** -2  # scipy's annotation knows only int
        view = torch.from_numpy(vonmises_fisher(PREFERRED_AXIS, concentration).rvs(count, random_state=seed))
        turn = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
        # the viewing direction is the third row of the rotation
        rot, tilt = torch.atan2(view[:, 1], view[:, 0]), torch.acos(view[:, 2].clamp(-1, 1))
        return torch.where(free[:, None, None], everywhere, from_euler_zyz(rot, tilt, turn))
