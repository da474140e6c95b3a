"""Squared distances by lower envelopes of parabolas, in time linear in the length of the lines.

The method is that of Felzenszwalb and Huttenlocher 2012, doi 10.4086/toc.2012.v008a019, in integers. Each
stretch of one label in a line has its own envelope. It has a parabola at each voxel of the stretch, and a
parabola of height 0 at the voxel before the stretch and at the voxel after it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..core.jit import compiled
from .simd import LANES


class LineBuffers(NamedTuple):
    """Buffers for neighbouring lines of voxels, transposed: row i holds the i-th voxel of each line.

    Rows are ``pitch`` elements apart; the first ``width`` elements of a row are voxels.
    """

    labels: np.ndarray
    values: np.ndarray
    """Squared distances before the pass; ``far`` where there is no other label."""
    out: np.ndarray
    """Squared distances after the pass."""
    stepped: np.ndarray
    """Squared distances of one strip after the STEPS steps of `strips`, row by row."""
    lowest: np.ndarray
    """For each row that `measure_thick` searches and each lane: the row whose parabola is the lowest."""
    width: int
    pitch: int


_Envelope = tuple[np.ndarray, np.ndarray, np.ndarray]
"""For each parabola: the index of its vertex, its height there, and the first index where it is lowest."""


@compiled
def measure_lines(block: LineBuffers, strip: int, rows: int, unit: Any, far: Any) -> None:
    """Write the squared distances of a strip of LANES lines to ``block.out``.

    ``strip`` is the index of the first of these lines; each line has ``rows`` voxels. ``unit`` and ``far``
    are int64. ``unit`` is the square of a voxel's extent along the lines. Results above ``far`` become
    ``far``.
    """
    vertex = np.empty(rows + 2, np.int64)
    height = np.empty(rows + 2, np.int64)
    begins = np.empty(rows + 2, np.int64)
    envelope = (vertex, height, begins)
    for base in range(strip, strip + LANES):
        labels = block.labels[base :: block.pitch][:rows]
        values = block.values[base :: block.pitch][:rows]
        out = block.out[base :: block.pitch][:rows]
        row: Any = np.int64(0)  # of a literal, numba would compile what it is passed to a second time
        while row < rows:
            label = labels[row]
            stop = row + 1
            while stop < rows and labels[stop] == label:
                stop += 1
            if label == 0:
                out[row:stop] = 0
            else:
                n = _build(values, row, stop, unit, far, envelope)
                _follow(out, row, stop, unit, far, envelope, n)
            row = stop


@compiled
def _build(values: np.ndarray, start: int, stop: int, unit: Any, far: Any, envelope: _Envelope) -> int:
    """Write the parabolas of the lower envelope over ``start:stop`` to ``envelope``; return their number.

    The voxels before ``start`` and from ``stop`` on belong to other labels, and have height 0.
    """
    vertex, height, begins = envelope
    n = 0
    for at in range(max(start - 1, 0), min(stop + 1, len(values))):
        value = np.int64(values[at]) if start <= at < stop else np.int64(0)
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


@compiled
def _follow(out: np.ndarray, start: int, stop: int, unit: Any, far: Any, envelope: _Envelope, n: int) -> None:
    """Write the lower envelope of n parabolas to ``out[start:stop]``; ``far`` if n is 0."""
    vertex, height, begins = envelope
    if n == 0:
        out[start:stop] = far
    for parabola in range(n):
        end = begins[parabola + 1] if parabola + 1 < n else stop
        for i in range(begins[parabola], end):
            offset = i - vertex[parabola]
            out[i] = min(height[parabola] + unit * offset * offset, far)
