"""Compiled parser of protocol buffers: fields, and the cell chunks of Bigtable's ReadRows.

Positions are indices into the bytes ``data``; ``end`` is the first one that is not read. A group, a
kind of field that these messages do not use, counts as malformed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.jit import embedded

Bytes = npt.NDArray[np.uint8]
ABSENT = -1
ONE_BYTE = 128
"""A varint below this number has one byte."""
BYTES_KIND, BYTES_TAG = 2, 0x87
"""Wire type of bytes; mask for the wire type and the continuation bit, which is 0 in a one-byte tag."""
CHUNK = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("key", "key_end", "family", "family_end", "qualifier", "qualifier_end"),
            *("value", "value_end", "time", "size", "reset", "commit", "labels"),
        )
    ]
)
"""A cell chunk: start and end of fields of bytes, values of others. Family or qualifier may be `ABSENT`."""


@embedded
def varint(data: Bytes, at: int, end: int) -> tuple[Any, Any]:
    """Read a varint; return a tuple: its value; the position after it, -1 for a malformed varint."""
    if at < end and data[at] < ONE_BYTE:
        return np.uint64(data[at]), at + 1
    value = np.uint64(0)
    for i in range(10):
        if at + i >= end:
            break
        byte = np.uint64(data[at + i])
        value |= (byte & np.uint64(127)) << np.uint64(7 * i)
        if byte < np.uint64(128):
            return value, at + i + 1
    return value, np.int64(-1)


@embedded
def field(data: Bytes, at: int, end: int) -> tuple[Any, Any, Any, Any]:
    """Return a tuple: a field's tag; start of its value; end of its value; the position after the field.

    For a varint, the second item is its value. The last item is -1 for a malformed field.
    """
    if end - at >= 2 and data[at] >= 8 and data[at] & BYTES_TAG == BYTES_KIND:
        length = np.int64(data[at + 1])
        if length < ONE_BYTE and length <= end - at - 2:  # a short value, as most are
            return np.int64(data[at]), at + 2, at + 2 + length, at + 2 + length
    wide, at = varint(data, at, end)
    if at < 0 or wide < np.uint64(8) or wide > np.uint64(0xFFFFFFFF):
        return np.int64(0), np.int64(0), np.int64(0), np.int64(-1)
    tag = np.int64(wide)
    kind = tag & 7
    if kind == 0:
        number, at = varint(data, at, end)
        return tag, np.int64(number), at, at
    length = np.int64(-1)
    if kind == BYTES_KIND:
        number, at = varint(data, at, end)
        if at >= 0 and number <= np.uint64(end - at):
            length = np.int64(number)
    elif kind == 1:
        length = np.int64(8)
    elif kind == 5:
        length = np.int64(4)
    if length < 0 or length > end - at:
        return tag, np.int64(0), np.int64(0), np.int64(-1)
    return tag, at, at + length, at + length


@embedded
def _wrapped(data: Bytes, at: int, end: int, first: int, last: int) -> tuple[Any, Any]:
    """Return start and end of the value in the StringValue or BytesValue ``data[at:end]``.

    The same field may have occurred before: ``first`` and ``last`` are then start and end of its value, and
    are returned if this occurrence has no value. Otherwise, ``first`` is `ABSENT`, and a missing value counts
    as an empty one. The returned end is -1 if the message is malformed.
    """
    if first == ABSENT:
        first = last = at
    while at < end:
        tag, start, stop, at = field(data, at, end)
        if at < 0:
            return first, np.int64(-1)
        if tag == 0x0A:
            first, last = start, stop
    return first, last


@embedded
def read_chunk(data: Bytes, at: int, end: int, c: Any) -> bool:  # noqa: PLR0912
    """Parse the CellChunk ``data[at:end]`` into ``c``; return False if it is malformed."""
    c.key = c.key_end = c.family_end = c.qualifier_end = c.value = c.value_end = 0
    c.time = c.size = c.reset = c.commit = c.labels = 0
    c.family = c.qualifier = ABSENT
    while at < end:
        tag, start, stop, at = field(data, at, end)
        if at < 0:
            return False
        if tag == 0x0A:
            c.key, c.key_end = start, stop
        elif tag == 0x12:
            c.family, c.family_end = _wrapped(data, start, stop, c.family, c.family_end)
            if c.family_end < 0:
                return False
        elif tag == 0x1A:
            c.qualifier, c.qualifier_end = _wrapped(data, start, stop, c.qualifier, c.qualifier_end)
            if c.qualifier_end < 0:
                return False
        elif tag == 0x20:
            c.time = start
        elif tag == 0x2A:
            c.labels = 1
        elif tag == 0x32:
            c.value, c.value_end = start, stop
        elif tag == 0x38:
            c.size = np.int32(start)
        elif tag == 0x40:
            c.reset, c.commit = start != 0, 0
        elif tag == 0x48:
            c.reset, c.commit = 0, start != 0
    return True


@embedded
def compare(data: Bytes, a: int, a_end: int, b: int, b_end: int) -> int:
    """Compare ``data[a:a_end]`` with ``data[b:b_end]``; return -1, 0 or 1."""
    for i in range(min(a_end - a, b_end - b)):
        if data[a + i] != data[b + i]:
            return -1 if data[a + i] < data[b + i] else 1
    if a_end - a == b_end - b:
        return 0
    return -1 if a_end - a < b_end - b else 1


@embedded
def equals(data: Bytes, at: int, end: int, other: Bytes, first: int, last: int) -> bool:
    """Return whether ``data[at:end]`` equals ``other[first:last]``."""
    if end - at != last - first:
        return False
    difference = np.uint8(0)
    for i in range(end - at):  # without an early exit, which would not be vectorized
        difference |= data[at + i] ^ other[first + i]
    return difference == 0
