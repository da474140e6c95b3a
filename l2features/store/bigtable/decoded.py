"""Decode ReadRows responses by compiled code, without a Python object per cell."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.ids import KEY_DIGITS
from .any_cells import CELL, count_chunks, decode_any
from .readrows import BAD_CELL, MALFORMED, OK, STATE, Out, Table
from .readrows import decode as _decode
from .row_arrays import FEATURE_COLUMNS, AnyCells, Columns, Decoded
from .wire import ABSENT, CHUNK

_LEAST_ROW = KEY_DIGITS + 4
"""Minimum bytes of a committed row: its key, and the tags and lengths around the key."""


def decode(messages: Sequence[bytes], columns: Columns) -> Decoded:
    """Decode all messages of a ReadRows stream; of several versions of a cell, take only the first.

    Raises ValueError for a malformed stream, and for a cell of the wrong length.
    """
    raw, data, ends = _joined(messages)
    most = len(raw) // _LEAST_ROW + 1
    out = Out(
        np.zeros((most, columns.itemsize), dtype=np.uint8),
        np.zeros((most, len(columns.names)), dtype=np.bool_),
        np.zeros(most, dtype=np.uint64),
        np.zeros(most, dtype=np.int64),
        np.zeros(len(columns.names), dtype=np.bool_),
    )
    table, state = _table_of(columns), np.zeros(1, dtype=STATE)
    code = _decode(data, ends, table, state, np.zeros(1, dtype=CHUNK), out)
    s = dict(zip(STATE.names or (), state[0].tolist(), strict=True))
    if code == BAD_CELL:
        name, size = columns.names[s["bad"]], table.places[s["bad"], 1]
        key = raw[s["key"] : s["key_end"]][len(columns.prefix) :]
        raise ValueError(f"row {int(key)}: {name} has {s['bad_length']} bytes, expected {size}")
    rows = s["rows"]
    arrays = out.ids[:rows], out.record[:rows], out.present[:rows], out.times[:rows]
    return Decoded(*_progress(raw, code, s), *arrays)


def decode_cells(messages: Sequence[bytes], prefix: bytes = b"") -> AnyCells:
    """Decode all messages of a ReadRows stream to its cells; ``prefix`` precedes the id in a row key.

    Raises ValueError for a malformed stream.
    """
    raw, data, ends = _joined(messages)
    cells, heap = np.zeros(count_chunks(data, ends), dtype=CELL), np.zeros(len(raw), dtype=np.uint8)
    state, chunk = np.zeros(1, dtype=STATE), np.zeros(1, dtype=CHUNK)
    code = decode_any(data, ends, np.frombuffer(prefix, dtype=np.uint8), state, chunk, cells, heap)
    s = dict(zip(STATE.names or (), state[0].tolist(), strict=True))
    progress = _progress(raw, code, s)
    cells, kept = cells[: s["cells"] if progress[3] else s["first"]], heap[: s["used"]].tobytes()
    names, values = (
        [kept[a:b] for a, b in zip(cells[of].tolist(), cells[f"{of}_end"].tolist(), strict=True)]
        for of in ("name", "value")
    )
    return AnyCells(*progress, cells["id"].copy(), cells["time"].copy(), names, values)


@cache
def _table_of(columns: Columns) -> Table:
    fields = {} if columns.record is None else dict(columns.record.fields or {})
    rows = [(*_place(fields, name), name in columns.optional, len(name)) for name in columns.names]
    letters = np.array([name.encode() for name in columns.names]).view(np.uint8)
    return Table(
        np.frombuffer(columns.family, dtype=np.uint8),
        np.frombuffer(columns.prefix, dtype=np.uint8),
        np.array(rows, dtype=np.int64),
        letters.reshape(len(columns.names), -1),
        columns.marked,
    )


def _place(fields: dict[str, Any], name: str) -> tuple[int, int]:
    return (fields[name][1], fields[name][0].itemsize) if fields else (0, 0)


def _joined(messages: Sequence[bytes]) -> tuple[bytes, npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return a tuple: the joined messages as bytes; the same as an array; the end of each message in it."""
    raw = b"".join(messages)
    ends = np.cumsum(np.fromiter(map(len, messages), dtype=np.int64, count=len(messages)))
    return raw, np.frombuffer(raw, dtype=np.uint8), ends


def _progress(raw: bytes, code: int, s: dict[str, int]) -> tuple[int, bytes, bytes | None, bool]:
    """Return how far a stream was read: the fields of `Part`. Raises ValueError for a malformed stream."""
    if code != OK:
        what = "is malformed" if code == MALFORMED else "has a cell chunk that cannot follow the previous one"
        raise ValueError(f"the response to ReadRows {what}, at byte {s['at']} of {len(raw)}")
    unexpected = raw[s["unexpected"] : s["unexpected_end"]] if s["unexpected"] != ABSENT else None
    last = max(raw[s["last"] : s["last_end"]], raw[s["scanned"] : s["scanned_end"]])
    return s["committed"], last, unexpected, s["key"] == ABSENT


def warm_up() -> None:
    """Compile the decoder or load it from numba's cache; see `kernel.warm_up`."""
    decode([], FEATURE_COLUMNS)
    decode_cells([])
