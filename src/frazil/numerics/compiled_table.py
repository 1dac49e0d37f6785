"""Compiled loops over a `SpectrumTable`: slices of many volumes at once, and their adjoint.

The eight corners of a point are shared by all volumes, whose values lie side by side in a row of memory. Where a row
begins is found for all points of an image first; then one point after the other is done eight numbers at a time, while the
rows of later points are already on their way from memory. Each kernel has a torch twin in `spectrum_table` under the same
test; kernels release the interpreter lock, run in one thread and add in a fixed order, so that results repeat bit for bit.
"""

# pyright: basic, reportCallIssue=false
# (the compiler, not the caller, gives an intrinsic its first argument)
from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 8
# points whose rows are asked for before their turn, and the numbers that one request brings (a line of 64 bytes)
AHEAD, LINE = 6, 16


def _vector_at(context, builder, kind, value, at):
    """Pointer to eight numbers of an array."""
    array = context.make_array(kind)(context, builder, value)
    return builder.bitcast(builder.gep(array.data, [at]), ir.VectorType(ir.FloatType(), LANES).as_pointer())


def _spread(builder, number):
    """A vector of eight times the same number."""
    eight = ir.VectorType(ir.FloatType(), LANES)
    first = builder.insert_element(ir.Constant(eight, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        first, ir.Constant(eight, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    )


@intrinsic
def _mix(typing_context, table, a, b, c, d, width, weights, signs, sign_at, out, to):
    """out[to : to + 8] = signs[...] * sum of the eight corners' numbers; corners lie at a, b, c, d and ``width`` behind each.

    ``weights`` are the eight corners', in the order a, behind a, b, ...
    """
    place = types.intp
    signature = types.void(table, place, place, place, place, place, weights, signs, place, out, place)

    def generate(context, builder, signature, arguments):
        kinds = signature.args
        source, a, b, c, d, width, weights, signs, sign_at, out, to = arguments
        weight = context.make_array(kinds[6])(context, builder, weights)
        starts = [start for row in (a, b, c, d) for start in (row, builder.add(row, width))]
        total = None
        for corner, start in enumerate(starts):
            share = builder.load(builder.gep(weight.data, [ir.Constant(ir.IntType(64), corner)]))
            part = builder.load(_vector_at(context, builder, kinds[0], source, start), align=4)
            part = builder.fmul(part, _spread(builder, share), flags=("fast",))
            total = part if total is None else builder.fadd(total, part, flags=("fast",))
        sign = builder.load(_vector_at(context, builder, kinds[7], signs, sign_at), align=4)
        builder.store(
            builder.fmul(total, sign, flags=("fast",)), _vector_at(context, builder, kinds[9], out, to), align=4
        )
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _add(typing_context, values, at, signs, sign_at, near, far, table, to, width):
    """table[to : to + 8] += near * signs * values[at : at + 8], and far times the same ``width`` behind."""
    place, single = types.intp, types.float32
    signature = types.void(values, place, signs, place, single, single, table, place, place)

    def generate(context, builder, signature, arguments):
        kinds = signature.args
        values, at, signs, sign_at, near, far, table, to, width = arguments
        value = builder.load(_vector_at(context, builder, kinds[0], values, at), align=4)
        sign = builder.load(_vector_at(context, builder, kinds[2], signs, sign_at), align=4)
        value = builder.fmul(value, sign, flags=("fast",))
        for share, start in ((near, to), (far, builder.add(to, width))):
            target = _vector_at(context, builder, kinds[6], table, start)
            added = builder.fmul(value, _spread(builder, share), flags=("fast",))
            builder.store(builder.fadd(builder.load(target, align=4), added, flags=("fast",)), target, align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _fetch(typing_context, table, at):
    """Ask for the line of memory at ``table[at]``; nothing happens where there is none."""
    signature = types.void(table, types.intp)

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(8).as_pointer())
        integer = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, integer, integer, integer])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(prefetch, [pointer, integer(0), integer(3), integer(1)])
        return context.get_dummy_value()

    return signature, generate


@numba.njit(nogil=True, cache=True, fastmath=True)
def _locate(rotation, x, y, scale, starts, reach, width, rows, fractions, mirrored):
    """Where the four pairs of corners of every point of an image begin, and how far the point lies beyond them.

    rows: (points, 4), of (z, y), (z, y + 1), (z + 1, y), (z + 1, y + 1). fractions: (points, 3), along x, y, z.
    mirrored: whether the point is read at its Friedel mate.
    """
    ax, ay, az = rotation[0, 0] * scale, rotation[0, 1] * scale, rotation[0, 2] * scale
    bx, by, bz = rotation[1, 0] * scale, rotation[1, 1] * scale, rotation[1, 2] * scale
    for p in range(x.shape[0]):
        px = ax * x[p] + bx * y[p]
        py = ay * x[p] + by * y[p]
        pz = az * x[p] + bz * y[p]
        mirrored[p] = px < 0
        if px < 0:
            px, py, pz = -px, -py, -pz
        py += reach
        pz += reach
        ix, iy, iz = int(px), int(py), int(pz)
        fractions[p, 0], fractions[p, 1], fractions[p, 2] = px - ix, py - iy, pz - iz
        rows[p, 0] = (starts[iz, iy] + ix) * width
        rows[p, 1] = (starts[iz, iy + 1] + ix) * width
        rows[p, 2] = (starts[iz + 1, iy] + ix) * width
        rows[p, 3] = (starts[iz + 1, iy + 1] + ix) * width


@numba.njit(nogil=True, cache=True, fastmath=True)
def _fetch_rows(flat, rows, p, width):
    if p < rows.shape[0]:
        for pair in range(4):
            for line in range(0, 2 * width, LINE):
                _fetch(flat, rows[p, pair] + line)
            _fetch(flat, rows[p, pair] + 2 * width - 1)


@numba.njit(nogil=True, cache=True, fastmath=True)
def _weigh(fraction, size, weights):
    """The weights of the eight corners times a factor."""
    one = np.float32(1)
    for pair in range(4):
        share = (fraction[2] if pair >= 2 else one - fraction[2]) * (fraction[1] if pair % 2 else one - fraction[1])
        weights[2 * pair] = share * (one - fraction[0]) * size
        weights[2 * pair + 1] = share * fraction[0] * size


@numba.njit(nogil=True, cache=True)
def _signs(volumes):
    """Two rows of signs: of a point read where it is, and of one read at its mate, whose imaginary parts are negative."""
    signs = np.ones((2, 2 * volumes), np.float32)
    signs[1, volumes:] = -1
    return signs


@numba.njit(nogil=True, cache=True, fastmath=True)
def gather(table, starts, reach, rotation, x, y, scale, factor, out):
    """out[b, p] = factor[b, p] times the trilinear values of all volumes at scale R_b^T (x_p, y_p, 0).

    table: (voxels, 2, volumes), real parts before imaginary ones. starts: (2 m + 1, 2 m + 1), where a row (z, y) begins.
    out: (images, points, 2, volumes).
    """
    points, width = x.shape[0], 2 * table.shape[2]
    flat, target, signs = table.reshape(-1), out.reshape(-1), _signs(table.shape[2])
    both_signs = signs.reshape(-1)
    rows, fractions = np.empty((points, 4), np.int64), np.empty((points, 3), np.float32)
    mirrored, weights = np.empty(points, np.bool_), np.empty(8, np.float32)
    for b in range(rotation.shape[0]):
        _locate(rotation[b], x, y, scale, starts, reach, width, rows, fractions, mirrored)
        for p in range(points):
            _fetch_rows(flat, rows, p + AHEAD, width)
            _weigh(fractions[p], factor[b, p], weights)
            r1, r2, r3, r4 = rows[p, 0], rows[p, 1], rows[p, 2], rows[p, 3]
            sign, to = (width if mirrored[p] else 0), (b * points + p) * width
            done = 0
            while done + LANES <= width:
                four = (r1 + done, r2 + done, r3 + done, r4 + done)
                _mix(flat, *four, width, weights, both_signs, sign + done, target, to + done)
                done += LANES
            for k in range(done, width):
                total = np.float32(0)
                for pair in range(4):
                    at = rows[p, pair] + k
                    total += weights[2 * pair] * flat[at] + weights[2 * pair + 1] * flat[at + width]
                target[to + k] = total * signs[int(mirrored[p]), k]


@numba.njit(nogil=True, cache=True, fastmath=True)
def scatter(values, starts, reach, rotation, x, y, scale, factor, table):
    """Add factor times values to the table where `gather` reads: its exact adjoint in the table."""
    points, width = x.shape[0], 2 * table.shape[2]
    flat, source, signs = table.reshape(-1), values.reshape(-1), _signs(table.shape[2])
    both_signs = signs.reshape(-1)
    rows, fractions = np.empty((points, 4), np.int64), np.empty((points, 3), np.float32)
    mirrored, weights = np.empty(points, np.bool_), np.empty(8, np.float32)
    for b in range(rotation.shape[0]):
        _locate(rotation[b], x, y, scale, starts, reach, width, rows, fractions, mirrored)
        for p in range(points):
            _fetch_rows(flat, rows, p + AHEAD, width)
            _weigh(fractions[p], factor[b, p], weights)
            sign, at = (width if mirrored[p] else 0), (b * points + p) * width
            for pair in range(4):
                row, near, far = rows[p, pair], weights[2 * pair], weights[2 * pair + 1]
                done = 0
                while done + LANES <= width:
                    _add(source, at + done, both_signs, sign + done, near, far, flat, row + done, width)
                    done += LANES
                for k in range(done, width):
                    value = source[at + k] * signs[int(mirrored[p]), k]
                    flat[row + k] += near * value
                    flat[row + width + k] += far * value


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


@numba.njit(nogil=True, cache=True, fastmath=True)
def scatter_shares(values, starts, reach, rotation, x, y, scale, factor, share, sums):
    """Add images to several tables at once, each in the share that it has in them; a share of 0 costs nothing.

    values: (images, points, 2). share: (images, tables, 2), of the signal and of the power. sums: (tables, voxels, 2, 2),
    in column 0 the signal, in column 1 (real part) the power; both as `scatter` would add them.
    """
    points = x.shape[0]
    rows, fractions = np.empty((points, 4), np.int64), np.empty((points, 3), np.float32)
    mirrored, weights = np.empty(points, np.bool_), np.empty(8, np.float32)
    for b in range(rotation.shape[0]):
        _locate(rotation[b], x, y, scale, starts, reach, 1, rows, fractions, mirrored)
        for table in range(share.shape[1]):
            signal, power = share[b, table, 0], share[b, table, 1]
            if signal == 0 and power == 0:
                continue
            into = sums[table]
            for p in range(points):
                size = factor[b, p]
                _weigh(fractions[p], size, weights)
                real, imaginary, told = signal * values[b, p, 0], signal * values[b, p, 1], power * size
                if mirrored[p]:
                    imaginary = -imaginary
                for corner in range(8):
                    at = rows[p, corner // 2] + corner % 2
                    into[at, 0, 0] += weights[corner] * real
                    into[at, 1, 0] += weights[corner] * imaginary
                    into[at, 0, 1] += weights[corner] * told
