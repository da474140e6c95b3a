"""Rows of the cache: their cells as bytes, and what a client sees of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .geometry import Geometry
from .ids import L2, Ids, as_ids
from .schema import ATTRIBUTES, FEATURES, NAMES, SIZE

NOT_COMPUTED = bytes(8)
"""Value of the only cell, ``size_nm3``, of a row that says "could not compute"."""

_RECORD = np.dtype((np.void, FEATURES.itemsize))
_INDEX = {name: i for i, name in enumerate(NAMES)}


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

    def take(self, places: npt.NDArray[np.intp]) -> Rows:
        """The rows at these places, in their order."""
        return Rows(self.features.take(places), self.present.take(places, axis=0))

    def put(self, places: npt.NDArray[Any], rows: Rows) -> None:
        """Replace the rows at these places, or where this is true.

        Records are copied as bytes: assigned as what they are, they would be copied field by field.
        """
        self.features.view(_RECORD)[places] = rows.features.view(_RECORD)
        self.present[places] = rows.present


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


def served_column(rows: Rows, geometry: Geometry, name: str) -> tuple[np.ndarray, npt.NDArray[np.bool_]]:
    """What a client sees of one attribute: values (n, *shape) in its served unit, and presence (n,).

    An infinite value, which older tables have where float16 overflowed, is the largest of the stored type;
    one that is not a number is absent, and so is the position of an id of an unknown layer.
    Raises ValueError where a size does not fit into 64 bits.
    """
    column = _INDEX[name]
    attribute, stored, present = ATTRIBUTES[column], rows.features[name], rows.present[:, column]
    if name == SIZE:
        return _sizes(stored, geometry.resolution), present
    if name == "rep_coord_nm":
        layout = geometry.layout
        known = np.isin(layout.layers(rows.ids), list(layout.spatial_bits))
        ids = np.where(known, rows.ids, np.uint64(L2 << (64 - layout.layer_bits)))
        origins = geometry.origins(layout.chunk_coordinates(ids))
        return (origins + stored) * np.array(geometry.resolution, dtype=np.float64), present & known
    if attribute.dtype.kind != "f":
        return np.ascontiguousarray(stored, dtype=attribute.served_dtype), present
    limit = np.finfo(attribute.dtype).max
    with np.errstate(invalid="ignore"):
        values = stored.astype(attribute.served_dtype).clip(-limit, limit)
    return values, present & ~np.isnan(values).any(axis=tuple(range(1, values.ndim)))


def _sizes(voxels: npt.NDArray[np.uint32], resolution: Sequence[float]) -> npt.NDArray[np.uint64]:
    """Volumes in nm^3, exact where the resolution is whole, else rounded."""
    whole = all(float(step).is_integer() for step in resolution)
    volume = math.prod(int(step) if whole else step for step in resolution)
    most = int(voxels.max(initial=0))
    if round(most * volume) >= 1 << 64:
        raise ValueError(f"{most} voxels of {volume} nm^3: expected a volume below 2^64 nm^3")
    if whole:
        return voxels.astype(np.uint64) * np.uint64(volume)
    return np.rint(voxels * volume).astype(np.uint64)
