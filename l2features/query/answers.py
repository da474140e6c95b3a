"""Convert rows to JSON, Arrow and Parquet, column by column and without a Python object per value.

For JSON, `column_texts` converts each column to texts, and Arrow joins the texts of each row. An
answer of at most `FEW_ROWS` rows is converted row by row.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..core.geometry import Geometry
from ..core.ids import Ids
from ..core.rows import Rows, served_column
from ..core.schema import BY_NAME, INT64, NAMES
from .column_texts import QUOTE, Mask, choose, member_texts, scalar, texts_of
from .reader import Status

ROWS_PER_PART = 2_500
"""Rows of a part of the JSON; a part is compressed while the next part is made."""
FEW_ROWS = 32
"""Up to this number of rows, JSON is made row by row, which is faster for few rows."""
_STATUS_NAMES = [status.name.lower() for status in Status]
Column = tuple[str, np.ndarray, Mask]
"""Name of an attribute, its values (n, *shape), and the mask (n,) of the rows that have a value."""


# ------------------------------------------------------------------ JSON
def json_parts(
    rows: Rows,
    geometry: Geometry,
    names: Sequence[str] = NAMES,
    *,
    int64_as_str: bool = False,
    status: npt.NDArray[np.int8] | None = None,
    reasons: Mapping[int, str] | None = None,
) -> Iterator[bytes | memoryview]:
    """Yield the parts of a compact JSON object {id: {attribute: value}}, each id once, in numeric order.

    Attributes are in alphabetical order; absent attributes are left out. ``status`` (n,) holds values of
    `Status`. If it is given, each id also has its ``status`` and, if ``reasons`` has the id, its ``reason``.
    """
    if not (rows.ids[1:] > rows.ids[:-1]).all():
        first = np.unique(rows.ids, return_index=True)[1]
        rows, status = rows.take(first), None if status is None else status[first]
    make = _few_objects if len(rows) <= FEW_ROWS else _many_objects
    names = sorted(set(names))
    for start in range(0, len(rows), ROWS_PER_PART):
        these = slice(start, start + ROWS_PER_PART)
        part, known = rows[these], None if status is None else status[these]
        columns = []
        for name in names:
            values, present = served_column(part, geometry, name)
            columns.append((name, values.astype(str) if int64_as_str and name in INT64 else values, present))
        yield make(b"," if start else b"{", part.ids, columns, known, reasons or {})
    yield b"}\n" if len(rows) else b"{}\n"


def _few_objects(
    before: bytes,
    ids: Ids,
    columns: list[Column],
    status: npt.NDArray[np.int8] | None,
    reasons: Mapping[int, str],
) -> bytes:
    """Return ``before``, then one member ``"id":{…}`` of a JSON object for each id, separated by commas."""
    objects: dict[int, dict[str, Any]] = {node: {} for node in ids.tolist()}
    for name, values, present in columns:
        for known, value, has in zip(objects.values(), values.tolist(), present.tolist(), strict=True):
            if has:
                known[name] = value
    if status is not None:
        for (node, known), code in zip(objects.items(), status.tolist(), strict=True):
            known["status"] = _STATUS_NAMES[code]
            if node in reasons:
                known["reason"] = reasons[node]
    return before + orjson.dumps(objects, option=orjson.OPT_NON_STR_KEYS)[1:-1]


def _many_objects(
    before: bytes,
    ids: Ids,
    columns: list[Column],
    status: npt.NDArray[np.int8] | None,
    reasons: Mapping[int, str],
) -> memoryview:
    """Return what `_few_objects` returns, but serialize column by column, which is faster for many rows."""
    members = [(name, member_texts(name, values, present), present) for name, values, present in columns]
    if status is not None:
        names = choose([b":" + orjson.dumps(name) for name in _STATUS_NAMES], status)
        which, texts = _reasons(ids, reasons)
        why = choose([b"", *(b":" + orjson.dumps(text) for text in texts)], which + 1)
        members += [("status", names, np.ones(len(ids), dtype=bool)), ("reason", why, which >= 0)]
    begun = np.zeros(len(ids), dtype=bool)
    first = (np.arange(len(ids)) == 0).astype(np.int8)
    keys = texts_of(np.ascontiguousarray(ids), np.ones(len(ids), dtype=bool), QUOTE)
    pieces = [choose([b",", before], first), keys, scalar(b'":{')]
    for name, text, present in members:
        if present.any():
            key = orjson.dumps(name)
            pieces += [choose([b"", key, b"," + key], present * (1 + begun)), text]
            begun |= present
    joined = pc.binary_join_element_wise(*pieces, scalar(b"}"), scalar(b""))
    return memoryview(joined.buffers()[2])


def _reasons(ids: Ids, reasons: Mapping[int, str]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return a tuple: each id's index in the list of reasons, (n,), -1 without a reason; that list."""
    if not reasons:
        return np.full(len(ids), -1), []
    known = np.array(sorted(reasons), dtype=np.uint64)
    at = np.searchsorted(known, ids).clip(max=len(known) - 1)
    used, which = np.unique(at, return_inverse=True)
    return np.where(known[at] == ids, which, -1), [reasons[int(node)] for node in known[used]]


# ------------------------------------------------------------------ Arrow and Parquet
def arrow_schema(geometry: Geometry, names: Sequence[str] = NAMES) -> Any:
    """Return the schema of the tables of `arrow_table`.

    The field of each attribute has its unit and description as metadata. The schema's metadata has all
    units and the resolution, voxel offset and chunk size of the data set.
    """
    attributes = tuple(sorted(set(names)))
    about = {
        "units": {name: BY_NAME[name].served_unit for name in attributes},
        "resolution": geometry.resolution,
        "voxel_offset": geometry.voxel_offset,
        "chunk_size": geometry.chunk_size,
    }
    metadata = {key: json.dumps(value) for key, value in about.items()}
    return pa.schema(_arrow_fields(attributes), metadata=metadata)


@cache
def _status_names() -> Any:
    return pa.array(_STATUS_NAMES)  # not at import, as it imports pandas, which starts threads


@lru_cache(1_000)
def _arrow_fields(names: tuple[str, ...]) -> list[Any]:
    attributes = [BY_NAME[name] for name in names]
    fields = [pa.field("id", pa.uint64(), nullable=False, metadata={"description": "id of the layer-2 node"})]
    for a in attributes:
        kind = pa.from_numpy_dtype(a.served_dtype)
        for size in reversed(a.shape):
            kind = pa.list_(kind, size)
        fields.append(pa.field(a.name, kind, metadata={"unit": a.served_unit, "description": a.meaning}))
    why = {"description": "why the status is failed or not_l2"}
    fields.append(pa.field("status", pa.dictionary(pa.int8(), pa.string()), nullable=False))
    fields.append(pa.field("reason", pa.string(), metadata=why))
    return fields


def arrow_table(
    rows: Rows,
    geometry: Geometry,
    names: Sequence[str],
    status: npt.NDArray[np.int8],
    reasons: Mapping[int, str],
) -> Any:
    """Return the rows as an Arrow table, in the given order; absent attributes are null.

    ``status`` (n,) holds values of `Status`; ``reasons`` maps ids to explanations of their status.
    """
    columns = [pa.array(rows.ids)]
    columns += [arrow_array(*served_column(rows, geometry, name)) for name in sorted(set(names))]
    columns.append(pa.DictionaryArray.from_arrays(pa.array(status.astype(np.int8)), _status_names()))
    which, texts = _reasons(rows.ids, reasons)
    columns.append(pa.array(texts, pa.string()).take(pa.array(which, mask=which < 0)))
    return pa.Table.from_arrays(columns, schema=arrow_schema(geometry, names))


def arrow_stream(table: Any) -> bytes:
    """Return the table as an Arrow IPC stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet(table: Any) -> bytes:
    """Return the table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.cast(parquet_schema(table.schema)),
        sink,
        compression="zstd",
        use_dictionary=["status", "reason"],
    )
    return sink.getvalue().to_pybytes()


def parquet_schema(schema: Any) -> Any:
    """Return the schema with lists in place of fixed-size lists.

    Arrow cannot read null fixed-size lists from Parquet.
    """
    return pa.schema([f.with_type(_listed(f.type)) for f in schema], metadata=schema.metadata)


def with_metadata(schema: Any, about: Mapping[str, Any]) -> Any:
    """Return the schema with ``about`` added to its metadata, each value as JSON."""
    more = {key: json.dumps(value) for key, value in about.items()}
    return schema.with_metadata({**(schema.metadata or {}), **more})


def _listed(arrow: Any) -> Any:
    return pa.list_(_listed(arrow.value_type)) if pa.types.is_fixed_size_list(arrow) else arrow


def arrow_array(values: np.ndarray, present: Mask) -> Any:
    """Return values (n, *shape) as an Arrow array of length n, null where ``present`` (n,) is false."""
    mask = None if present.all() else pa.array(~present)
    array = pa.array(values.reshape(-1), mask=None if values.ndim > 1 or mask is None else ~present)
    for axis in range(values.ndim - 1, 0, -1):
        array = pa.FixedSizeListArray.from_arrays(array, values.shape[axis], mask=mask if axis == 1 else None)
    return array
