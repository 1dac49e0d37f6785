"""Images turned in their plane, as half-plane coefficients, and the exact adjoint: slices of one dimension lower.

An image is kept as its padded spectrum, the x >= 0 half of a centred square, ``padding`` times finer than its own, and read
by bilinear interpolation where the turned half-plane lies. Interpolating multiplies the image by ``sinc^2`` of the position
in real space; `spectra_of_images` divides by it beforehand. Reading is a sparse matrix, the same for all images; its
transpose adds coefficients back into the frame of the image.

A spectrum is listed as a table, one row of numbers for each point of the half square, so that tables of many images are
columns of one product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from scipy import sparse
from torch import Tensor

from frazil.numerics.fourier import HalfPlane
from frazil.numerics.slices import spectrum_reach

PADDING = 2


def table_side(band: int) -> tuple[int, int]:
    """Rows (y) and columns (x >= 0) of the padded half square of a band limit."""
    reach = spectrum_reach(band, PADDING)
    return 2 * reach + 1, reach + 1


def table_shells(band: int) -> Int[Tensor, " points"]:
    """The shell, in the images' own index units, of every point of a table."""
    rows, columns = table_side(band)
    y = torch.arange(rows, dtype=torch.float32) - rows // 2
    return (torch.hypot(y[:, None], torch.arange(columns, dtype=torch.float32)) / PADDING).round().long().reshape(-1)


def shift_of_tables(shifts: Float[Tensor, "images 2"], band: int, box_size: int) -> Complex[Tensor, "images points"]:
    """What tables are multiplied with to move images by minus these shifts (x, y), pixels."""
    rows, columns = table_side(band)
    y = torch.arange(rows, dtype=torch.float32) - rows // 2
    x = torch.arange(columns, dtype=torch.float32)
    turns = shifts[:, 0, None, None] * x + shifts[:, 1, None, None] * y[:, None]
    angle = (2 * torch.pi / (PADDING * box_size)) * turns.flatten(1)
    return torch.polar(torch.ones_like(angle), angle)


def _falloff(box_size: int) -> Float[Tensor, "n n"]:
    """What bilinear interpolation multiplies an image by."""
    profile = torch.sinc((torch.arange(box_size, dtype=torch.float32) - box_size // 2) / (PADDING * box_size)) ** 2
    return profile[:, None] * profile


def spectra_of_images(images: Float[Tensor, "images n n"], band: int) -> Float[Tensor, "images points 2"]:
    """The padded spectra of images out to shell ``band``, compensated for the interpolation to come."""
    n = images.shape[-1]
    size, reach = PADDING * n, spectrum_reach(band, PADDING)
    low = size // 2 - n // 2
    padded = torch.nn.functional.pad(images / _falloff(n), (low, size - n - low) * 2)
    full = torch.fft.rfft2(torch.fft.ifftshift(padded, dim=(-2, -1)))
    kept = full[:, torch.arange(-reach, reach + 1) % size, : reach + 1]
    return torch.view_as_real(kept.reshape(len(images), -1).resolve_conj())


def with_mates(values: Float[Tensor, "*tables points"], band: int, sign: int = 1) -> Float[Tensor, "*tables points"]:
    """Sums of a table with those of Friedel mates added where the half square lists both: on its axis x = 0.

    Args:
        sign: -1 for imaginary parts.
    """
    square = values.reshape(*values.shape[:-1], *table_side(band)).clone()
    square[..., 0] += sign * square[..., 0].flip(-1)
    return square.flatten(-2)


def images_of_spectra(
    tables: Float[Tensor, "images points 2"], band: int, box_size: int
) -> Float[Tensor, "images n n"]:
    """Images whose spectra, smoothed by the adjoint's interpolation, are these tables; zero outside the band."""
    size, (rows, columns) = PADDING * box_size, table_side(band)
    values = torch.view_as_complex(tables.contiguous()).reshape(-1, rows, columns)
    full = torch.zeros(len(values), size, size // 2 + 1, dtype=values.dtype)
    # the Nyquist row and column stand for two frequencies at once: they are left out
    kept = min(rows // 2, (size - 1) // 2)
    signed = torch.arange(-kept, kept + 1)
    full[:, signed % size, : kept + 1] = values[:, rows // 2 - kept : rows // 2 + kept + 1, : kept + 1]
    images = torch.fft.fftshift(torch.fft.irfft2(full, s=(size, size)), dim=(-2, -1))
    low = size // 2 - box_size // 2
    return images[:, low : low + box_size, low : low + box_size] / _falloff(box_size)


@final
@dataclass(frozen=True)
class Turning:
    """Every image of a list turned by every angle of another.

    Attributes:
        real, imaginary: sparse (angles times coefficients) by (points): what each coefficient reads. A point that is read
            at its Friedel mate has the other sign in the imaginary part.
        angles, coefficients: how many.
    """

    real: sparse.csr_matrix
    imaginary: sparse.csr_matrix
    angles: int
    coefficients: int

    @staticmethod
    def of(angles: Float[Tensor, " angles"], layout: HalfPlane, band: int) -> Turning:
        """Counter-clockwise turns by ``angles`` radians (from x to y), read from tables of shell ``band`` at the layout.

        Coefficient k of an image turned by R is that of the image at ``R^T k``.
        """
        rows, columns = table_side(band)
        x, y = layout.x.double() * PADDING, layout.y.double() * PADDING
        cos, sin = angles.double().cos()[:, None], angles.double().sin()[:, None]
        across, up = (cos * x + sin * y).reshape(-1), (-sin * x + cos * y).reshape(-1)
        mirrored = across < 0
        across, up = torch.where(mirrored, -across, across), torch.where(mirrored, -up, up) + rows // 2
        column, row = across.floor().clamp(max=columns - 2), up.floor().clamp(min=0, max=rows - 2)
        right, above = across - column, up - row
        places, weights = [], []
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            places.append((row + dy).long() * columns + (column + dx).long())
            weights.append((above if dy else 1 - above) * (right if dx else 1 - right))
        weight = torch.stack(weights, dim=1).float()
        starts = np.arange(0, 4 * len(across) + 1, 4)
        index = torch.stack(places, dim=1).reshape(-1).numpy()
        shape = (len(across), rows * columns)
        signed = torch.where(mirrored[:, None], -weight, weight)
        real, imaginary = (
            sparse.csr_matrix((values.reshape(-1).numpy(), index, starts), shape=shape) for values in (weight, signed)
        )
        return Turning(real, imaginary, len(angles), layout.count)

    def turned(self, tables: Float[Tensor, "images points 2"]) -> Float[Tensor, "images angles coefficients 2"]:
        """All images at all angles."""
        parts = [self._read(matrix, tables[..., at]) for at, matrix in enumerate((self.real, self.imaginary))]
        return torch.stack(parts, dim=-1)

    def turned_back(self, values: Float[Tensor, "images angles coefficients 2"]) -> Float[Tensor, "images points 2"]:
        """The adjoint of `turned`: coefficients of turned images added up in the frame of the image."""
        parts = [self._add(matrix, values[..., at]) for at, matrix in enumerate((self.real, self.imaginary))]
        return torch.stack(parts, dim=-1)

    def weights_back(self, weights: Float[Tensor, "images angles coefficients"]) -> Float[Tensor, "images points"]:
        """Weights of coefficients added up where `turned_back` puts these."""
        return self._add(self.real, weights)

    def _read(self, matrix: sparse.csr_matrix, columns: Tensor) -> Tensor:
        found = torch.from_numpy(matrix @ columns.T.contiguous().numpy())
        return found.reshape(self.angles, self.coefficients, -1).permute(2, 0, 1)

    def _add(self, matrix: sparse.csr_matrix, rows: Tensor) -> Tensor:
        flat = rows.reshape(len(rows), -1).T.contiguous().numpy()
        return torch.from_numpy(matrix.T @ flat).T.contiguous()
