"""The compiled loop of `normal_equations`: a slice, its derivatives, and all sums over the coefficients, in one pass.

Coefficients are taken a few hundred at a time, so that what is kept of them stays in the nearest cache. They go through one
short loop after another: only the reading of the table is done one by one, the others are done in vectors. The kernel
releases the interpreter lock, runs in one thread and adds in a fixed order.
"""

# pyright: basic, reportCallIssue=false
# (the compiler, not the caller, gives an intrinsic its first argument)
from __future__ import annotations

import math

import numba
import numpy as np

from frazil.numerics.compiled_sine import sine_of_turns
from frazil.numerics.compiled_table import AHEAD, fetch

# coefficients taken at once
BLOCK = 256
PARAMETERS = 7
# rows of the scratch memory of a block
(AMPLITUDE, SLOPE, REAL, IMAGINARY, SLICE_R, SLICE_I, DEPTH_R, DEPTH_I, TURN_R, TURN_I) = range(10)
SCRATCH = 10
# the sums of products that `_add_products` makes: see there
SUMS = 30


@numba.njit(nogil=True, cache=True, fastmath=True)
def normal_equations(
    values, image, table, starts, reach, x, y, padding, rotation, turns, phase, envelope, gain, group, amplitude,
    log_likelihood, gradient, matrix,
):  # fmt: skip
    """Fill ``log_likelihood`` (rows), ``gradient`` (rows, 7) and ``matrix`` (rows, 7, 7): see `normal_equations.py`.

    values: (images, coefficients, 2). image: (rows), of which image a row is a trial. table: (voxels, 2, 1).
    x, y, gain: float32, coefficients in the order of the values; gain: (groups, coefficients). The rest has one entry a row.
    """
    flat = table.reshape(-1)
    work = np.empty((SCRATCH, BLOCK), np.float32)
    rows, fractions = np.empty((BLOCK, 4), np.int64), np.empty((BLOCK, 3), np.float32)
    sign = np.empty(BLOCK, np.float32)
    sums = np.empty(SUMS, np.float64)
    turned = np.empty((3, 3), np.float32)
    for row in range(image.shape[0]):
        sums[:] = 0
        for i in range(3):
            for j in range(3):
                turned[i, j] = rotation[row, i, j] * padding
        source = values[image[row]]
        weight = gain[group[row]]
        for first in range(0, x.shape[0], BLOCK):
            last = min(first + BLOCK, x.shape[0])
            across, up = x[first:last], y[first:last]
            _transfer(source[first:last], across, up, phase[row], envelope[row], weight[first:last],
                      np.float32(amplitude[row]), turns[row], work)  # fmt: skip
            _locate(turned, across, up, starts, reach, rows, fractions, sign)
            _slices(flat, rows, fractions, sign, turned, across, up, work)
            _add_products(across, up, work, sums)
        _assemble(sums, log_likelihood, gradient, matrix, row)


@numba.njit(nogil=True, cache=True, fastmath=True)
def _transfer(values, x, y, phase, envelope, gain, amplitude, turns, work):
    """The factor of each coefficient, its derivative in the quadratic phase, and the image moved back by the shift."""
    xx, xy, yy = np.float32(phase[0]), np.float32(phase[1]), np.float32(phase[2])
    quartic, constant = np.float32(phase[3]), np.float32(phase[4])
    along_x, along_y = np.float32(turns[0]), np.float32(turns[1])
    half, quarter, circle = np.float32(0.5), np.float32(0.25), np.float32(2 * math.pi)
    for p in range(x.shape[0]):
        squared = x[p] * x[p] + y[p] * y[p]
        angle = (xx * x[p] + xy * y[p]) * x[p] + yy * y[p] * y[p] + quartic * squared * squared + constant
        sine = sine_of_turns(angle - np.floor(angle + half))
        angle += quarter
        cosine = sine_of_turns(angle - np.floor(angle + half))
        work[AMPLITUDE, p] = amplitude * gain[p] * sine
        work[SLOPE, p] = amplitude * gain[p] * cosine * circle * squared
    if envelope != 0:
        fall = np.float32(-envelope)
        for p in range(x.shape[0]):
            damping = np.exp(fall * (x[p] * x[p] + y[p] * y[p]))
            work[AMPLITUDE, p] *= damping
            work[SLOPE, p] *= damping
    for p in range(x.shape[0]):
        angle = along_x * x[p] + along_y * y[p]
        sine = sine_of_turns(angle - np.floor(angle + half))
        angle += quarter
        cosine = sine_of_turns(angle - np.floor(angle + half))
        work[REAL, p] = values[p, 0] * cosine - values[p, 1] * sine
        work[IMAGINARY, p] = values[p, 0] * sine + values[p, 1] * cosine


@numba.njit(nogil=True, cache=True, fastmath=True)
def _locate(turned, x, y, starts, reach, rows, fractions, sign):
    """Where the corners of every point begin: as in `compiled_table`, for one volume; a negative sign for Friedel mates."""
    ax, ay, az = turned[0, 0], turned[0, 1], turned[0, 2]
    bx, by, bz = turned[1, 0], turned[1, 1], turned[1, 2]
    middle = np.float32(reach)
    for p in range(x.shape[0]):
        px, py, pz = ax * x[p] + bx * y[p], ay * x[p] + by * y[p], az * x[p] + bz * y[p]
        sign[p] = np.float32(-1) if px < 0 else np.float32(1)
        px, py, pz = px * sign[p], py * sign[p] + middle, pz * sign[p] + middle
        ix, iy, iz = np.int32(px), np.int32(py), np.int32(pz)
        fractions[p, 0], fractions[p, 1], fractions[p, 2] = px - ix, py - iy, pz - iz
        rows[p, 0] = 2 * (starts[iz, iy] + ix)
        rows[p, 1] = 2 * (starts[iz, iy + 1] + ix)
        rows[p, 2] = 2 * (starts[iz + 1, iy] + ix)
        rows[p, 3] = 2 * (starts[iz + 1, iy + 1] + ix)


@numba.njit(nogil=True, cache=True, fastmath=True)
def _slices(flat, rows, fractions, sign, turned, x, y, work):
    """The slice and its derivatives along the beam (depth) and for a turn about it, from the same eight corners."""
    count = x.shape[0]
    for p in range(count):
        if p + AHEAD < count:
            for pair in range(4):
                fetch(flat, rows[p + AHEAD, pair])
        fx, fy, fz = fractions[p, 0], fractions[p, 1], fractions[p, 2]
        for part in range(2):
            a, b, c, d = rows[p, 0] + part, rows[p, 1] + part, rows[p, 2] + part, rows[p, 3] + part
            # of the four edges along x: how much the value grows, and the value
            da, db, dc, dd = flat[a + 2] - flat[a], flat[b + 2] - flat[b], flat[c + 2] - flat[c], flat[d + 2] - flat[d]
            va, vb, vc, vd = flat[a] + fx * da, flat[b] + fx * db, flat[c] + fx * dc, flat[d] + fx * dd
            low, high = va + fy * (vb - va), vc + fy * (vd - vc)
            grow_low, grow_high = da + fy * (db - da), dc + fy * (dd - dc)
            along_x = grow_low + fz * (grow_high - grow_low)
            along_y = (vb - va) + fz * ((vd - vc) - (vb - va))
            along_z = high - low
            # at a mate the imaginary part and the direction are reversed
            aside = sign[p] if part == 1 else np.float32(1)
            forth = sign[p] * aside
            view_x = turned[0, 0] * along_x + turned[0, 1] * along_y + turned[0, 2] * along_z
            view_y = turned[1, 0] * along_x + turned[1, 1] * along_y + turned[1, 2] * along_z
            view_z = turned[2, 0] * along_x + turned[2, 1] * along_y + turned[2, 2] * along_z
            work[SLICE_R + part, p] = aside * (low + fz * (high - low))
            work[DEPTH_R + part, p] = forth * view_z
            work[TURN_R + part, p] = forth * (y[p] * view_x - x[p] * view_y)


@numba.njit(nogil=True, cache=True, fastmath=True)
def _add_products(x, y, work, sums):
    """Add the products of derivatives with each other and with the residual, over the coefficients of a block.

    With a = amplitude, P = a depth, Q = a turn, M = a slice, D = slope slice and r = image - M, all columns of the
    derivative are multiples of four: -y P, x P, Q, -2 pi i x M, -2 pi i y M, D, M. Three loops: each keeps its sums in
    registers.
    """
    zero = np.float32(0)
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = zero
    for p in range(x.shape[0]):
        a, kx, ky = work[AMPLITUDE, p], x[p], y[p]
        pr, pi, qr, qi = a * work[DEPTH_R, p], a * work[DEPTH_I, p], a * work[TURN_R, p], a * work[TURN_I, p]
        rr, ri = work[REAL, p] - a * work[SLICE_R, p], work[IMAGINARY, p] - a * work[SLICE_I, p]
        pp, pq, pn = pr * pr + pi * pi, pr * qr + pi * qi, pr * rr + pi * ri
        s0 += ky * ky * pp
        s1 += kx * ky * pp
        s2 += kx * kx * pp
        s3 += ky * pq
        s4 += kx * pq
        s5 += qr * qr + qi * qi
        s6 += ky * pn
        s7 += kx * pn
        s8 += qr * rr + qi * ri
    sums[0] += s0
    sums[1] += s1
    sums[2] += s2
    sums[3] += s3
    sums[4] += s4
    sums[5] += s5
    sums[6] += s6
    sums[7] += s7
    sums[8] += s8
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = s10 = zero
    for p in range(x.shape[0]):
        a, d, kx, ky = work[AMPLITUDE, p], work[SLOPE, p], x[p], y[p]
        pr, pi, qr, qi = a * work[DEPTH_R, p], a * work[DEPTH_I, p], a * work[TURN_R, p], a * work[TURN_I, p]
        sr, si = work[SLICE_R, p], work[SLICE_I, p]
        crossed, ps = a * (pr * si - pi * sr), pr * sr + pi * si
        turned, qs = a * (qr * si - qi * sr), qr * sr + qi * si
        s0 += ky * kx * crossed
        s1 += ky * ky * crossed
        s2 += kx * kx * crossed
        s3 += kx * turned
        s4 += ky * turned
        s5 += ky * d * ps
        s6 += kx * d * ps
        s7 += d * qs
        s8 += ky * a * ps
        s9 += kx * a * ps
        s10 += a * qs
    sums[9] += s0
    sums[10] += s1
    sums[11] += s2
    sums[12] += s3
    sums[13] += s4
    sums[14] += s5
    sums[15] += s6
    sums[16] += s7
    sums[17] += s8
    sums[18] += s9
    sums[19] += s10
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = s10 = zero
    for p in range(x.shape[0]):
        a, d, kx, ky = work[AMPLITUDE, p], work[SLOPE, p], x[p], y[p]
        sr, si, vr, vi = work[SLICE_R, p], work[SLICE_I, p], work[REAL, p], work[IMAGINARY, p]
        ss = sr * sr + si * si
        mm, along, aside = a * a * ss, sr * vr + si * vi, a * (sr * vi - si * vr)
        s0 += kx * kx * mm
        s1 += kx * ky * mm
        s2 += ky * ky * mm
        s3 += d * d * ss
        s4 += a * d * ss
        s5 += mm
        s6 += kx * aside
        s7 += ky * aside
        s8 += d * along
        s9 += a * along
    sums[20] += s0
    sums[21] += s1
    sums[22] += s2
    sums[23] += s3
    sums[24] += s4
    sums[25] += s5
    sums[26] += s6
    sums[27] += s7
    sums[28] += s8
    sums[29] += s9


@numba.njit(nogil=True, cache=True)
def _assemble(sums, log_likelihood, gradient, matrix, row):
    """Sums into their places: parameters are three rotations, two shifts, quadratic phase, logarithm of the amplitude."""
    circle = 2 * math.pi
    m, g = matrix[row], gradient[row]
    m[0, 0], m[0, 1], m[1, 1], m[0, 2], m[1, 2], m[2, 2] = sums[0], -sums[1], sums[2], -sums[3], sums[4], sums[5]
    m[0, 3], m[0, 4] = -circle * sums[9], -circle * sums[10]
    m[1, 3], m[1, 4] = circle * sums[11], circle * sums[9]
    m[2, 3], m[2, 4] = circle * sums[12], circle * sums[13]
    m[0, 5], m[1, 5], m[2, 5] = -sums[14], sums[15], sums[16]
    m[0, 6], m[1, 6], m[2, 6] = -sums[17], sums[18], sums[19]
    m[3, 3], m[3, 4], m[4, 4] = circle**2 * sums[20], circle**2 * sums[21], circle**2 * sums[22]
    # a shift turns phases, defocus and amplitude change sizes: they have nothing in common
    m[3, 5] = m[3, 6] = m[4, 5] = m[4, 6] = 0
    m[5, 5], m[5, 6], m[6, 6] = sums[23], sums[24], sums[25]
    for i in range(PARAMETERS):
        for j in range(i):
            m[i, j] = m[j, i]
    g[0], g[1], g[2] = -sums[6], sums[7], sums[8]
    g[3], g[4] = -circle * sums[26], -circle * sums[27]
    g[5], g[6] = sums[28] - sums[24], sums[29] - sums[25]
    log_likelihood[row] = sums[29] - sums[25] / 2
