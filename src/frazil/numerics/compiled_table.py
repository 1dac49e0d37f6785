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

# points whose rows are asked for before their turn, and the numbers that one request brings (a line of 64 bytes)
AHEAD, LINE = 16, 16


def _vector(lanes):
    return ir.VectorType(ir.FloatType(), lanes)


def _vector_at(context, builder, kind, value, at, lanes):
    """Pointer to some neighbouring numbers of an array."""
    array = context.make_array(kind)(context, builder, value)
    return builder.bitcast(builder.gep(array.data, [at]), _vector(lanes).as_pointer())


def _spread(builder, number, lanes):
    """A vector of the same number."""
    undefined = ir.Constant(_vector(lanes), ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


def _corners(context, builder, rows, width, kind, weights):
    """Where the numbers of the eight corners begin, and the weight of each."""
    weight = context.make_array(kind)(context, builder, weights)
    starts = [start for row in rows for start in (row, builder.add(row, width))]
    for corner, start in enumerate(starts):
        yield start, builder.load(builder.gep(weight.data, [ir.Constant(ir.IntType(64), corner)]))


def _mixing(lanes):
    """The step of `gather` for some neighbouring numbers of a point."""

    @intrinsic
    def mix(typing_context, table, a, b, c, d, width, weights, signs, sign_at, out, to):
        """out[to] = signs[sign_at] * sum of the eight corners' numbers: at a, b, c, d, and ``width`` behind each.

        ``weights`` are the eight corners', in the order a, behind a, b, ...
        """
        place = types.intp
        signature = types.void(table, place, place, place, place, place, weights, signs, place, out, place)

        def generate(context, builder, signature, arguments):
            kinds = signature.args
            source, a, b, c, d, width, weights, signs, sign_at, out, to = arguments
            total = None
            for start, share in _corners(context, builder, (a, b, c, d), width, kinds[6], weights):
                part = builder.load(_vector_at(context, builder, kinds[0], source, start, lanes), align=4)
                part = builder.fmul(part, _spread(builder, share, lanes), flags=("fast",))
                total = part if total is None else builder.fadd(total, part, flags=("fast",))
            sign = builder.load(_vector_at(context, builder, kinds[7], signs, sign_at, lanes), align=4)
            target = _vector_at(context, builder, kinds[9], out, to, lanes)
            builder.store(builder.fmul(total, sign, flags=("fast",)), target, align=4)
            return context.get_dummy_value()

        return signature, generate

    return mix


def _adding(lanes):
    """The step of `scatter` for some neighbouring numbers of a point."""

    @intrinsic
    def add(typing_context, values, at, signs, sign_at, weights, table, a, b, c, d, width):
        """table += weights * signs[sign_at] * values[at] at the eight corners, see `_mixing`."""
        place = types.intp
        signature = types.void(values, place, signs, place, weights, table, place, place, place, place, place)

        def generate(context, builder, signature, arguments):
            kinds = signature.args
            values, at, signs, sign_at, weights, table, a, b, c, d, width = arguments
            value = builder.load(_vector_at(context, builder, kinds[0], values, at, lanes), align=4)
            sign = builder.load(_vector_at(context, builder, kinds[2], signs, sign_at, lanes), align=4)
            value = builder.fmul(value, sign, flags=("fast",))
            for start, share in _corners(context, builder, (a, b, c, d), width, kinds[4], weights):
                target = _vector_at(context, builder, kinds[5], table, start, lanes)
                added = builder.fmul(value, _spread(builder, share, lanes), flags=("fast",))
                builder.store(builder.fadd(builder.load(target, align=4), added, flags=("fast",)), target, align=4)
            return context.get_dummy_value()

        return signature, generate

    return add


# a row holds an even count of numbers: eights, then at most one four and one two
_mix8, _mix4, _mix2 = _mixing(8), _mixing(4), _mixing(2)
_add8, _add4, _add2 = _adding(8), _adding(4), _adding(2)


@intrinsic
def fetch(typing_context, table, at):
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
                fetch(flat, rows[p, pair] + line)
            fetch(flat, rows[p, pair] + 2 * width - 1)


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
    flat, target, signs = table.reshape(-1), out.reshape(-1), _signs(table.shape[2]).reshape(-1)
    rows, fractions = np.empty((points, 4), np.int64), np.empty((points, 3), np.float32)
    mirrored, weights = np.empty(points, np.bool_), np.empty(8, np.float32)
    for image in range(rotation.shape[0]):
        _locate(rotation[image], x, y, scale, starts, reach, width, rows, fractions, mirrored)
        for p in range(points):
            _fetch_rows(flat, rows, p + AHEAD, width)
            _weigh(fractions[p], factor[image, p], weights)
            a, b, c, d = rows[p, 0], rows[p, 1], rows[p, 2], rows[p, 3]
            sign, to = (width if mirrored[p] else 0), (image * points + p) * width
            k = 0
            while k + 8 <= width:
                _mix8(flat, a + k, b + k, c + k, d + k, width, weights, signs, sign + k, target, to + k)
                k += 8
            if k + 4 <= width:
                _mix4(flat, a + k, b + k, c + k, d + k, width, weights, signs, sign + k, target, to + k)
                k += 4
            if k < width:
                _mix2(flat, a + k, b + k, c + k, d + k, width, weights, signs, sign + k, target, to + k)


@numba.njit(nogil=True, cache=True, fastmath=True)
def scatter(values, starts, reach, rotation, x, y, scale, factor, table):
    """Add factor times values to the table where `gather` reads: its exact adjoint in the table."""
    points, width = x.shape[0], 2 * table.shape[2]
    flat, source, signs = table.reshape(-1), values.reshape(-1), _signs(table.shape[2]).reshape(-1)
    rows, fractions = np.empty((points, 4), np.int64), np.empty((points, 3), np.float32)
    mirrored, weights = np.empty(points, np.bool_), np.empty(8, np.float32)
    for image in range(rotation.shape[0]):
        _locate(rotation[image], x, y, scale, starts, reach, width, rows, fractions, mirrored)
        for p in range(points):
            _fetch_rows(flat, rows, p + AHEAD, width)
            _weigh(fractions[p], factor[image, p], weights)
            a, b, c, d = rows[p, 0], rows[p, 1], rows[p, 2], rows[p, 3]
            sign, at = (width if mirrored[p] else 0), (image * points + p) * width
            k = 0
            while k + 8 <= width:
                _add8(source, at + k, signs, sign + k, weights, flat, a + k, b + k, c + k, d + k, width)
                k += 8
            if k + 4 <= width:
                _add4(source, at + k, signs, sign + k, weights, flat, a + k, b + k, c + k, d + k, width)
                k += 4
            if k < width:
                _add2(source, at + k, signs, sign + k, weights, flat, a + k, b + k, c + k, d + k, width)


@numba.njit(nogil=True, cache=True)
def put_volume(spectrum, place, sign, kept, volume, table):
    """table[kept, :, volume] = sign * spectrum[place]; spectrum: (cells, 2)."""
    for v in range(kept.shape[0]):
        table[kept[v], 0, volume] = sign[v] * spectrum[place[v], 0]
        table[kept[v], 1, volume] = sign[v] * spectrum[place[v], 1]


@numba.njit(nogil=True, cache=True)
def take_volume(table, kept, volume, sign, place, spectrum):
    """spectrum[place] = sign * table[kept, :, volume]."""
    for v in range(kept.shape[0]):
        spectrum[place[v], 0] = sign[v] * table[kept[v], 0, volume]
        spectrum[place[v], 1] = sign[v] * table[kept[v], 1, volume]


@numba.njit(nogil=True, cache=True, fastmath=True)
def newton_step(slope, table, shell, weight, prior, values, turn):
    """slope[v] = T diag(1 / (weight[v] values + 1)) T^T (slope[v] - prior table[v]), with the numbers of the voxel's shell.

    slope, table: (voxels, 2, volumes). prior, values: (shells, volumes). turn: T, (shells, volumes, volumes).
    """
    volumes = table.shape[2]
    damping, turned = np.empty(volumes, np.float32), np.empty(volumes, np.float32)
    for v in range(table.shape[0]):
        s = shell[v]
        for j in range(volumes):
            damping[j] = 1 / (weight[v] * values[s, j] + 1)
        for part in range(2):
            turned[:] = 0
            for k in range(volumes):
                number = slope[v, part, k] - prior[s, k] * table[v, part, k]
                for j in range(volumes):
                    turned[j] += number * turn[s, k, j]
            for j in range(volumes):
                turned[j] *= damping[j]
            for k in range(volumes):
                total = np.float32(0)
                for j in range(volumes):
                    total += turned[j] * turn[s, k, j]
                slope[v, part, k] = total


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
