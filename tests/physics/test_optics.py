"""The contrast transfer function against the published formula in mpmath and against torch-ctf."""

import mpmath
import pytest
import torch

from frazil.physics.grid import Grid
from frazil.physics.optics import Optics, electron_wavelength

CASES = [
    # voltage, cs, amplitude contrast, U, V, angle, phase shift, B
    (300.0, 2.7, 0.1, 15000.0, 14000.0, 35.0, 0.0, 0.0),
    (200.0, 1.4, 0.07, 22000.0, 21000.0, -70.0, 45.0, 60.0),
    (120.0, 0.01, 0.2, 8000.0, 8000.0, 0.0, 90.0, 0.0),
]


def _optics(case: tuple[float, ...]) -> Optics:
    names = (
        "voltage",
        "cs",
        "amplitude_contrast",
        "defocus_u",
        "defocus_v",
        "defocus_angle",
        "phase_shift",
        "b_factor",
    )
    return Optics.make(**dict(zip(names, case, strict=True)))  # type: ignore[arg-type]


def _published(case: tuple[float, ...], sx: float, sy: float) -> float:
    """Rohou and Grigorieff 2015, equations 2 to 6, in 40 digits; the sign makes bright particles positive."""
    mpmath.mp.dps = 40
    voltage, cs, contrast, u, v, angle, shift, b = map(mpmath.mpf, case)
    h, m, e, c = map(mpmath.mpf, ("6.62607015e-34", "9.1093837015e-31", "1.602176634e-19", "299792458"))
    energy = e * voltage * 1000
    wavelength = h / mpmath.sqrt(2 * m * energy * (1 + energy / (2 * m * c**2))) * mpmath.mpf(10) ** 10
    s, theta = mpmath.hypot(sx, sy), mpmath.atan2(sy, sx)
    degree = mpmath.pi / 180
    defocus = (u + v + (u - v) * mpmath.cos(2 * (theta - angle * degree))) / 2
    chi = mpmath.pi * wavelength * s**2 * (defocus - wavelength**2 * s**2 * cs * 10**7 / 2) + shift * degree
    weight = mpmath.sqrt(1 - contrast**2)
    ctf = weight * mpmath.sin(chi) + contrast * mpmath.cos(chi)
    return float(ctf * mpmath.exp(-b * s**2 / 4))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("box_size", [64, 65])
def test_ctf_equals_the_published_formula(case: tuple[float, ...], box_size: int):
    grid = Grid(box_size, 1.2)
    layout = grid.half_plane()
    ctf = _optics(case).ctf(grid, layout)
    for index in range(0, layout.count, 97):
        sx, sy = float(layout.x[index]) / grid.extent, float(layout.y[index]) / grid.extent
        assert float(ctf[index]) == pytest.approx(_published(case, sx, sy), abs=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if case[-1] == 0])
def test_ctf_agrees_with_torch_ctf(case: tuple[float, ...]):
    torch_ctf = pytest.importorskip("torch_ctf")
    voltage, cs, contrast, u, v, angle, shift, _ = case
    n, pixel_size = 64, 1.2
    other = torch_ctf.calculate_ctf_2d(
        defocus=(u + v) / 2 * 1e-4,
        astigmatism=(u - v) / 2 * 1e-4,
        astigmatism_angle=angle,
        voltage=voltage,
        spherical_aberration=cs,
        amplitude_contrast=contrast,
        phase_shift=shift,
        pixel_size=pixel_size,
        image_shape=(n, n),
        rfft=True,
        fftshift=False,
    )
    grid = Grid(n, pixel_size)
    layout = grid.half_plane()
    theirs = other.reshape(-1)[layout.rfft_index].double()
    ours = _optics(case).ctf(grid, layout)
    # torch-ctf works in float32 with rounded constants, and gives dark particles the positive sign
    sign = torch.sign((theirs * ours).sum())
    torch.testing.assert_close(ours, sign * theirs, atol=2e-3, rtol=0)


def test_wavelengths_are_those_of_the_tables():
    # Reimer and Kohl, Transmission Electron Microscopy, table 2.2 (pm)
    voltage = torch.tensor([100.0, 200.0, 300.0], dtype=torch.float64)
    torch.testing.assert_close(
        electron_wavelength(voltage),
        torch.tensor([0.037014, 0.025079, 0.019687], dtype=torch.float64),
        atol=2e-6,
        rtol=0,
    )
    single = electron_wavelength(voltage.float())
    torch.testing.assert_close(single.double(), electron_wavelength(voltage), rtol=1e-6, atol=0)


def test_ctf_at_the_origin_is_the_amplitude_contrast_and_rises_for_underfocus():
    optics = _optics((300.0, 2.7, 0.1, 15000.0, 15000.0, 0.0, 0.0, 0.0))
    low = optics.ctf_at(torch.tensor([0.0, 0.01, 0.02]), torch.zeros(3))
    assert float(low[0]) == pytest.approx(0.1)
    assert bool((low[1:] > low[:-1]).all())


def test_defocus_u_lies_along_its_angle():
    optics = _optics((300.0, 2.7, 0.1, 20000.0, 10000.0, 30.0, 0.0, 0.0))
    direction = torch.tensor([30.0, 120.0]) * torch.pi / 180
    frequency = 0.03
    along = optics.ctf_at(frequency * direction.cos(), frequency * direction.sin())
    for value, defocus in zip(along, (20000.0, 10000.0), strict=True):
        case = (300.0, 2.7, 0.1, defocus, defocus, 0.0, 0.0, 0.0)
        assert float(value) == pytest.approx(_published(case, frequency, 0.0), abs=1e-6)


def test_beam_tilt_moves_the_phase_by_the_published_amount():
    grid = Grid(64, 1.0)
    layout = grid.half_plane()
    optics = Optics.make(
        voltage=300.0, cs=2.7, amplitude_contrast=0.1, defocus_u=1e4, beam_tilt_x=2.0, beam_tilt_y=-1.0
    )
    ratio = optics.transfer(grid, layout) / optics.ctf(grid, layout)
    index = int(torch.nonzero((layout.x == 12) & (layout.y == 9))[0])
    wavelength, s = float(optics.wavelength), (12 / 64, 9 / 64)
    phase = -2 * torch.pi * 2.7e7 * wavelength**2 * (s[0] ** 2 + s[1] ** 2) * (s[0] * 2e-3 - s[1] * 1e-3)
    assert float(torch.angle(ratio[index])) == pytest.approx((phase + torch.pi) % (2 * torch.pi) - torch.pi, abs=1e-6)
    assert not Optics.make(voltage=300.0, cs=2.7, amplitude_contrast=0.1, defocus_u=1e4).has_beam_tilt


def test_optics_are_indexed_and_cast_as_one():
    optics = Optics.make(voltage=300.0, cs=2.7, amplitude_contrast=0.1, defocus_u=torch.tensor([1e4, 2e4, 3e4]))
    assert len(optics) == 3
    assert float(optics[1:].defocus_v[0]) == 2e4
    assert optics.to(torch.float32).voltage.dtype == torch.float32
