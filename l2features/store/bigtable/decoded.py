"""Rows of ReadRows answers as arrays, decoded from the wire without an object per cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.ids import KEY_DIGITS, Ids
from ...core.rows import Rows, set_flags
from ...core.schema import ATTRIBUTES, COLUMN, FEATURES, NAMES, SIZE
from .readrows import BAD_CELL, MALFORMED, OK, STATE, Out, Table
from .readrows import decode as _decode
from .wire import ABSENT

_LEAST_ROW = KEY_DIGITS + 4
"""Bytes that a committed row takes at least: its key, and the tags and lengths around it."""


@dataclass(frozen=True)
class Columns:
    """Columns to decode: the cell ``names[i]`` becomes the field of that name of ``record``.

    Without ``record`` the cells are empty, because a filter has stripped their values. An empty ``optional``
    cell counts as absent. ``marked`` is the column that may have the value `rows.NOT_COMPUTED`, or -1.
    ``prefix`` precedes the digits of the id in a row key.
    """

    names: tuple[str, ...]
    record: np.dtype | None = None
    optional: frozenset[str] = frozenset()
    marked: int = ABSENT
    family: bytes = b"0"
    prefix: bytes = b""

    @property
    def itemsize(self) -> int:
        return 0 if self.record is None else self.record.itemsize

    @cached_property
    def table(self) -> Table:
        """Return the arguments of the kernel."""
        fields = {} if self.record is None else dict(self.record.fields or {})
        rows = [(*_place(fields, name), name in self.optional, len(name)) for name in self.names]
        letters = np.array([name.encode() for name in self.names]).view(np.uint8)
        return Table(
            np.frombuffer(self.family, dtype=np.uint8),
            np.frombuffer(self.prefix, dtype=np.uint8),
            np.array(rows, dtype=np.int64),
            letters.reshape(len(self.names), -1),
            self.marked,
        )


def _place(fields: dict[str, Any], name: str) -> tuple[int, int]:
    """Return offset and size of a field."""
    return (fields[name][1], fields[name][0].itemsize) if fields else (0, 0)


OPTIONAL = frozenset(a.name for a in ATTRIBUTES if a.optional)
FEATURE_COLUMNS = Columns(NAMES, FEATURES, OPTIONAL, marked=COLUMN[SIZE])


@dataclass(frozen=True)
class Decoded:
    """The committed rows of a stream, in its order.

    ``records`` (n, itemsize) are the bytes of ``Columns.record``, ``present`` (n, columns) which cells each
    row has, ``times`` (n,) the time of its newest cell in microseconds. ``committed`` counts all rows, also
    those whose key has no id; ``strange_key`` is the first such key. ``last_key`` is the last key that the
    server scanned; ``whole`` is False if the stream breaks off within a row.
    """

    ids: Ids
    records: npt.NDArray[np.uint8]
    present: npt.NDArray[np.bool_]
    times: npt.NDArray[np.int64]
    committed: int
    last_key: bytes
    strange_key: bytes | None
    whole: bool


def decode(messages: Sequence[bytes], columns: Columns) -> Decoded:
    """Decode the messages of a ReadRows stream from its start; of a cell's versions the first counts.

    Raises ValueError for a malformed stream, and for a cell of the wrong length.
    """
    raw = b"".join(messages)
    data = np.frombuffer(raw, dtype=np.uint8)
    ends = np.cumsum(np.fromiter(map(len, messages), dtype=np.int64, count=len(messages)))
    most = len(raw) // _LEAST_ROW + 1
    out = Out(
        np.zeros((most, columns.itemsize), dtype=np.uint8),
        np.zeros((most, len(columns.names)), dtype=np.bool_),
        np.zeros(most, dtype=np.uint64),
        np.zeros(most, dtype=np.int64),
    )
    state = np.zeros(1, dtype=STATE)
    code = _decode(data, ends, columns.table, state, out)
    s = dict(zip(STATE.names or (), state[0].tolist(), strict=True))
    if code == BAD_CELL:
        name, size = columns.names[s["bad"]], columns.table.places[s["bad"], 1]
        key = raw[s["key"] : s["key_end"]][len(columns.prefix) :]
        raise ValueError(f"row {int(key)}: {name} has {s['bad_length']} bytes, expected {size}")
    if code != OK:
        what = "is malformed" if code == MALFORMED else "has cell chunks in an impossible order"
        raise ValueError(f"the answer to ReadRows {what} at byte {s['at']} of {len(raw)}")
    rows = s["rows"]
    strange = raw[s["strange"] : s["strange_end"]] if s["strange"] != ABSENT else None
    last = max(raw[s["last"] : s["last_end"]], raw[s["scanned"] : s["scanned_end"]])
    arrays = out.ids[:rows], out.record[:rows], out.present[:rows], out.times[:rows]
    return Decoded(*arrays, s["committed"], last, strange, s["key"] == ABSENT)


def features_of(decoded: Decoded) -> Rows:
    """Return the rows that were decoded with `FEATURE_COLUMNS`."""
    rows = Rows(decoded.records.view(FEATURES).reshape(len(decoded.ids)), decoded.present)
    rows.features["label"] = decoded.ids
    set_flags(rows)
    return rows


def warm_up() -> None:
    """Compile the decoder or load it from numba's cache; see `kernel.warm_up`."""
    decode([], FEATURE_COLUMNS)
