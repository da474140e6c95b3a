"""Compiled code that collects all cells of a ReadRows stream, of any column and length; see `readrows`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.jit import compiled, embedded
from .readrows import DISORDER, MALFORMED, OK, commit, continues, id_of_key, next_chunk, start_place
from .wire import ABSENT, Bytes, field

CELL = np.dtype(
    [("id", np.uint64)] + [(name, np.int64) for name in ("name", "name_end", "value", "value_end", "time")]
)
"""A cell: its row's id; start and end of its qualifier and value in ``heap``; its time in microseconds."""


@embedded
def _copy(data: Bytes, at: int, end: int, heap: Bytes, s: Any) -> Any:
    for i in range(at, end):
        heap[s.used] = data[i]
        s.used += 1
    return s.used


@embedded
def _take_any(data: Bytes, c: Any, s: Any, prefix: Bytes, cells: np.ndarray, heap: Bytes) -> int:
    """Add the cell chunk ``c``, of any column, to the current row; its qualifier and value go to the heap.

    Returns `DISORDER` if ``c`` may not follow the previous cell chunk, else `OK`.
    """
    if not continues(data, c, s):
        return DISORDER
    if c.reset:
        s.key, s.in_cell, s.cells = ABSENT, 0, s.first
        return OK
    if not s.in_cell:
        if s.key == ABSENT:
            s.first = s.cells
        start_place(c, s)
        if c.qualifier != ABSENT:
            s.name, s.name_end = s.used, _copy(data, c.qualifier, c.qualifier_end, heap, s)
        cell = cells[s.cells]
        cell.name, cell.name_end, cell.value, cell.time = s.name, s.name_end, s.used, s.time
    cells[s.cells].value_end = _copy(data, c.value, c.value_end, heap, s)
    s.in_cell = np.int64(c.size > 0)
    if s.in_cell:
        return OK
    s.cells += 1
    if c.commit:
        node, known = id_of_key(data, s.key, s.key_end, prefix)
        for i in range(s.first, s.cells):
            cells[i].id = node
        if not known:
            s.cells = s.first
        commit(s, known)
    return OK


@compiled
def count_chunks(data: Bytes, ends: np.ndarray) -> int:
    """Return the number of cell chunks in messages, up to the first malformed field.

    The messages have at most this number of cells.
    """
    count = 0
    at: Any = np.int64(0)
    for end in ends:
        while 0 <= at < end:
            tag, _, _, at = field(data, at, end)
            count += tag == 0x0A
    return count


@compiled
def decode_any(
    data: Bytes,
    ends: np.ndarray,
    prefix: Bytes,
    state: np.ndarray,
    chunk: np.ndarray,
    cells: np.ndarray,
    heap: Bytes,
) -> int:
    """Decode ReadRows messages like `readrows.decode`, but accept cells of any column and length.

    ``cells`` receives the cells; ``heap`` receives the bytes of their qualifiers and values.
    """
    s, c = state[0], chunk[0]
    s.key = s.unexpected = ABSENT
    at: Any = np.int64(0)
    for end in ends:
        while at < end:
            at = next_chunk(data, at, end, s, c)
            if at < 0:
                return MALFORMED
            if s.is_chunk:
                code = _take_any(data, c, s, prefix, cells, heap)
                if code != OK:
                    return code
    return OK
