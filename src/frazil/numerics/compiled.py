"""Compiled loops for the two things torch does badly on a CPU: gathering slices from a grid and scattering them back.

Each kernel has a torch twin in `slices` under the same test; the twin runs on the GPU. Kernels release the interpreter
lock, run in one thread and add in a fixed order, so that results repeat bit for bit.

A spectrum here is the x >= 0 half of a centred cube, shape (2 m + 1, 2 m + 1, m + 1), with index (z + m, y + m, x). A point
with x < 0 is read at its Friedel mate, conjugated.
"""

# pyright: basic
from __future__ import annotations

import numba
import numpy as np


@numba.njit(nogil=True, cache=True, fastmath=True)
def gather_slices(spectrum, rotation, x, y, scale, out):
    """out[b, p] = trilinear value of the spectrum at scale * R_b^T (x_p, y_p, 0)."""
    reach = spectrum.shape[2] - 1
    for b in range(rotation.shape[0]):
        ax, ay, az = rotation[b, 0, 0] * scale, rotation[b, 0, 1] * scale, rotation[b, 0, 2] * scale
        bx, by, bz = rotation[b, 1, 0] * scale, rotation[b, 1, 1] * scale, rotation[b, 1, 2] * scale
        for p in range(x.shape[0]):
            px = ax * x[p] + bx * y[p]
            py = ay * x[p] + by * y[p]
            pz = az * x[p] + bz * y[p]
            mirrored = px < 0
            if mirrored:
                px, py, pz = -px, -py, -pz
            py += reach
            pz += reach
            ix, iy, iz = int(px), int(py), int(pz)
            fx, fy, fz = px - ix, py - iy, pz - iz
            if ix >= reach or iy < 0 or iz < 0 or iy >= 2 * reach or iz >= 2 * reach:
                out[b, p] = 0
                continue
            lower = (1 - fy) * ((1 - fx) * spectrum[iz, iy, ix] + fx * spectrum[iz, iy, ix + 1]) + fy * (
                (1 - fx) * spectrum[iz, iy + 1, ix] + fx * spectrum[iz, iy + 1, ix + 1]
            )
            upper = (1 - fy) * ((1 - fx) * spectrum[iz + 1, iy, ix] + fx * spectrum[iz + 1, iy, ix + 1]) + fy * (
                (1 - fx) * spectrum[iz + 1, iy + 1, ix] + fx * spectrum[iz + 1, iy + 1, ix + 1]
            )
            value = (1 - fz) * lower + fz * upper
            out[b, p] = np.conj(value) if mirrored else value


@numba.njit(nogil=True, cache=True, fastmath=True)
def scatter_slices(values, rotation, x, y, scale, spectrum):
    """Add values[b, p] to the spectrum at scale * R_b^T (x_p, y_p, 0): the exact adjoint of `gather_slices`."""
    reach = spectrum.shape[2] - 1
    for b in range(rotation.shape[0]):
        ax, ay, az = rotation[b, 0, 0] * scale, rotation[b, 0, 1] * scale, rotation[b, 0, 2] * scale
        bx, by, bz = rotation[b, 1, 0] * scale, rotation[b, 1, 1] * scale, rotation[b, 1, 2] * scale
        for p in range(x.shape[0]):
            px = ax * x[p] + bx * y[p]
            py = ay * x[p] + by * y[p]
            pz = az * x[p] + bz * y[p]
            value = values[b, p]
            if px < 0:
                px, py, pz = -px, -py, -pz
                value = np.conj(value)
            py += reach
            pz += reach
            ix, iy, iz = int(px), int(py), int(pz)
            fx, fy, fz = px - ix, py - iy, pz - iz
            if ix >= reach or iy < 0 or iz < 0 or iy >= 2 * reach or iz >= 2 * reach:
                continue
            left, right = (1 - fx) * value, fx * value
            spectrum[iz, iy, ix] += (1 - fz) * (1 - fy) * left
            spectrum[iz, iy, ix + 1] += (1 - fz) * (1 - fy) * right
            spectrum[iz, iy + 1, ix] += (1 - fz) * fy * left
            spectrum[iz, iy + 1, ix + 1] += (1 - fz) * fy * right
            spectrum[iz + 1, iy, ix] += fz * (1 - fy) * left
            spectrum[iz + 1, iy, ix + 1] += fz * (1 - fy) * right
            spectrum[iz + 1, iy + 1, ix] += fz * fy * left
            spectrum[iz + 1, iy + 1, ix + 1] += fz * fy * right


@numba.njit(nogil=True, cache=True, fastmath=True)
def rotation_gradient(spectrum, rotation, x, y, scale, gradient, out):
    """out[b, i, j] = d loss / d R_b[i, j] of `gather_slices`, given gradient[b, p] = d loss / d out[b, p]."""
    reach = spectrum.shape[2] - 1
    for b in range(rotation.shape[0]):
        ax, ay, az = rotation[b, 0, 0] * scale, rotation[b, 0, 1] * scale, rotation[b, 0, 2] * scale
        bx, by, bz = rotation[b, 1, 0] * scale, rotation[b, 1, 1] * scale, rotation[b, 1, 2] * scale
        for p in range(x.shape[0]):
            px = ax * x[p] + bx * y[p]
            py = ay * x[p] + by * y[p]
            pz = az * x[p] + bz * y[p]
            slope = gradient[b, p]
            sign = scale
            if px < 0:
                px, py, pz = -px, -py, -pz
                slope = np.conj(slope)
                sign = -scale
            py += reach
            pz += reach
            ix, iy, iz = int(px), int(py), int(pz)
            fx, fy, fz = px - ix, py - iy, pz - iz
            if ix >= reach or iy < 0 or iz < 0 or iy >= 2 * reach or iz >= 2 * reach:
                continue
            c000, c001 = spectrum[iz, iy, ix], spectrum[iz, iy, ix + 1]
            c010, c011 = spectrum[iz, iy + 1, ix], spectrum[iz, iy + 1, ix + 1]
            c100, c101 = spectrum[iz + 1, iy, ix], spectrum[iz + 1, iy, ix + 1]
            c110, c111 = spectrum[iz + 1, iy + 1, ix], spectrum[iz + 1, iy + 1, ix + 1]
            e00, e01 = (1 - fx) * c000 + fx * c001, (1 - fx) * c010 + fx * c011
            e10, e11 = (1 - fx) * c100 + fx * c101, (1 - fx) * c110 + fx * c111
            dx = (1 - fz) * ((1 - fy) * (c001 - c000) + fy * (c011 - c010)) + fz * (
                (1 - fy) * (c101 - c100) + fy * (c111 - c110)
            )
            dy = (1 - fz) * (e01 - e00) + fz * (e11 - e10)
            dz = (1 - fy) * (e10 - e00) + fy * (e11 - e01)
            gx = sign * (slope.real * dx.real + slope.imag * dx.imag)
            gy = sign * (slope.real * dy.real + slope.imag * dy.imag)
            gz = sign * (slope.real * dz.real + slope.imag * dz.imag)
            out[b, 0, 0] += gx * x[p]
            out[b, 0, 1] += gy * x[p]
            out[b, 0, 2] += gz * x[p]
            out[b, 1, 0] += gx * y[p]
            out[b, 1, 1] += gy * y[p]
            out[b, 1, 2] += gz * y[p]
