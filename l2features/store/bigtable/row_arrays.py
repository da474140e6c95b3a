"""Arrays for the rows of ReadRows responses. The modules `decoded` and `google_rows` fill them."""

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
    """Columns to decode. Each column in ``names`` becomes the field of the same name in ``record``.

    Attributes:
        record: dtype of a decoded row; None if the cells are read without their values.
        optional: names of columns in which an empty cell means that the value is absent.
        marked: index of the column that may have the value `rows.NOT_COMPUTED`; -1 if no column may.
        prefix: bytes before the digits of the id in a row key.
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
    """How far a ReadRows stream was read.

    Attributes:
        committed: number of committed rows, including rows whose key has no id.
        last_key: the last row key that the server scanned.
        unexpected_key: the first row key that has no id; None if all keys have one.
        whole: False if the stream ends within a row.
    """

    committed: int
    last_key: bytes
    unexpected_key: bytes | None
    whole: bool


@dataclass(frozen=True)
class Decoded(Part):
    """The committed rows of a stream, in the stream's order.

    ``records`` (n, itemsize) holds the bytes of the rows, with the fields of ``Columns.record``. ``present``
    (n, columns) says which cells each row has. ``times`` (n,) is the time of each row's newest cell, in
    microseconds since 1970.
    """

    ids: Ids
    records: npt.NDArray[np.uint8]
    present: npt.NDArray[np.bool_]
    times: npt.NDArray[np.int64]


@dataclass(frozen=True)
class AnyCells(Part):
    """All cells of the committed rows of a stream, of any family and column, in the stream's order.

    ``ids`` (n,) are the ids of the cells' rows. ``times`` (n,) are the cells' times in microseconds since
    1970. ``names`` are the cells' qualifiers.
    """

    ids: Ids
    times: npt.NDArray[np.int64]
    names: list[bytes]
    values: list[bytes]

    def take(self, places: npt.NDArray[np.intp]) -> AnyCells:
        """Return the cells at these indices, which are sorted and unique."""
        if len(places) == len(self.ids):
            return self
        names, values = ([cells[i] for i in places.tolist()] for cells in (self.names, self.values))
        return replace(self, ids=self.ids[places], times=self.times[places], names=names, values=values)


def features_of(decoded: Decoded) -> Rows:
    """Return the `Rows` of a stream that was decoded with `FEATURE_COLUMNS`."""
    rows = Rows(decoded.records.view(FEATURES).reshape(len(decoded.ids)), decoded.present)
    rows.features["label"] = decoded.ids
    set_flags(rows)
    return rows
