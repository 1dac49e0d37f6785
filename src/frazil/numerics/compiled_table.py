"""Compiled loops over a `SpectrumTable`: slices of many volumes at once, and their adjoint.

The eight corners of a point are shared by all volumes, whose values lie side by side: the innermost loop runs along them
and is vectorised. Each kernel has a torch twin in `spectrum_table` under the same test; kernels release the interpreter
lock, run in one thread and add in a fixed order, so that results repeat bit for bit.
"""

# pyright: basic
from __future__ import annotations

import numba
import numpy as np


@numba.njit(nogil=True, cache=True, fastmath=True)
def gather(table, starts, reach, rotation, x, y, scale, factor, out):
    """out[b, p] = factor[b, p] times the trilinear values of all volumes at scale R_b^T (x_p, y_p, 0).

    table: (voxels, 2, volumes), real parts before imaginary ones. starts: (2 m + 1, 2 m + 1), where a row (z, y) begins.
    out: (images, points, 2, volumes).
    """
    volumes = table.shape[2]
    for b in range(rotation.shape[0]):
        ax, ay, az = rotation[b, 0, 0] * scale, rotation[b, 0, 1] * scale, rotation[b, 0, 2] * scale
        bx, by, bz = rotation[b, 1, 0] * scale, rotation[b, 1, 1] * scale, rotation[b, 1, 2] * scale
        for p in range(x.shape[0]):
            px = ax * x[p] + bx * y[p]
            py = ay * x[p] + by * y[p]
            pz = az * x[p] + bz * y[p]
            size = factor[b, p]
            turned = size
            if px < 0:
                px, py, pz = -px, -py, -pz
                turned = -size
            py += reach
            pz += reach
            ix, iy, iz = int(px), int(py), int(pz)
            fx, fy, fz = np.float32(px - ix), np.float32(py - iy), np.float32(pz - iz)
            one = np.float32(1)
            first, second = table[starts[iz, iy] + ix], table[starts[iz, iy] + ix + 1]
            third, fourth = table[starts[iz, iy + 1] + ix], table[starts[iz, iy + 1] + ix + 1]
            fifth, sixth = table[starts[iz + 1, iy] + ix], table[starts[iz + 1, iy] + ix + 1]
            seventh, eighth = table[starts[iz + 1, iy + 1] + ix], table[starts[iz + 1, iy + 1] + ix + 1]
            w1, w2 = (one - fz) * (one - fy) * (one - fx), (one - fz) * (one - fy) * fx
            w3, w4 = (one - fz) * fy * (one - fx), (one - fz) * fy * fx
            w5, w6 = fz * (one - fy) * (one - fx), fz * (one - fy) * fx
            w7, w8 = fz * fy * (one - fx), fz * fy * fx
            for part in range(2):
                sign = size if part == 0 else turned
                for k in range(volumes):
                    out[b, p, part, k] = sign * (
                        w1 * first[part, k]
                        + w2 * second[part, k]
                        + w3 * third[part, k]
                        + w4 * fourth[part, k]
                        + w5 * fifth[part, k]
                        + w6 * sixth[part, k]
                        + w7 * seventh[part, k]
                        + w8 * eighth[part, k]
                    )


@numba.njit(nogil=True, cache=True, fastmath=True)
def scatter(values, starts, reach, rotation, x, y, scale, factor, table):
    """Add factor times values to the table where `gather` reads: its exact adjoint in the table."""
    volumes = table.shape[2]
    for b in range(rotation.shape[0]):
        ax, ay, az = rotation[b, 0, 0] * scale, rotation[b, 0, 1] * scale, rotation[b, 0, 2] * scale
        bx, by, bz = rotation[b, 1, 0] * scale, rotation[b, 1, 1] * scale, rotation[b, 1, 2] * scale
        for p in range(x.shape[0]):
            px = ax * x[p] + bx * y[p]
            py = ay * x[p] + by * y[p]
            pz = az * x[p] + bz * y[p]
            size = factor[b, p]
            turned = size
            if px < 0:
                px, py, pz = -px, -py, -pz
                turned = -size
            py += reach
            pz += reach
            ix, iy, iz = int(px), int(py), int(pz)
            fx, fy, fz = np.float32(px - ix), np.float32(py - iy), np.float32(pz - iz)
            one = np.float32(1)
            for dz in range(2):
                share_z = fz if dz else one - fz
                for dy in range(2):
                    share = share_z * (fy if dy else one - fy)
                    at = starts[iz + dz, iy + dy] + ix
                    left, right = table[at], table[at + 1]
                    for part in range(2):
                        sign = size if part == 0 else turned
                        low, high = sign * share * (one - fx), sign * share * fx
                        for k in range(volumes):
                            left[part, k] += low * values[b, p, part, k]
                            right[part, k] += high * values[b, p, part, k]


@numba.njit(nogil=True, cache=True, fastmath=True)
def symmetrise(table, starts, reach, limit, rotations, z, y, x, out):
    """out[v] += sum over the rotations g of the table at g (x, y, z), by trilinear interpolation.

    Points farther from the origin than ``limit`` are left out. Rotations that only permute and flip axes hit grid points.
    """
    volumes = table.shape[2]
    for g in range(rotations.shape[0]):
        r = rotations[g]
        for v in range(x.shape[0]):
            px = r[0, 0] * x[v] + r[0, 1] * y[v] + r[0, 2] * z[v]
            py = r[1, 0] * x[v] + r[1, 1] * y[v] + r[1, 2] * z[v]
            pz = r[2, 0] * x[v] + r[2, 1] * y[v] + r[2, 2] * z[v]
            if px * px + py * py + pz * pz > limit * limit:
                continue
            sign = 1.0
            # rounding may put a point of the plane x = 0 on either side: both hold it
            if px < 0:
                px, py, pz, sign = -px, -py, -pz, -1.0
            px, py, pz = _near_integer(px), _near_integer(py + reach), _near_integer(pz + reach)
            ix, iy, iz = int(px), int(py), int(pz)
            fx, fy, fz = px - ix, py - iy, pz - iz
            for dz in range(2):
                share_z = fz if dz else 1 - fz
                for dy in range(2):
                    share_y = share_z * (fy if dy else 1 - fy)
                    for dx in range(2):
                        share = share_y * (fx if dx else 1 - fx)
                        if share == 0:
                            continue
                        at = starts[iz + dz, iy + dy] + ix + dx
                        for k in range(volumes):
                            out[v, 0, k] += share * table[at, 0, k]
                            out[v, 1, k] += sign * share * table[at, 1, k]


@numba.njit(nogil=True, cache=True, inline="always")
def _near_integer(value):
    nearest = np.round(value)
    return nearest if abs(value - nearest) < 1e-9 else value
