"""Rows of ReadRows answers as arrays; `decoded` and `google_rows` make them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...core.ids import Ids
from ...core.rows import Rows, set_flags
from ...core.schema import ATTRIBUTES, COLUMN, FEATURES, NAMES, SIZE


class BadAnswer(ValueError):
    """A response is malformed, or has a value of the wrong length."""


@dataclass(frozen=True)
class Columns:
    """Columns to decode: the cell ``names[i]`` becomes the field of that name of ``record``.

    Attributes:
        record: dtype of a decoded row; None if a filter has stripped the values.
        optional: columns of which an empty cell counts as absent.
        marked: index of the column that may have the value `rows.NOT_COMPUTED`, or -1.
        prefix: precedes the digits of the id in a row key.
    """

    names: tuple[str, ...]
    record: np.dtype | None = None
    optional: frozenset[str] = frozenset()
    marked: int = -1
    family: bytes = b"0"
    prefix: bytes = b""

    @property
    def itemsize(self) -> int:
        return 0 if self.record is None else self.record.itemsize


OPTIONAL = frozenset(a.name for a in ATTRIBUTES if a.optional)
FEATURE_COLUMNS = Columns(NAMES, FEATURES, OPTIONAL, marked=COLUMN[SIZE])


@dataclass(frozen=True)
class Part:
    """How far a stream was read.

    Attributes:
        committed: number of all rows, also those whose key is not an id.
        last_key: the last key that the server scanned.
        unexpected_key: the first key that is not an id.
        whole: False if the stream ends within a row.
    """

    committed: int
    last_key: bytes
    unexpected_key: bytes | None
    whole: bool


@dataclass(frozen=True)
class Decoded(Part):
    """The committed rows of a stream, in the stream's order.

    ``records`` (n, itemsize) are the bytes of ``Columns.record``. ``present`` (n, columns) tells which cells
    each row has, ``times`` (n,) the time of its newest cell in microseconds.
    """

    ids: Ids
    records: npt.NDArray[np.uint8]
    present: npt.NDArray[np.bool_]
    times: npt.NDArray[np.int64]


@dataclass(frozen=True)
class AnyCells(Part):
    """All cells of the committed rows of a stream, of any family and column, in the stream's order.

    ``ids`` (n,) are the ids of the cells' rows, ``times`` (n,) are in microseconds. ``names`` are qualifiers.
    """

    ids: Ids
    times: npt.NDArray[np.int64]
    names: list[bytes]
    values: list[bytes]

    def take(self, places: npt.NDArray[np.intp]) -> AnyCells:
        """Return the cells at these places, which ascend."""
        if len(places) == len(self.ids):
            return self
        names, values = ([cells[i] for i in places.tolist()] for cells in (self.names, self.values))
        return replace(self, ids=self.ids[places], times=self.times[places], names=names, values=values)


def features_of(decoded: Decoded) -> Rows:
    """Convert rows that were decoded with `FEATURE_COLUMNS` to features."""
    rows = Rows(decoded.records.view(FEATURES).reshape(len(decoded.ids)), decoded.present)
    rows.features["label"] = decoded.ids
    set_flags(rows)
    return rows
