"""Distance of each voxel to the nearest voxel of another label, exactly, in whole nm.

Squared distances are integers in units of the resolution's greatest common divisor. The first axis comes
from the runs. Along each of the two others, with g the squared distances so far and a the voxel's extent,

    d2(v) = min over k >= 0 and both directions of  k^2 a^2 + (g(v + k) if label(v + k) == label(v) else 0).

No segment need be followed: behind another label, met at k, nothing is nearer than k^2 a^2. A voxel is done
as soon as k^2 a^2 is not less than its value (Felzenszwalb and Huttenlocher 2012, doi 10.4086/toc.2012.v008a019,
describe the lower envelope itself, which is used where distances are large).
Voxels are taken in strips of neighbouring lines; a strip lies in the cache, and a row of it in registers.
"""

from __future__ import annotations

import math

import edt
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .runs import Runs

LANES = 64
_BLOCK = 256
"""Least number of neighbouring voxels to a block, where the volume has as many."""
_PATIENCE = 48
"""Steps per row, on average, beyond which the linear envelope is the faster one."""


def whole_distances(runs: Runs, resolution: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Distances in whole nm (floored): int32, one per voxel in the order of the runs; 0 in the background.

    ``resolution``: nm per voxel, in the order of the runs' axes; ``axes``: which of x, y and z these are.
    Exact where the resolution is whole; others are measured by the ``edt`` package, in float32. The volume
    must hold two different labels.
    """
    if np.all(resolution == np.floor(resolution)):
        return _exact_distances(runs, [int(r) for r in resolution])
    return _float_distances(runs, resolution, axes)


def _exact_distances(runs: Runs, resolution: list[int]) -> np.ndarray:
    unit = math.gcd(*resolution)
    steps = [r // unit for r in resolution]
    bound = sum((n * a) ** 2 for n, a in zip(runs.shape, steps, strict=True))
    dtype = np.int32 if bound < 2**30 else np.int64
    far = dtype(2**30 if dtype is np.int32 else 2**62)
    indices = np.arange(runs.shape[0] + 1, dtype=dtype)
    squares = indices * indices * dtype(steps[0] ** 2)
    squared = np.empty(math.prod(runs.shape), dtype)
    for axis in (2, 1):
        _pass(runs, axis, dtype(steps[axis] ** 2), squares, far, squared, _buffers(runs.shape, axis, dtype))
    out = squared if dtype is np.int32 else np.empty(len(squared), np.int32)
    _square_roots(squared, float(unit) ** 2, out)
    return out


def _buffers(shape: tuple[int, int, int], axis: int, dtype: type) -> tuple[np.ndarray, ...]:
    """Strips of labels and of values, a row of each, and a block of results."""
    lines = min(max(1, _BLOCK // shape[0]), shape[3 - axis])
    width = -(-lines * shape[0] // LANES) * LANES
    sizes = ((width * shape[axis], np.uint32), (width * shape[axis], dtype), (width, np.uint32), (width, dtype))
    return tuple(_aligned(n, t) for n, t in (*sizes, (width * shape[axis], dtype)))


def _aligned(n: int, dtype: type) -> np.ndarray:
    """Zeros that begin at a cache line, as the rows of a strip then all do."""
    raw = np.zeros(n * np.dtype(dtype).itemsize + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + n * np.dtype(dtype).itemsize].view(dtype)


@numba.njit(cache=True, nogil=True)
def _pass(runs, axis, unit, squares, far, squared, buffers):
    """Squared distances in two axes (axis 2), or in all three of them (axis 1 after it), in place."""
    labels, values, label_row, value_row, out = buffers
    n0 = runs.shape[0]
    rows, others = (runs.shape[1], runs.shape[2]) if axis == 1 else (runs.shape[2], runs.shape[1])
    row_step, step = (1, runs.shape[1]) if axis == 1 else (runs.shape[1], 1)
    width = len(label_row)
    for begin in range(0, others, width // n0):
        lines = min(width // n0, others - begin)
        for row in range(rows):
            for i in range(lines):
                line = row * row_step + (begin + i) * step
                _spread(runs, line, squares, far, i * n0, label_row, value_row)
                if axis == 1:
                    value_row[i * n0 : (i + 1) * n0] = squared[line * n0 : (line + 1) * n0]
            label_row[lines * n0 :] = 0
            value_row[lines * n0 :] = 0
            for strip in range(width // LANES):
                place = (strip * rows + row) * LANES
                labels[place : place + LANES] = label_row[strip * LANES : (strip + 1) * LANES]
                values[place : place + LANES] = value_row[strip * LANES : (strip + 1) * LANES]
        for strip in range(width // LANES):
            _measure_strip(values, labels, out, strip, rows, width, unit, far)
        for row in range(rows):
            for i in range(lines):
                line = row * row_step + (begin + i) * step
                squared[line * n0 : (line + 1) * n0] = out[row * width + i * n0 : row * width + (i + 1) * n0]


@numba.njit(cache=True, nogil=True)
def _spread(runs, line, squares, far, place, labels, values):
    """Write a line's labels, and its squared distances along the line: 0 in the background, at most far."""
    n0 = runs.shape[0]
    end = runs.offsets[line + 1]
    for run in range(runs.offsets[line], end):
        label = runs.labels[run]
        start = np.int64(runs.starts[run])
        stop = np.int64(runs.starts[run + 1]) if run + 1 < end else n0
        labels[place + start : place + stop] = label
        if label == 0:
            values[place + start : place + stop] = 0
        elif start == 0 and stop == n0:
            values[place + start : place + stop] = far
        else:
            middle = stop if stop == n0 else (start + stop) // 2 if start > 0 else 0
            for i in range(start, middle):
                values[place + i] = squares[i + 1 - start]
            for i in range(middle, stop):
                values[place + i] = squares[stop - i]


@numba.njit(cache=True, nogil=True)
def _measure_strip(values, labels, out, strip, rows, width, unit, far):
    """Row by row; once that has proved slow, line by line."""
    steps = 0
    for row in range(rows):
        place = (strip * rows + row) * LANES
        steps += _measure_row(values, labels, out, place, row * width + strip * LANES, row, rows, unit)
        if steps > _PATIENCE * (row + 1 + rows // 8):
            _measure_lines(values, labels, out, strip, rows, width, unit, far)
            return


@intrinsic
def _measure_row(typing_context, values, labels, out, place, target, row, rows, unit):
    """Write the results of a strip's row; return the number of steps it took.

    Vector code, as the loop vectoriser neither keeps the row in registers nor leaves the loop early.
    Beyond the ends of the lines the last voxels are met again and again, farther off, which changes nothing.
    """

    def generate(context, builder, signature, arguments):
        pointers = [
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(signature.args[:3], arguments[:3], strict=True)
        ]
        place, target, row, rows, unit = arguments[3:]
        element = unit.type
        vector, label_vector = ir.VectorType(element, LANES), ir.VectorType(ir.IntType(32), LANES)
        word = ir.IntType(64)

        def load(pointer, index, kind):
            address = builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())
            return builder.load(address, align=4)

        def splat(value):
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)

        def smaller(kind, a, b):
            return builder.select(builder.icmp_signed("<", a, b), a, b)

        def meet(best, at):
            """The best so far, or by way of the voxels at a row of the strip."""
            index = builder.add(place, builder.mul(builder.sub(at, row), ir.Constant(word, LANES)))
            same = builder.icmp_signed("==", load(pointers[1], index, label_vector), own)
            beyond = builder.select(same, load(pointers[0], index, vector), ir.Constant(vector, None))
            return smaller(vector, builder.add(beyond, cost), best)

        one = ir.Constant(word, 1)
        own = load(pointers[1], place, label_vector)
        start = load(pointers[0], place, vector)
        last = builder.sub(rows, one)
        after = builder.sub(last, row)
        limit = builder.select(builder.icmp_signed(">", row, after), row, after)
        before_loop = builder.block
        test, body, done = (builder.append_basic_block(name) for name in ("test", "body", "done"))
        builder.branch(test)
        builder.position_at_end(test)
        best, k = builder.phi(vector), builder.phi(word)
        best.add_incoming(start, before_loop)
        k.add_incoming(one, before_loop)
        square = builder.mul(k, k)
        square = square if element.width == 64 else builder.trunc(square, element)
        cost = splat(builder.mul(square, unit))
        open_lanes = builder.bitcast(builder.icmp_signed(">", best, cost), ir.IntType(LANES))
        unfinished = builder.icmp_unsigned("!=", open_lanes, ir.Constant(ir.IntType(LANES), 0))
        builder.cbranch(builder.and_(unfinished, builder.icmp_signed("<=", k, limit)), body, done)
        builder.position_at_end(body)
        zero = ir.Constant(word, 0)
        back = builder.sub(row, k)
        back = builder.select(builder.icmp_signed(">", back, zero), back, zero)
        forth = smaller(word, builder.add(row, k), last)
        nearer = meet(meet(best, back), forth)
        best.add_incoming(nearer, body)
        k.add_incoming(builder.add(k, one), body)
        builder.branch(test)
        builder.position_at_end(done)
        address = builder.bitcast(builder.gep(pointers[2], [target]), vector.as_pointer())
        builder.store(best, address, align=4)
        return k

    integer = types.int64
    return integer(values, labels, out, integer, integer, integer, integer, unit), generate


@numba.njit(cache=True, nogil=True)
def _measure_lines(values, labels, out, strip, rows, width, unit, far):
    """Lower envelopes of a strip's lines, in time linear in their length."""
    vertex = np.empty(rows + 2, np.int64)
    height = np.empty(rows + 2, np.int64)
    begins = np.empty(rows + 2, np.int64)
    for lane in range(LANES):
        base = strip * rows * LANES + lane
        target = strip * LANES + lane
        row = 0
        while row < rows:
            label = labels[base + row * LANES]
            stop = row + 1
            while stop < rows and labels[base + stop * LANES] == label:
                stop += 1
            if label == 0:
                for i in range(row, stop):
                    out[target + i * width] = 0
            else:
                envelope = (vertex, height, begins)
                n = _build(values, base, row, stop, rows, np.int64(unit), np.int64(far), envelope)
                _follow(out, target, row, stop, width, np.int64(unit), np.int64(far), envelope, n)
            row = stop


@numba.njit(cache=True, nogil=True)
def _build(values, base, start, stop, rows, unit, far, envelope):
    """Parabolas of the lower envelope over ``start:stop``, and where each begins; those around are 0 high."""
    vertex, height, begins = envelope
    n = 0
    for at in range(max(start - 1, 0), min(stop + 1, rows)):
        inside = start <= at < stop
        value = np.int64(values[base + at * LANES]) if inside else np.int64(0)
        if value >= far:
            continue
        begin = start
        while n > 0:
            other = vertex[n - 1]
            rise = value - height[n - 1] + unit * (at - other) * (at + other)
            begin = max(rise // (2 * unit * (at - other)) + 1, start)
            if begin > begins[n - 1]:
                break
            n -= 1
            begin = start
        if begin < stop:
            vertex[n], height[n], begins[n] = at, value, begin
            n += 1
    return n


@numba.njit(cache=True, nogil=True)
def _follow(out, target, start, stop, width, unit, far, envelope, n):
    vertex, height, begins = envelope
    if n == 0:
        for i in range(start, stop):
            out[target + i * width] = far
    for parabola in range(n):
        end = begins[parabola + 1] if parabola + 1 < n else stop
        for i in range(begins[parabola], end):
            offset = i - vertex[parabola]
            out[target + i * width] = height[parabola] + unit * offset * offset


@numba.njit(cache=True, nogil=True)
def _square_roots(squared, unit, out):
    for i in range(len(squared)):
        out[i] = np.int32(np.sqrt(unit * squared[i]))


def _float_distances(runs: Runs, resolution: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Distances by the ``edt`` package, on a volume in x, y, z order whatever the runs' order, as its
    rounding depends on the order of the axes."""
    dtype = np.uint16 if int(runs.labels.max()) < 2**16 else np.uint32
    flat = np.empty(math.prod(runs.shape), dtype)
    _paint(runs, flat)
    in_xyz = np.argsort(axes)
    volume = np.asfortranarray(flat.reshape(runs.shape, order="F").transpose(in_xyz))
    del flat
    nm = edt.edt(volume, anisotropy=tuple(resolution[in_xyz].tolist()), black_border=False, parallel=1)
    return nm.transpose(axes).ravel(order="F").astype(np.int32)


@numba.njit(cache=True, nogil=True)
def _paint(runs, flat):
    """Write the labels voxel by voxel."""
    n0 = runs.shape[0]
    for line in range(runs.shape[1] * runs.shape[2]):
        end = runs.offsets[line + 1]
        for run in range(runs.offsets[line], end):
            stop = np.int64(runs.starts[run + 1]) if run + 1 < end else n0
            flat[line * n0 + runs.starts[run] : line * n0 + stop] = runs.labels[run]
