"""Centred discrete Fourier transforms and the half-plane of an image.

All transforms put the origin at pixel ``n // 2`` of every axis, for odd and even boxes alike, and are unnormalised in the
forward direction: ``F(k) = sum_x f(x) exp(-2 pi i k.(x - n//2) / n)``. The zero coefficient is the sum of the pixels.

An image of real numbers is known from half of its spectrum. `HalfPlane` lists those independent coefficients once each,
sorted by radius, so that a band limit is a prefix of the list.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class HalfPlane:
    """The independent Fourier coefficients of a real square image, sorted by radius.

    Attributes:
        box_size: side of the image in pixels.
        band: highest shell kept; coefficients with radius below ``band + 0.5`` are listed.
        x: horizontal index, 0 and above. y: vertical index, signed; above 0 where x is 0.
        radius: distance from the origin, in index units. shell: the radius rounded to the nearest integer.
        weight: how often the coefficient stands in the full plane: 1 for the origin, 2 for all others.
    """

    box_size: int
    band: int
    x: Int[Tensor, " coefficients"]
    y: Int[Tensor, " coefficients"]
    radius: Float[Tensor, " coefficients"]
    shell: Int[Tensor, " coefficients"]
    weight: Float[Tensor, " coefficients"]

    @property
    def count(self) -> int:
        """Number of coefficients."""
        return self.x.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the indices live."""
        return self.x.device

    @property
    def rfft_index(self) -> Int[Tensor, " coefficients"]:
        """Position of each coefficient in the flattened output of `torch.fft.rfft2`."""
        return (self.y % self.box_size) * (self.box_size // 2 + 1) + self.x

    def within(self, band: int) -> HalfPlane:
        """The same half-plane cut at a lower band: a prefix of this one."""
        return half_plane(self.box_size, min(band, self.band), str(self.device))


@lru_cache(maxsize=64)
def half_plane(box_size: int, band: int | None = None, device: str = "cpu") -> HalfPlane:
    """List the independent coefficients of a real ``box_size`` square image out to shell ``band``.

    The highest shell that is complete on every axis, and free of the Nyquist coefficient whose sign is undefined, is
    ``(box_size - 1) // 2``: the default.

    Raises:
        ValueError: if the band does not fit the box.
    """
    limit = (box_size - 1) // 2
    band = limit if band is None else band
    if not 0 <= band <= limit:
        raise ValueError(f"band {band} does not fit a box of {box_size}: 0 to {limit} do")
    x, y = torch.meshgrid(torch.arange(0, band + 1), torch.arange(-band, band + 1), indexing="ij")
    x, y = x.reshape(-1), y.reshape(-1)
    squared = x * x + y * y
    keep = (squared < (band + 0.5) ** 2) & ((x > 0) | (y >= 0))
    x, y, squared = x[keep], y[keep], squared[keep]
    order = torch.argsort(squared * (4 * box_size * box_size) + x * (2 * box_size) + (y + box_size))
    x, y, squared = x[order], y[order], squared[order]
    radius = squared.to(torch.float64).sqrt()
    weight = torch.full(x.shape, 2.0)
    weight[0] = 1.0
    place = torch.device(device)
    return HalfPlane(
        box_size,
        band,
        x.to(place),
        y.to(place),
        radius.to(torch.float32).to(place),
        radius.round().to(torch.int64).to(place),
        weight.to(place),
    )


@lru_cache(maxsize=64)
def _centre_phase(box_size: int, band: int, device: str, dtype: torch.dtype) -> Tensor:
    """exp(2 pi i k.c / n): moves the origin of a transform from pixel 0 to the centre c = n // 2."""
    layout = half_plane(box_size, band, device)
    turns = (layout.x + layout.y).to(torch.float64) * (box_size // 2) / box_size
    angle = 2 * torch.pi * (turns - turns.round())
    return torch.polar(torch.ones_like(angle), angle).to(dtype)


def centre_phase(layout: HalfPlane, dtype: torch.dtype) -> Complex[Tensor, " coefficients"]:
    """The factor that moves the origin of a plain transform to the centre of the box."""
    return _centre_phase(layout.box_size, layout.band, str(layout.device), dtype)


def images_to_coefficients(
    images: Float[Tensor, "*batch height width"], layout: HalfPlane
) -> Complex[Tensor, "*batch coefficients"]:
    """Half-plane coefficients of images, with the origin at the centre of the box."""
    spectrum = torch.fft.rfft2(images).flatten(-2)
    return spectrum[..., layout.rfft_index] * centre_phase(layout, spectrum.dtype)


def coefficients_to_images(
    coefficients: Complex[Tensor, "*batch coefficients"], layout: HalfPlane
) -> Float[Tensor, "*batch height width"]:
    """Images of half-plane coefficients; everything outside the band is zero."""
    n = layout.box_size
    shape = coefficients.shape[:-1]
    spectrum = torch.zeros(*shape, n * (n // 2 + 1), dtype=coefficients.dtype, device=coefficients.device)
    plain = coefficients * centre_phase(layout, coefficients.dtype).conj()
    spectrum = spectrum.index_copy(-1, layout.rfft_index, plain)
    # column x = 0 holds both halves in an rfft layout: the half-plane lists only y >= 0
    axis = torch.nonzero((layout.x == 0) & (layout.y > 0))[:, 0]
    mirrored = ((-layout.y[axis]) % n) * (n // 2 + 1)
    spectrum = spectrum.index_copy(-1, mirrored, plain[..., axis].conj())
    return torch.fft.irfft2(spectrum.reshape(*shape, n, n // 2 + 1), s=(n, n))


def mirrored_coefficients(
    coefficients: Complex[Tensor, "*batch coefficients"], layout: HalfPlane
) -> Complex[Tensor, "*batch coefficients"]:
    """Coefficients of the images mirrored left to right about their centre: ``F'(x, y) = F(-x, y) = conj F(x, -y)``."""
    partner, on_axis = _mirror_partners(layout.box_size, layout.band, str(layout.device))
    # on the axis x = 0 a coefficient is its own mirror image
    return torch.where(on_axis, coefficients, coefficients[..., partner].conj())


@lru_cache(maxsize=64)
def _mirror_partners(box_size: int, band: int, device: str) -> tuple[Tensor, Tensor]:
    """The place of (x, -y) for every coefficient (x, y), and which of them lie on the axis x = 0."""
    layout = half_plane(box_size, band, device)
    place = torch.zeros(band + 1, 2 * band + 1, dtype=torch.int64, device=layout.device)
    place[layout.x, layout.y + band] = torch.arange(layout.count, device=layout.device)
    return place[layout.x, band - layout.y], layout.x == 0


def volume_to_spectrum(volume: Float[Tensor, "n n n"]) -> Complex[Tensor, "n n half"]:
    """Half spectrum of a volume with its origin at the centre, in the index order of `torch.fft.rfftn`."""
    return torch.fft.rfftn(torch.fft.ifftshift(volume))


def spectrum_to_volume(spectrum: Complex[Tensor, "n n half"], box_size: int) -> Float[Tensor, "n n n"]:
    """Volume of a half spectrum made by `volume_to_spectrum`."""
    return torch.fft.fftshift(torch.fft.irfftn(spectrum, s=(box_size,) * 3))


def integer_frequencies(size: int, *, half: bool = False, device: str | torch.device = "cpu") -> Int[Tensor, " size"]:
    """The integer frequency of every index of a transform of ``size`` points; only 0 and above when ``half``."""
    if half:
        return torch.arange(size // 2 + 1, device=device)
    return torch.fft.fftfreq(size, 1 / size, device=device).round().to(torch.int64)


def fourier_resize(array: Float[Tensor, "..."], box_size: int, dimensions: int) -> Float[Tensor, "..."]:
    """Crop or pad the spectrum of the last ``dimensions`` axes, so that the box becomes ``box_size`` pixels.

    The mean is kept: a value stays the same density, on finer or coarser pixels of the same physical extent. Coefficients
    at or beyond the Nyquist shell of the smaller box are left out.
    """
    axes = tuple(range(-dimensions, 0))
    size = array.shape[-1]
    spectrum = torch.fft.fftn(torch.fft.ifftshift(array, dim=axes), dim=axes)
    limit = (min(size, box_size) - 1) // 2
    kept = torch.arange(-limit, limit + 1, device=array.device)
    for axis in axes:
        spectrum = spectrum.index_select(axis, kept % size)
    shape = (*array.shape[:-dimensions], *([box_size] * dimensions))
    result = torch.zeros(shape, dtype=spectrum.dtype, device=array.device)
    grids = torch.meshgrid(*([kept % box_size] * dimensions), indexing="ij")
    result[(..., *grids)] = spectrum
    resized = torch.fft.fftshift(torch.fft.ifftn(result, dim=axes).real, dim=axes)
    return resized * (box_size / size) ** dimensions


def resize_volume(volume: Float[Tensor, "n n n"], box_size: int) -> Float[Tensor, "m m m"]:
    """A volume on ``box_size`` voxels of the same physical extent, by cropping or padding its spectrum."""
    return fourier_resize(volume, box_size, 3)


def resize_images(images: Float[Tensor, "*batch n n"], box_size: int) -> Float[Tensor, "*batch m m"]:
    """Images on ``box_size`` pixels of the same physical extent, by cropping or padding their spectra."""
    return fourier_resize(images, box_size, 2)
