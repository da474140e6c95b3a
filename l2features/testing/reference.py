"""Reference implementation of reads, value by value: decode cells; return rows as clients receive them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..core.geometry import Geometry
from ..core.rows import NOT_COMPUTED, Rows
from ..core.schema import ATTRIBUTES, NAMES, SIZE

_BY_KEY = {a.key: (i, a) for i, a in enumerate(ATTRIBUTES)}


def served(rows: Rows, geometry: Geometry, names: Sequence[str] = NAMES) -> list[dict[str, Any]]:
    """Return the attributes of each row in alphabetical order, in the units that clients receive."""
    return [_served_row(rows, i, geometry, sorted(set(names))) for i in range(len(rows))]


def _served_row(rows: Rows, i: int, geometry: Geometry, names: Sequence[str]) -> dict[str, Any]:
    row = {}
    for column, attribute in sorted(enumerate(ATTRIBUTES), key=lambda entry: entry[1].name):
        if attribute.name not in names or not rows.present[i, column]:
            continue
        value: Any = rows.features[attribute.name][i].tolist()
        if attribute.name == "size_nm3":
            value = round(value * math.prod(int(s) if s == int(s) else s for s in geometry.resolution))
        if attribute.name == "rep_coord_nm":
            value = _position(int(rows.ids[i]), value, geometry)
        if attribute.dtype.kind == "f":
            value = _finite(value, float(np.finfo(attribute.dtype).max))
        if value is not None and "nan" not in str(value):
            row[attribute.name] = value
    return row


def _position(node: int, index: list[int], geometry: Geometry) -> list[float] | None:
    layout = geometry.layout
    layer = node >> 64 - layout.layer_bits
    if layer not in layout.spatial_bits:
        return None
    out, shift = [], 64 - layout.layer_bits
    for axis, bits in enumerate(layout.axis_bits(layer)):
        shift -= bits
        chunk = node >> shift & (1 << bits) - 1
        voxel = geometry.voxel_offset[axis] + chunk * geometry.chunk_size[axis] + index[axis]
        out.append(voxel * float(geometry.resolution[axis]))
    return out


def _finite(value: Any, limit: float) -> Any:
    if isinstance(value, list):
        return [_finite(v, limit) for v in value]
    return value if math.isnan(value) else max(-limit, min(limit, value))


def decode_cells(rows: Rows, index: int, cells: Iterable[tuple[bytes, bytes]]) -> None:
    """Decode the cells (qualifier, value) of one row into ``rows`` at ``index``.

    Unknown qualifiers are ignored. Raises ValueError for a value of the wrong length.
    """
    record, present = rows.features[index], rows.present[index]
    for key, value in cells:
        if key not in _BY_KEY:
            continue
        column, attribute = _BY_KEY[key]
        if attribute.name == SIZE and value == NOT_COMPUTED:
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
        if attribute.condition:
            record[attribute.condition.flag] = True
