"""The compiled loop of backprojection: CTF, centring, noise weight and scatter of an image in one pass.

Its torch twin is `backproject.insert_by_parts`, composed of `physics.optics` and `numerics.slices`, under the same test.
"""

from __future__ import annotations

import math

import numba
import numpy as np

# columns of the table of imaging parameters that `insert_images` reads: in turns and Fourier indices of the image, but for
# the last two, the row of the noise weights that holds for the image and the weight of the image
(
    PHASE_XX,
    PHASE_XY,
    PHASE_YY,
    PHASE_QUARTIC,
    PHASE_CONSTANT,
    ENVELOPE,
    TILT_X,
    TILT_Y,
    CENTRE_X,
    CENTRE_Y,
    SCALE,
    GROUP,
    WEIGHT,
) = range(13)
PARAMETERS = 13


@numba.njit(nogil=True, cache=True, fastmath=True, inline="always")
def _sine_of_turns(turns):
    """sin(2 pi turns): an odd polynomial on the quarter turn, fitted by least squares, error below 1e-8."""
    rest = np.float32(turns - math.floor(turns + 0.5))
    size = abs(rest)
    folded = min(size, np.float32(0.5) - size)
    square = folded * folded
    value = folded * (
        np.float32(6.283185291060562)
        + square
        * (
            np.float32(-41.34168215343391)
            + square
            * (
                np.float32(81.60252371034217)
                + square * (np.float32(-76.5814858337853) + square * np.float32(39.75815546620409))
            )
        )
    )
    return math.copysign(value, rest)


@numba.njit(nogil=True, cache=True, fastmath=True)
def insert_images(spectra, rotation, parameters, noise_weight, band, sums):
    """Add images to the sums of a half-map.

    For coefficient k of image b with transfer function T, centred value F, and w the noise weight of its shell times the
    weight of the image, at the point scale R^T (k, 0) of the padded spectrum, spread over the eight corners around it:
    sums[..., 0] + i sums[..., 1] += w conj(T) F and sums[..., 2] += w |T|^2.

    spectra: (images, n, n // 2 + 1) as `rfft2` returns them. rotation: (images, 3, 3). parameters: (images, PARAMETERS).
    noise_weight: (groups, shells). band: highest shell. sums: (2 m + 1, 2 m + 1, m + 1, 3), axes z, y, x.
    """
    n = spectra.shape[1]
    reach = sums.shape[2] - 1
    ctf = np.empty(band + 1, np.float32)
    wave_x = np.empty(band + 1, np.complex64)
    limit = (band + 0.5) ** 2
    for b in range(spectra.shape[0]):
        given = parameters[b]
        scale = np.float32(given[SCALE])
        gain = noise_weight[int(given[GROUP])] * np.float32(given[WEIGHT])
        ax, ay, az = rotation[b, 0, 0] * scale, rotation[b, 0, 1] * scale, rotation[b, 0, 2] * scale
        bx, by, bz = rotation[b, 1, 0] * scale, rotation[b, 1, 1] * scale, rotation[b, 1, 2] * scale
        tilted = given[TILT_X] != 0 or given[TILT_Y] != 0
        for kx in range(band + 1):
            angle = 2 * math.pi * given[CENTRE_X] * kx
            wave_x[kx] = complex(math.cos(angle), math.sin(angle))
        for ky in range(-band, band + 1):
            angle = 2 * math.pi * given[CENTRE_Y] * ky
            wave_y = np.complex64(complex(math.cos(angle), math.sin(angle)))
            y = float(ky)
            last = int(math.sqrt(limit - y * y))
            # on the column kx = 0 a coefficient and its mate are both there: one of them is enough
            first = 0 if ky >= 0 else 1
            for kx in range(last + 1):
                x = float(kx)
                squared = x * x + y * y
                turns = (
                    given[PHASE_XX] * x * x
                    + given[PHASE_XY] * x * y
                    + given[PHASE_YY] * y * y
                    + given[PHASE_QUARTIC] * squared * squared
                    + given[PHASE_CONSTANT]
                )
                ctf[kx] = _sine_of_turns(turns)
            if given[ENVELOPE] != 0:
                for kx in range(last + 1):
                    ctf[kx] *= math.exp(-given[ENVELOPE] * (kx * kx + y * y))
            row = ky if ky >= 0 else ky + n
            for kx in range(first, last + 1):
                value = spectra[b, row, kx] * wave_x[kx] * wave_y
                if tilted:
                    turns = (kx * kx + y * y) * (given[TILT_X] * kx + given[TILT_Y] * y)
                    value *= np.complex64(complex(math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)))
                weight = gain[int(math.sqrt(np.float32(kx * kx + ky * ky)) + np.float32(0.5))] * ctf[kx]
                real, imaginary = value.real * weight, value.imag * weight
                weight *= ctf[kx]
                px, py, pz = ax * kx + bx * ky, ay * kx + by * ky, az * kx + bz * ky
                if px < 0:
                    px, py, pz = -px, -py, -pz
                    imaginary = -imaginary
                py += reach
                pz += reach
                ix, iy, iz = int(px), int(py), int(pz)
                if ix >= reach or py < 0 or pz < 0 or iy >= 2 * reach or iz >= 2 * reach:
                    continue
                fx, fy, fz = np.float32(px - ix), np.float32(py - iy), np.float32(pz - iz)
                gx = np.float32(1) - fx
                for dz in range(2):
                    share_z = fz if dz else np.float32(1) - fz
                    for dy in range(2):
                        share = share_z * (fy if dy else np.float32(1) - fy)
                        left, right = share * gx, share * fx
                        sums[iz + dz, iy + dy, ix, 0] += left * real
                        sums[iz + dz, iy + dy, ix, 1] += left * imaginary
                        sums[iz + dz, iy + dy, ix, 2] += left * weight
                        sums[iz + dz, iy + dy, ix + 1, 0] += right * real
                        sums[iz + dz, iy + dy, ix + 1, 1] += right * imaginary
                        sums[iz + dz, iy + dy, ix + 1, 2] += right * weight


@numba.njit(nogil=True, cache=True)
def complete_axis_plane(sums):
    """On the plane x = 0 a point and its Friedel mate are both stored: give each what the other received."""
    reach = sums.shape[2] - 1
    for z in range(2 * reach + 1):
        for y in range(2 * reach + 1):
            mate_z, mate_y = 2 * reach - z, 2 * reach - y
            if (z, y) > (mate_z, mate_y):
                continue
            real = sums[z, y, 0, 0] + sums[mate_z, mate_y, 0, 0]
            imaginary = sums[z, y, 0, 1] - sums[mate_z, mate_y, 0, 1]
            weight = sums[z, y, 0, 2] + sums[mate_z, mate_y, 0, 2]
            sums[z, y, 0, 0], sums[z, y, 0, 1], sums[z, y, 0, 2] = real, imaginary, weight
            sums[mate_z, mate_y, 0, 0], sums[mate_z, mate_y, 0, 1], sums[mate_z, mate_y, 0, 2] = (
                real,
                -imaginary,
                weight,
            )


@numba.njit(nogil=True, cache=True, fastmath=True)
def symmetrise(sums, rotations, out):
    """out(k) = sum over the rotations g of sums(g k), read by trilinear interpolation.

    Rotations that only permute and flip the axes (all of O and T on its 2-folds, D2, C2) hit grid points: no interpolation.
    """
    reach = sums.shape[2] - 1
    for g in range(rotations.shape[0]):
        r = rotations[g]
        exact = True
        for i in range(3):
            for j in range(3):
                if abs(r[i, j] - np.round(r[i, j])) > 1e-9:
                    exact = False
        for z in range(-reach, reach + 1):
            for y in range(-reach, reach + 1):
                room = reach * reach - z * z - y * y
                if room < 0:
                    continue
                for x in range(int(math.sqrt(room)) + 1):
                    px = r[0, 0] * x + r[0, 1] * y + r[0, 2] * z
                    py = r[1, 0] * x + r[1, 1] * y + r[1, 2] * z
                    pz = r[2, 0] * x + r[2, 1] * y + r[2, 2] * z
                    sign = np.float32(1)
                    if px < 0:
                        px, py, pz, sign = -px, -py, -pz, np.float32(-1)
                    a, b, c = z + reach, y + reach, x
                    if exact:
                        iz, iy, ix = int(round(pz)) + reach, int(round(py)) + reach, int(round(px))
                        out[a, b, c, 0] += sums[iz, iy, ix, 0]
                        out[a, b, c, 1] += sign * sums[iz, iy, ix, 1]
                        out[a, b, c, 2] += sums[iz, iy, ix, 2]
                        continue
                    py += reach
                    pz += reach
                    iz, iy, ix = int(pz), int(py), int(px)
                    if ix >= reach or pz < 0 or py < 0 or iy >= 2 * reach or iz >= 2 * reach:
                        continue
                    fx, fy, fz = np.float32(px - ix), np.float32(py - iy), np.float32(pz - iz)
                    for dz in range(2):
                        share_z = fz if dz else np.float32(1) - fz
                        for dy in range(2):
                            share_y = share_z * (fy if dy else np.float32(1) - fy)
                            for dx in range(2):
                                share = share_y * (fx if dx else np.float32(1) - fx)
                                out[a, b, c, 0] += share * sums[iz + dz, iy + dy, ix + dx, 0]
                                out[a, b, c, 1] += share * sign * sums[iz + dz, iy + dy, ix + dx, 1]
                                out[a, b, c, 2] += share * sums[iz + dz, iy + dy, ix + dx, 2]
