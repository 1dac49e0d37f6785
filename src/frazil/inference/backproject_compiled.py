"""The compiled loop of backprojection: CTF, centring, noise weight and scatter of an image in one pass.

Its torch twin is `backproject.insert_by_parts`, composed of `physics.optics` and `numerics.slices`, under the same test.
"""

# the compiler, not the caller, gives an intrinsic its first argument
# pyright: reportCallIssue=false
from __future__ import annotations

import math

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from frazil.numerics.compiled_sine import sine_of_turns

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


@intrinsic
def _add_to_neighbours(typing_context, sums, at, left, right, real, imaginary, weight):
    """sums[at : at + 3] += left * (real, imaginary, weight), and right times the same to the cell behind it.

    One vector of eight numbers is read, added to and written, the last two of them unchanged: a loop over the six, which
    the compiler does not make a vector of, takes twice as long. ``at + 8`` must lie within the sums.
    """
    single = types.float32
    signature = types.void(sums, types.intp, single, single, single, single, single)

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        _, at, left, right, *cell = arguments
        eight = ir.VectorType(ir.FloatType(), 8)

        def vector(numbers):
            out = ir.Constant(eight, [0.0] * 8)
            for lane, number in enumerate(numbers):
                out = builder.insert_element(out, number, ir.Constant(ir.IntType(32), lane))
            return out

        place = builder.bitcast(builder.gep(array.data, [at]), eight.as_pointer())
        added = builder.fmul(vector([left] * 3 + [right] * 3), vector(cell * 2), flags=("fast",))
        total = builder.fadd(builder.load(place, align=4), added, flags=("fast",))
        builder.store(total, place, align=4)
        return context.get_dummy_value()

    return signature, generate


@numba.njit(nogil=True, cache=True, fastmath=True)
def insert_images(spectra, chosen, rotation, parameters, noise_weight, band, sums):
    """Add the chosen ones of a batch of images to the sums of a half-map.

    For coefficient k of image b with transfer function T, centred value F, and w the noise weight of its shell times the
    weight of the image, at the point scale R^T (k, 0) of the padded spectrum, spread over the eight corners around it:
    sums[..., 0] + i sums[..., 1] += w conj(T) F and sums[..., 2] += w |T|^2.

    A row of coefficients goes through one short loop after another, each of them simple enough to be done in vectors.

    spectra: (images, n, n // 2 + 1) as `rfft2` returns them. chosen: indices of images. rotation: (images, 3, 3).
    parameters: (images, PARAMETERS). noise_weight: (groups, shells). band: highest shell.
    sums: (2 m + 1, 2 m + 1, m + 1, 3), axes z, y, x.
    """
    n = spectra.shape[1]
    reach = sums.shape[2] - 1
    flat = sums.reshape(-1)
    step_y = 3 * sums.shape[2]
    step_z = step_y * sums.shape[1]
    limit = (band + 0.5) ** 2
    shells = np.empty((band + 1, band + 1), np.int32)
    for ky in range(band + 1):
        for kx in range(band + 1):
            shells[ky, kx] = min(int(math.sqrt(kx * kx + ky * ky) + 0.5), noise_weight.shape[1] - 1)
    wave_real, wave_imaginary = np.empty(band + 1, np.float32), np.empty(band + 1, np.float32)
    turns = np.empty(band + 1, np.float32)
    real, imaginary, weight = (
        np.empty(band + 1, np.float32),
        np.empty(band + 1, np.float32),
        np.empty(band + 1, np.float32),
    )
    at_x, at_y, at_z = (np.empty(band + 1, np.float32), np.empty(band + 1, np.float32), np.empty(band + 1, np.float32))
    for b in chosen:
        given = parameters[b]
        xx, xy, yy = given[PHASE_XX], given[PHASE_XY], given[PHASE_YY]
        quartic, constant, envelope = given[PHASE_QUARTIC], given[PHASE_CONSTANT], given[ENVELOPE]
        tilt_x, tilt_y = given[TILT_X], given[TILT_Y]
        tilted = tilt_x != 0 or tilt_y != 0
        gain = noise_weight[int(given[GROUP])] * np.float32(given[WEIGHT])
        scale = np.float32(given[SCALE])
        ax, ay, az = rotation[b, 0, 0] * scale, rotation[b, 0, 1] * scale, rotation[b, 0, 2] * scale
        bx, by, bz = rotation[b, 1, 0] * scale, rotation[b, 1, 1] * scale, rotation[b, 1, 2] * scale
        for kx in range(band + 1):
            angle = 2 * math.pi * given[CENTRE_X] * kx
            wave_real[kx], wave_imaginary[kx] = math.cos(angle), math.sin(angle)
        for ky in range(-band, band + 1):
            y = float(ky)
            last = int(math.sqrt(limit - y * y))
            # on the column kx = 0 a coefficient and its mate are both there: one of them is enough
            first = 0 if ky >= 0 else 1
            row = spectra[b, ky if ky >= 0 else ky + n]
            shell = shells[abs(ky)]
            for kx in range(last + 1):
                x = float(kx)
                squared = x * x + y * y
                phase = (xx * x + xy * y) * x + yy * y * y + quartic * squared * squared + constant
                turns[kx] = phase - math.floor(phase + 0.5)
            angle = 2 * math.pi * given[CENTRE_Y] * ky
            row_real, row_imaginary = np.float32(math.cos(angle)), np.float32(math.sin(angle))
            for kx in range(last + 1):
                ctf = sine_of_turns(turns[kx])
                share = gain[shell[kx]] * ctf
                wave_r = wave_real[kx] * row_real - wave_imaginary[kx] * row_imaginary
                wave_i = wave_real[kx] * row_imaginary + wave_imaginary[kx] * row_real
                value = row[kx]
                real[kx] = (value.real * wave_r - value.imag * wave_i) * share
                imaginary[kx] = (value.real * wave_i + value.imag * wave_r) * share
                weight[kx] = share * ctf
            if envelope != 0:
                for kx in range(last + 1):
                    damping = np.float32(math.exp(-envelope * (kx * kx + y * y)))
                    real[kx] *= damping
                    imaginary[kx] *= damping
                    weight[kx] *= damping * damping
            if tilted:
                for kx in range(last + 1):
                    angle = 2 * math.pi * (kx * kx + y * y) * (tilt_x * kx + tilt_y * y)
                    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
                    turned = real[kx] * cosine - imaginary[kx] * sine
                    imaginary[kx] = real[kx] * sine + imaginary[kx] * cosine
                    real[kx] = turned
            step, middle = np.float32(ky), np.float32(reach)
            for kx in range(first, last + 1):
                x = np.float32(kx)
                px, py, pz = ax * x + bx * step, ay * x + by * step, az * x + bz * step
                sign = np.float32(-1) if px < 0 else np.float32(1)
                imaginary[kx] *= sign
                at_x[kx], at_y[kx], at_z[kx] = px * sign, py * sign + middle, pz * sign + middle
            for kx in range(first, last + 1):
                ix, iy, iz = np.int32(at_x[kx]), np.int32(at_y[kx]), np.int32(at_z[kx])
                fx, fy, fz = at_x[kx] - np.float32(ix), at_y[kx] - np.float32(iy), at_z[kx] - np.float32(iz)
                gx, gy, gz = np.float32(1) - fx, np.float32(1) - fy, np.float32(1) - fz
                at = np.intp(iz) * step_z + np.intp(iy) * step_y + 3 * np.intp(ix)
                # (a place that is not a number becomes the least integer)
                outside = min(ix, iy, iz) < 0 or at_y[kx] < 0 or at_z[kx] < 0
                outside = outside or ix >= reach or iy >= 2 * reach or iz >= 2 * reach
                # the very last pair of cells has nothing behind it for the vector to reach into
                if outside or at + step_z + step_y + 8 > flat.size:
                    continue
                r, i, w = real[kx], imaginary[kx], weight[kx]
                _add_to_neighbours(flat, at, gz * gy * gx, gz * gy * fx, r, i, w)
                _add_to_neighbours(flat, at + step_y, gz * fy * gx, gz * fy * fx, r, i, w)
                _add_to_neighbours(flat, at + step_z, fz * gy * gx, fz * gy * fx, r, i, w)
                _add_to_neighbours(flat, at + step_z + step_y, fz * fy * gx, fz * fy * fx, r, i, w)


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
