"""The optics of an electron microscope: wavelength, contrast transfer function, beam tilt.

Convention: defocus is positive for underfocus, and particles are bright, so that at low frequency the transfer function
is positive: at the origin it equals the amplitude contrast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from frazil.numerics.fourier import HalfPlane
from frazil.physics.grid import Grid
from frazil.physics.value import TensorValue

# CODATA 2018: Planck constant (J s), electron mass (kg), elementary charge (C), speed of light (m/s)
PLANCK, ELECTRON_MASS, CHARGE, LIGHT = 6.62607015e-34, 9.1093837015e-31, 1.602176634e-19, 299792458.0
ANGSTROM_PER_MILLIMETRE = 1e7
DEGREE = torch.pi / 180


def electron_wavelength(voltage: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Relativistic wavelength in Å of electrons accelerated by ``voltage`` kV.

    ``lambda = h c / sqrt(eV (eV + 2 m c^2))`` (Reimer and Kohl, Transmission Electron Microscopy, 2008).
    """
    energy = voltage * (1e3 * CHARGE)
    rest = 2 * ELECTRON_MASS * LIGHT**2
    # scaled so that float32 does not underflow on the way: energies are about 1e-14 J
    scaled = (energy * 1e13) * ((energy + rest) * 1e13)
    return (PLANCK * LIGHT * 1e23) / scaled.sqrt()


@final
@dataclass(frozen=True)
class Optics(TensorValue):
    """The optics of a batch of images; every field has the batch's shape.

    Attributes:
        voltage: kV. cs: spherical aberration, mm. amplitude_contrast: fraction, 0 to 1.
        defocus_u, defocus_v: largest and smallest defocus, Å, underfocus positive. defocus_angle: direction of
            defocus_u from the x axis, degrees. phase_shift: of a phase plate, degrees. b_factor: envelope
            exp(-B s^2 / 4), Å^2. beam_tilt_x, beam_tilt_y: mrad.
    """

    voltage: Float[Tensor, "*batch"]
    cs: Float[Tensor, "*batch"]
    amplitude_contrast: Float[Tensor, "*batch"]
    defocus_u: Float[Tensor, "*batch"]
    defocus_v: Float[Tensor, "*batch"]
    defocus_angle: Float[Tensor, "*batch"]
    phase_shift: Float[Tensor, "*batch"]
    b_factor: Float[Tensor, "*batch"]
    beam_tilt_x: Float[Tensor, "*batch"]
    beam_tilt_y: Float[Tensor, "*batch"]

    @staticmethod
    def make(
        *,
        voltage: float | Tensor,
        cs: float | Tensor,
        amplitude_contrast: float | Tensor,
        defocus_u: float | Tensor,
        defocus_v: float | Tensor | None = None,
        defocus_angle: float | Tensor = 0.0,
        phase_shift: float | Tensor = 0.0,
        b_factor: float | Tensor = 0.0,
        beam_tilt_x: float | Tensor = 0.0,
        beam_tilt_y: float | Tensor = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> Optics:
        """Optics of numbers or tensors, broadcast to one batch. Without ``defocus_v`` there is no astigmatism."""
        given = (voltage, cs, amplitude_contrast, defocus_u, defocus_u if defocus_v is None else defocus_v)
        rest = (defocus_angle, phase_shift, b_factor, beam_tilt_x, beam_tilt_y)
        tensors = [torch.as_tensor(value, dtype=dtype) for value in given + rest]
        return Optics(*(tensor.clone() for tensor in torch.broadcast_tensors(*tensors)))

    @property
    def wavelength(self) -> Float[Tensor, "*batch"]:
        """Electron wavelength, Å."""
        return electron_wavelength(self.voltage)

    @property
    def has_beam_tilt(self) -> bool:
        """Whether any image has a beam tilt, so that its transfer function is complex."""
        return bool((self.beam_tilt_x != 0).any() or (self.beam_tilt_y != 0).any())

    def phase_polynomial(self) -> Float[Tensor, "*batch 5"]:
        """Coefficients (xx, xy, yy, quartic, constant) of the phase in frequencies s (1/Å), radians.

        ``chi = xx s_x^2 + xy s_x s_y + yy s_y^2 + quartic |s|^4 + constant``: astigmatic defocus is a quadratic form,
        so no angle is ever computed for a coefficient.
        """
        wavelength = self.wavelength
        mean, half = (self.defocus_u + self.defocus_v) / 2, (self.defocus_u - self.defocus_v) / 2
        twice = 2 * self.defocus_angle * DEGREE
        scale = torch.pi * wavelength
        quartic = -0.5 * torch.pi * self.cs * ANGSTROM_PER_MILLIMETRE * wavelength**3
        constant = self.phase_shift * DEGREE + torch.asin(self.amplitude_contrast)
        terms = (
            scale * (mean + half * twice.cos()),
            scale * 2 * half * twice.sin(),
            scale * (mean - half * twice.cos()),
            quartic,
            constant,
        )
        return torch.stack(terms, dim=-1)

    def ctf_at(
        self, sx: Float[Tensor, " frequencies"], sy: Float[Tensor, " frequencies"]
    ) -> Float[Tensor, "*batch frequencies"]:
        """Contrast transfer function at frequencies (1/Å).

        ``CTF = sin(pi lambda dz(theta) s^2 - pi/2 Cs lambda^3 s^4 + phase_shift + asin(w)) exp(-B s^2 / 4)`` with
        ``dz(theta) = (U + V)/2 + (U - V)/2 cos 2(theta - angle)`` (Rohou and Grigorieff 2015, with our sign).
        """
        sx, sy = sx.to(self.voltage), sy.to(self.voltage)
        squared = sx * sx + sy * sy
        basis = torch.stack((sx * sx, sx * sy, sy * sy, squared * squared, torch.ones_like(sx)))
        ctf = torch.sin(self.phase_polynomial() @ basis)
        return ctf * torch.exp(self.b_factor[..., None] * (squared * -0.25))

    def ctf(self, grid: Grid, layout: HalfPlane) -> Float[Tensor, "*batch coefficients"]:
        """Contrast transfer function on the half-plane of a grid, without beam tilt."""
        step = grid.frequency_step
        return self.ctf_at(layout.x.to(self.voltage) * step, layout.y.to(self.voltage) * step)

    def transfer(self, grid: Grid, layout: HalfPlane) -> Complex[Tensor, "*batch coefficients"]:
        """Full transfer function: the CTF with the phase of the beam tilt.

        ``T = CTF exp(-2 pi i Cs lambda^2 |s|^2 (s . tilt))``, tilt in radians (Glaeser et al. 2011; the sign is RELION's).
        """
        ctf = self.ctf(grid, layout)
        sx, sy = layout.x.to(ctf) * grid.frequency_step, layout.y.to(ctf) * grid.frequency_step
        along = self.beam_tilt_x[..., None] * 1e-3 * sx + self.beam_tilt_y[..., None] * 1e-3 * sy
        strength = (self.cs * ANGSTROM_PER_MILLIMETRE * self.wavelength**2)[..., None]
        phase = -2 * torch.pi * strength * (sx * sx + sy * sy) * along
        return torch.polar(torch.ones_like(phase), phase) * ctf
