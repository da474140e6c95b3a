"""Compiled code that assembles the rows of a ReadRows stream; `decoded` calls it.

A stream is a sequence of protocol buffers, ``ReadRowsResponse``, which hold cell chunks. A cell chunk that
lacks the row key, the family or the qualifier has that of the previous cell chunk. A value may span several
cell chunks. A row is valid once a cell chunk commits it; a cell chunk that resets the row discards it. Cell
chunks may follow one another in the orders that Google's client accepts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...core.ids import KEY_DIGITS, Ids
from ...core.jit import compiled, embedded
from .wire import ABSENT, Bytes, compare, equals, field, read_chunk

OK, MALFORMED, DISORDER, BAD_CELL = 0, 1, 2, 3
MARK_BYTES = 8
"""Length of `rows.NOT_COMPUTED` in bytes."""
STATE = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("key", "key_end", "family", "family_end", "qualifier", "qualifier_end"),
            *("last", "last_end", "scanned", "scanned_end", "unexpected", "unexpected_end"),
            *("rows", "committed"),
            *("column", "time", "newest", "length", "nonzero", "in_cell", "bad", "bad_length", "at"),
            *("is_chunk", "next", "first", "cells", "used", "name", "name_end"),
        )
    ]
)
"""State between cell chunks: the current row and cell, and what was decoded before."""
Places = npt.NDArray[np.int64]


class Table(NamedTuple):
    """The columns to decode (`row_arrays.Columns`), as arrays for compiled code.

    Attributes:
        places: (columns, 4) each column's offset and size in bytes in the dtype ``Columns.record``; 1 if the
            column is optional, else 0; the length of its name.
        letters: (columns, length) the names, padded with zeros.
        marked: index of the column that may have the value `rows.NOT_COMPUTED`, or -1.
    """

    family: Bytes
    prefix: Bytes
    places: Places
    letters: np.ndarray
    marked: int


class Out(NamedTuple):
    """Arrays for the decoded rows: room for all rows that the stream can commit, and for the current row.

    ``seen`` (columns,) marks the columns of which the current row has a cell.
    """

    record: np.ndarray
    present: npt.NDArray[np.bool_]
    ids: Ids
    times: npt.NDArray[np.int64]
    seen: npt.NDArray[np.bool_]


@embedded
def id_of_key(data: Bytes, at: int, end: int, prefix: Bytes) -> tuple[Any, bool]:
    """Return a tuple: the id in the row key ``data[at:end]``; whether the key is ``prefix``, then an id."""
    value = np.uint64(0)
    n = len(prefix)
    if end - at != n + KEY_DIGITS or not equals(data, at, at + n, prefix, 0, n):
        return value, False
    for i in range(at + n, end):
        digit = np.uint64(data[i]) - np.uint64(48)
        if digit > np.uint64(9) or value > np.uint64(1844674407370955161):
            return value, False
        more = value * np.uint64(10) + digit
        if more < value:
            return value, False
        value = more
    return value, True


@embedded
def continues(data: Bytes, c: Any, s: Any) -> bool:
    """Return whether the cell chunk ``c`` may follow the previous ones, by the rules of Google's client."""
    if s.key == ABSENT:
        if c.key == c.key_end or c.reset:
            return False
        if s.last_end > s.last and compare(data, c.key, c.key_end, s.last, s.last_end) <= 0:
            return False
    elif c.reset:
        empty = c.key == c.key_end and c.family == ABSENT and c.qualifier == ABSENT
        return empty and c.time == 0 and not c.labels and c.value == c.value_end
    elif c.key != c.key_end and not equals(data, c.key, c.key_end, data, s.key, s.key_end):
        return False
    new_family = c.family not in (ABSENT, c.family_end)
    if s.in_cell:
        family = c.family == ABSENT or equals(data, c.family, c.family_end, data, s.family, s.family_end)
        qualifier = c.qualifier == ABSENT or equals(
            data, c.qualifier, c.qualifier_end, data, s.qualifier, s.qualifier_end
        )
        return family and qualifier and (c.time in (0, s.time))
    if new_family:
        return c.qualifier != ABSENT
    in_row = s.key != ABSENT
    return in_row and s.family != ABSENT and (c.qualifier != ABSENT or s.qualifier != ABSENT)


@embedded
def start_place(c: Any, s: Any) -> None:
    """Set key, family, qualifier and time of a new cell.

    A family or qualifier that ``c`` lacks is that of the previous cell in the row.
    """
    if s.key == ABSENT:
        s.key, s.key_end, s.family, s.qualifier = c.key, c.key_end, ABSENT, ABSENT
    if c.family not in (ABSENT, c.family_end):
        s.family, s.family_end = c.family, c.family_end
    if c.qualifier != ABSENT:
        s.qualifier, s.qualifier_end = c.qualifier, c.qualifier_end
    s.time = c.time


@embedded
def _start_cell(
    data: Bytes, c: Any, s: Any, family: Bytes, places: Places, letters: np.ndarray, seen: np.ndarray
) -> None:
    """Start a cell; set ``s.column`` to its column, or to `ABSENT` for an unknown column or older version."""
    if s.key == ABSENT:
        s.bad, s.newest = ABSENT, 0
        seen[:] = False
    start_place(c, s)
    s.column, s.length, s.nonzero = ABSENT, 0, 0
    if not equals(data, s.family, s.family_end, family, 0, len(family)):
        return
    for k in range(len(places)):
        i = s.next + k - (len(places) if s.next + k >= len(places) else 0)
        if equals(data, s.qualifier, s.qualifier_end, letters[i], 0, places[i, 3]):
            s.next = i + 1
            if not seen[i]:
                s.column, seen[i] = i, True
                s.newest = max(s.newest, s.time)
            return


@embedded
def _add_value(data: Bytes, c: Any, s: Any, places: Places, record: np.ndarray) -> None:
    """Append the bytes in the cell chunk ``c`` to the current cell's value in the current row."""
    if s.column != ABSENT:
        offset, size = places[s.column, 0], places[s.column, 1]
        n = min(c.value_end - c.value, max(size, MARK_BYTES) - s.length)
        for i in range(n):
            s.nonzero |= data[c.value + i]
        for i in range(min(n, size - s.length)):
            record[s.rows, offset + s.length + i] = data[c.value + i]
    s.length += c.value_end - c.value


@embedded
def _finish_cell(s: Any, places: Places, marked: int, present: np.ndarray) -> None:
    column = s.column
    if column == ABSENT:
        return
    if column == marked and s.length == MARK_BYTES and s.nonzero == 0:
        s.length = places[column, 1]
    if s.length == 0 and places[column, 2]:
        return
    if s.length == places[column, 1]:
        present[s.rows, column] = True
    elif s.bad == ABSENT:
        s.bad, s.bad_length = column, s.length


@embedded
def _finish_row(data: Bytes, s: Any, prefix: Bytes, out: Out) -> bool:
    """Commit the current row, or drop it if its key has no id.

    Returns False if a cell of the row has the wrong length.
    """
    node, known = id_of_key(data, s.key, s.key_end, prefix)
    if known:
        if s.bad != ABSENT:
            return False
        out.ids[s.rows], out.times[s.rows] = node, s.newest
        s.rows += 1
    else:
        out.record[s.rows] = 0
        out.present[s.rows] = False
    commit(s, known)
    return True


@embedded
def commit(s: Any, known: bool) -> None:
    """End the current row; ``known`` says whether its key has an id.

    Sets ``s.unexpected`` to the first key without an id.
    """
    if not known and s.unexpected == ABSENT:
        s.unexpected, s.unexpected_end = s.key, s.key_end
    s.committed += 1
    s.last, s.last_end, s.key = s.key, s.key_end, ABSENT


@embedded
def _take_chunk(data: Bytes, c: Any, s: Any, columns: Table, out: Out) -> int:
    """Add the cell chunk ``c`` to the current row; return `OK`, `DISORDER` or `BAD_CELL`."""
    if not continues(data, c, s):
        return DISORDER
    if c.reset:
        out.record[s.rows] = 0
        out.present[s.rows] = False
        s.key, s.in_cell = ABSENT, 0
        return OK
    if not s.in_cell:
        _start_cell(data, c, s, columns.family, columns.places, columns.letters, out.seen)
    _add_value(data, c, s, columns.places, out.record)
    s.in_cell = np.int64(c.size > 0)
    if s.in_cell:
        return OK
    _finish_cell(s, columns.places, columns.marked, out.present)
    if c.commit and not _finish_row(data, s, columns.prefix, out):
        return BAD_CELL
    return OK


@embedded
def next_chunk(data: Bytes, at: int, end: int, s: Any, c: Any) -> Any:
    """Read a field of a message; if the field is a cell chunk, set ``s.is_chunk`` and parse it into ``c``.

    Returns the position after the field; -1 if the field is malformed.
    """
    s.at = at
    tag, start, stop, at = field(data, at, end)
    s.is_chunk = np.int64(tag == 0x0A)
    if at < 0:
        return at
    if tag == 0x12:
        s.scanned, s.scanned_end = start, stop
    elif tag == 0x0A and not read_chunk(data, start, stop, c):
        return np.int64(-1)
    return at


@compiled
def decode(
    data: Bytes, ends: np.ndarray, columns: Table, state: np.ndarray, chunk: np.ndarray, out: Out
) -> int:
    """Decode the messages in ``data`` that end at ``ends``; write the rows to ``out``.

    Returns `OK`, `MALFORMED` (a field cannot be parsed), `DISORDER` (a cell chunk may not follow the previous
    one) or `BAD_CELL` (a cell has the wrong length). ``state`` (1,), dtype `STATE`, starts as zeros; it
    receives the number of rows and the place of an error. ``chunk`` (1,), dtype `CHUNK`, is a buffer for the
    current cell chunk.
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
                code = _take_chunk(data, c, s, columns, out)
                if code != OK:
                    return code
    return OK
