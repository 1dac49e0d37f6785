"""The tilt of the beam from the phases that images have against their model: one estimate for all particles of a group.

A tilted beam multiplies a spectrum by exp(-i psi), psi = 2 pi Cs lambda^2 |s|^2 (s.tilt): a phase that is odd in the
frequency, which no defocus makes. Summed over the particles of an optics group,

    q(k) = sum_i conj(m_i(k)) y_i(k)

has the phase -psi and, with the power of the model, is all that the likelihood needs to know of the images (Zivanov et al.
2020). A shift that all particles share is odd as well and much like a tilt over a narrow band; poses that were refined
without a tilt have taken up such a shift. So both are estimated together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from frazil.numerics.fourier import HalfPlane
from frazil.physics.grid import Grid
from frazil.physics.optics import ANGSTROM_PER_MILLIMETRE, electron_wavelength

STEPS = 20


@final
@dataclass(frozen=True)
class BeamTilt:
    """What the phases of a group say.

    Attributes:
        tilt: (x, y), mrad, to be added to what the model had. shift: (x, y), Å, to be added to all particles' shifts.
        error: standard errors of the tilt, mrad.
    """

    tilt: Float[Tensor, " 2"]
    shift: Float[Tensor, " 2"]
    error: Float[Tensor, " 2"]


@final
@dataclass(frozen=True)
class PhaseSums:
    """Sums over images, to be added up over a group.

    Attributes:
        products: q(k). power: of the model.
    """

    products: Complex[Tensor, " coefficients"]
    power: Float[Tensor, " coefficients"]

    @staticmethod
    def of(values: Float[Tensor, "images coefficients 2"], model: Float[Tensor, "images coefficients 2"]) -> PhaseSums:
        """Of some images and their model, which knows pose and optics; both whitened."""
        predicted = torch.view_as_complex(model.contiguous())
        both = predicted.conj() * torch.view_as_complex(values.contiguous())
        return PhaseSums(both.to(torch.complex128).sum(0), predicted.abs().square().double().sum(0))

    def __add__(self, other: PhaseSums) -> PhaseSums:
        return PhaseSums(self.products + other.products, self.power + other.power)


def beam_tilt_phase(
    tilt: Float[Tensor, "images 2"],
    grid: Grid,
    plane: HalfPlane,
    voltage: Float[Tensor, " images"],
    cs: Float[Tensor, " images"],
) -> Float[Tensor, "images coefficients"]:
    """psi of tilts (mrad) in images of a voltage (kV) and spherical aberration (mm), radians, single precision."""
    s = torch.stack((plane.x, plane.y)).to(torch.float64) * grid.frequency_step
    strength = _strength(voltage.double(), cs.double())
    return ((strength[:, None] * tilt) @ (s.square().sum(0) * s)).float()


def _strength(voltage: Tensor, cs: Tensor) -> Tensor:
    """psi for a tilt of 1 mrad at a frequency of 1/Å along it."""
    return 2 * math.pi * cs * ANGSTROM_PER_MILLIMETRE * electron_wavelength(voltage) ** 2 * 1e-3


def beam_tilt_of(sums: PhaseSums, grid: Grid, plane: HalfPlane, voltage: float, cs: float) -> BeamTilt:
    """The tilt and the common shift that maximise ``sum_k Re q(k) exp(i phase(k))``, by the method of Gauss and Newton.

    Args:
        voltage: kV. cs: spherical aberration, mm.

    Raises:
        ValueError: without spherical aberration, since then a tilted beam leaves no trace.
    """
    if cs == 0:
        raise ValueError("without spherical aberration a tilt of the beam cannot be seen")
    s = torch.stack((plane.x, plane.y)).to(torch.float64) * grid.frequency_step
    strength = float(_strength(torch.tensor(voltage, dtype=torch.float64), torch.tensor(cs, dtype=torch.float64)))
    columns = torch.cat((strength * s.square().sum(0) * s, 2 * math.pi * s))
    # numbers of one size: a tilt turns phases by far more or less than a shift does
    size = (columns.square() * sums.power).sum(1).sqrt().clamp(min=1e-30)
    columns = columns / size[:, None]
    found = torch.zeros(4, dtype=torch.float64)
    matrix = (columns * sums.power) @ columns.T
    for _ in range(STEPS):
        turned = sums.products * torch.polar(torch.ones_like(columns[0]), found @ columns)
        slope = -(columns * turned.imag).sum(1)
        step = torch.linalg.lstsq(matrix, slope[:, None]).solution[:, 0]
        found = found + step
        if float(step.abs().max()) < 1e-6:
            break
    covariance = torch.linalg.pinv(matrix) / (size[:, None] * size)
    found = found / size
    return BeamTilt(found[:2], found[2:], covariance.diagonal()[:2].clamp(min=0).sqrt())
