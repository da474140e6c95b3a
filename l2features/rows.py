"""Rows of the cache: their cells as bytes, and what a client sees of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .ids import Ids, as_ids
from .schema import ATTRIBUTES, FEATURES, NAMES

NOT_COMPUTED = bytes(8)
"""Value of the only cell, ``size_nm3``, of a row that says "could not compute"."""

_INDEX = {name: i for i, name in enumerate(NAMES)}
_BY_KEY = {a.key: (i, a) for i, a in enumerate(ATTRIBUTES)}


@dataclass(frozen=True)
class Rows:
    """Rows of a table in the order asked for.

    ``features`` (n,) is of dtype `schema.FEATURES`, its ``label`` the id; ``present`` (n, 8) says which
    attributes have a value (an empty ``pca`` cell has none). A row that is not in the table has none at
    all; a row marked "could not compute" has only ``size_nm3``, which is 0.
    """

    features: np.ndarray
    present: npt.NDArray[np.bool_]

    @classmethod
    def empty(cls, ids: Any) -> Rows:
        """Rows with nothing present."""
        ids = as_ids(ids)
        features = np.zeros(len(ids), dtype=FEATURES)
        features["label"] = ids
        return cls(features, np.zeros((len(ids), len(NAMES)), dtype=bool))

    @classmethod
    def complete(cls, features: np.ndarray) -> Rows:
        """Rows of computed features; a size of 0 is the mark "could not compute"."""
        present = np.ones((len(features), len(NAMES)), dtype=bool)
        for name in ("pca", "pca_val"):
            present[:, _INDEX[name]] = features["has_pca"]
        not_computed = features["size_nm3"] == 0
        present[not_computed] = False
        present[not_computed, _INDEX["size_nm3"]] = True
        return cls(features, present)

    @property
    def ids(self) -> Ids:
        return self.features["label"]

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """Whether the table has the row, shape (n,)."""
        return np.asarray(self.present.any(axis=1))

    @property
    def not_computed(self) -> npt.NDArray[np.bool_]:
        """Whether the row says "could not compute", shape (n,)."""
        return self.present[:, _INDEX["size_nm3"]] & (self.features["size_nm3"] == 0)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, which: slice) -> Rows:
        return Rows(self.features[which], self.present[which])


def encode_cells(features: np.ndarray) -> Iterator[list[tuple[bytes, bytes]]]:
    """The cells (qualifier, value) of each row of features, in the order of the attribute table."""
    columns = []
    for attribute in ATTRIBUTES:
        raw = np.ascontiguousarray(features[attribute.name]).tobytes()
        columns.append([raw[i : i + attribute.nbytes] for i in range(0, len(raw), attribute.nbytes)])
    optional = [a.optional for a in ATTRIBUTES]
    has_pca_column, sizes = features["has_pca"].tolist(), features["size_nm3"].tolist()
    keys = [a.key for a in ATTRIBUTES]
    for has_pca, size, *values in zip(has_pca_column, sizes, *columns, strict=True):
        if size == 0:
            yield [(ATTRIBUTES[0].key, NOT_COMPUTED)]
        else:
            yield [
                (key, b"" if skip and not has_pca else value)
                for key, value, skip in zip(keys, values, optional, strict=True)
            ]


def decode_cells(rows: Rows, index: int, cells: Iterable[tuple[bytes, bytes]]) -> None:
    """Put the cells (qualifier, value) of one row into place ``index`` of ``rows``.

    Unknown qualifiers are passed over. Raises ValueError for a value of the wrong length.
    """
    record, present = rows.features[index], rows.present[index]
    for key, value in cells:
        if key not in _BY_KEY:
            continue
        column, attribute = _BY_KEY[key]
        if column == 0 and value == NOT_COMPUTED:
            value = value[: attribute.nbytes]
        if not value and attribute.optional:
            continue
        if len(value) != attribute.nbytes:
            raise ValueError(
                f"row {int(record['label'])}: {attribute.name} has {len(value)} bytes, "
                f"expected {attribute.nbytes}"
            )
        record[attribute.name] = np.frombuffer(value, dtype=attribute.dtype).reshape(attribute.shape)[()]
        present[column] = True
        if attribute.name == "pca":
            record["has_pca"] = True


def served(
    rows: Rows, resolution: npt.ArrayLike, origins: npt.ArrayLike, names: Sequence[str] = NAMES
) -> list[dict[str, Any]]:
    """What a client sees of each row: attributes in alphabetical order, in nm where they are lengths.

    ``resolution`` (3,) is nm per voxel; ``origins`` (n, 3) the first voxel of each row's chunk.
    A row that is not in the table gives an empty dictionary.
    """
    nm = np.asarray(resolution, dtype=np.float64)
    voxel_volume = int(nm.prod()) if (nm == np.round(nm)).all() else float(nm.prod())
    coordinates = (rows.features["rep_coord_nm"].astype(np.int64) + np.asarray(origins, dtype=np.int64)) * nm
    out = []
    columns = [(name, _INDEX[name]) for name in sorted(set(names))]
    for i in range(len(rows)):
        row: dict[str, Any] = {}
        for name, column in columns:
            if not rows.present[i, column]:
                continue
            if name == "size_nm3":
                row[name] = round(int(rows.features[name][i]) * voxel_volume)
            elif name == "rep_coord_nm":
                row[name] = coordinates[i].tolist()
            else:
                row[name] = rows.features[name][i].tolist()
        out.append(row)
    return out
