"""Rows of a table: their cells as bytes, and the columns that clients receive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .geometry import Geometry
from .ids import Ids, as_ids
from .schema import ATTRIBUTES, BY_NAME, COLUMN, FEATURES, FLAGS, NAMES, SIZE

NOT_COMPUTED = bytes(8)
"""Stored ``size_nm3`` of a row that could not be computed; such a row has no other cell."""

_RECORD, _MASK = np.dtype((np.void, FEATURES.itemsize)), np.dtype((np.void, len(NAMES)))


@lru_cache(1_000)
def columns_of(names: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Return which columns of ``Rows.present`` belong to these attributes: a mask, shape (attributes,).

    ``present @ columns`` tells which rows have any of the attributes, and is faster than ``any(axis=1)``.
    """
    columns = np.isin(NAMES, names)
    columns.flags.writeable = False
    return columns


def as_items(mask: npt.NDArray[np.bool_]) -> np.ndarray:
    """Return a view (n,) of a mask (n, attributes): one void item per row, ten times faster to copy."""
    return mask.view(_MASK)[:, 0]


_FLAG_COLUMNS = {
    flag: columns_of(tuple(a.name for a in ATTRIBUTES if a.condition and a.condition.flag == flag))
    for flag in FLAGS
}


@dataclass(frozen=True)
class Rows:
    """Rows of a table in the requested order.

    ``features`` (n,) has dtype `schema.FEATURES`; its ``label`` is the id. ``present`` (n, attributes) is the
    mask of the attributes that have a value. A row that is missing from the table has no attribute. A row
    that could not be computed has only ``size_nm3``, which is 0.
    """

    features: np.ndarray
    present: npt.NDArray[np.bool_]

    @classmethod
    def empty(cls, ids: Any) -> Rows:
        """Return rows of these ids in which no attribute is present."""
        ids = as_ids(ids)
        features = np.zeros(len(ids), dtype=FEATURES)
        features["label"] = ids
        return cls(features, np.zeros((len(ids), len(NAMES)), dtype=bool))

    @classmethod
    def joined(cls, ids: Ids, parts: Sequence[Rows]) -> Rows:
        """Return the rows of sorted, unique ``ids``, each from the part that has the row.

        Parts and their rows may be in any order; rows of other ids are ignored. An id in no part gets an
        empty row.
        """
        if len(parts) == 1 and np.array_equal(parts[0].ids, ids):
            return parts[0]
        rows = cls.empty(ids)
        for part in parts:
            at = np.searchsorted(ids, part.ids).clip(max=len(ids) - 1)
            asked = ids[at] == part.ids
            rows.put(at[asked], part.take(np.flatnonzero(asked)))
        return rows

    @classmethod
    def complete(cls, features: np.ndarray) -> Rows:
        """Return rows of computed features; a size of 0 marks a row that could not be computed."""
        computed = features[SIZE] != 0
        present = [computed & features[a.condition.flag] if a.condition else computed for a in ATTRIBUTES]
        present[COLUMN[SIZE]] = np.ones(len(features), dtype=bool)
        return cls(features, np.stack(present, axis=1))

    @property
    def ids(self) -> Ids:
        return self.features["label"]

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """Whether each row exists in the table, shape (n,)."""
        return np.asarray(self.present @ columns_of(NAMES))

    @property
    def not_computed(self) -> npt.NDArray[np.bool_]:
        """Whether each row is one that could not be computed, shape (n,)."""
        return self.present[:, COLUMN[SIZE]] & (self.features[SIZE] == 0)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, which: slice) -> Rows:
        return Rows(self.features[which], self.present[which])

    def take(self, places: npt.NDArray[np.integer]) -> Rows:
        """Return the rows at these indices, in the order of the indices."""
        return Rows(self.features.take(places), self.present.take(places, axis=0))

    def put(self, places: npt.NDArray[Any] | slice, rows: Rows) -> None:
        """Replace the rows at ``places`` (indices, a slice, or a mask) by ``rows``.

        Records are copied as bytes. Numpy would copy a structured dtype field by field, which is slower.
        """
        self.features.view(_RECORD)[places] = rows.features.view(_RECORD)
        as_items(self.present)[places] = as_items(np.ascontiguousarray(rows.present))


def set_flags(rows: Rows) -> None:
    """Set each flag of ``features`` where an attribute of the flag is present: ``has_pca`` with ``pca``."""
    for flag, columns in _FLAG_COLUMNS.items():
        rows.features[flag] = rows.present @ columns


def encode_cells(features: np.ndarray) -> Iterator[list[tuple[bytes, bytes]]]:
    """Yield for each row its cells (qualifier, value), in the order of the schema.

    The value of an absent attribute is empty. A row that could not be computed has one cell:
    ``size_nm3`` with the value `NOT_COMPUTED`.
    """
    columns = []
    for attribute in ATTRIBUTES:
        raw, step = np.ascontiguousarray(features[attribute.name]).tobytes(), attribute.nbytes
        values = [raw[i : i + step] for i in range(0, len(raw), step)]
        if attribute.condition:
            flags = features[attribute.condition.flag].tolist()
            values = [value if flag else b"" for value, flag in zip(values, flags, strict=True)]
        columns.append(values)
    keys = [a.key for a in ATTRIBUTES]
    for size, *values in zip(features[SIZE].tolist(), *columns, strict=True):
        yield list(zip(keys, values, strict=True)) if size else [(SIZE.encode(), NOT_COMPUTED)]


def served_column(rows: Rows, geometry: Geometry, name: str) -> tuple[np.ndarray, npt.NDArray[np.bool_]]:
    """Return one attribute as clients receive it: values (n, *shape), and a mask (n,).

    The mask is true where the attribute is present and its value is valid. Raises ValueError for a volume of
    2^64 nm^3 or more.
    """
    values, known = BY_NAME[name].serve(rows.features[name], rows.ids, geometry)
    return values, rows.present[:, COLUMN[name]] & known
