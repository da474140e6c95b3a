"""Rows as clients get them: JSON, Arrow and Parquet, column by column, no object per value.

JSON: each column becomes text at once, which is cut where its rows begin, and Arrow joins the pieces of each
row. Only the serialisation of the columns holds the GIL.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from ..core.schema import ATTRIBUTES, NAMES, SIZE, Attribute
from .reader import Status

ROWS_PER_PART = 10_000
FEW_ROWS = 32
"""So many rows are made into objects one by one, which is faster then."""
_STATUS_NAMES = [status.name.lower() for status in Status]
_BY_NAME = {a.name: a for a in ATTRIBUTES}
_COMMA, _COLON, _BRACKET = b",:["
Column = tuple[str, np.ndarray, npt.NDArray[np.bool_]]
"""Name, values and presence of an attribute."""


# ------------------------------------------------------------------ JSON
def json_parts(
    rows: Rows,
    geometry: Geometry,
    names: Sequence[str] = NAMES,
    *,
    int64_as_str: bool = False,
    status: npt.NDArray[np.int8] | None = None,
    reasons: Mapping[int, str] | None = None,
) -> Iterator[bytes]:
    """A compact JSON object {id: {attribute: value}} in parts, each id once, in numeric order.

    Attributes are in alphabetical order; what is absent is left out. With ``status`` (n,), values of
    `Status`, each id says its own, and why, where ``reasons`` has the id.
    """
    places = _first_places(rows.ids)
    for start in range(0, len(places), ROWS_PER_PART):
        these = places[start : start + ROWS_PER_PART]
        part, known = rows.take(these), None if status is None else status[these]
        columns = [(name, *served_column(part, geometry, name)) for name in sorted(set(names))]
        as_str = (SIZE,) if int64_as_str else ()
        make = _few_objects if len(places) <= FEW_ROWS else _many_objects
        yield make(part.ids, columns, as_str, known, reasons or {}, b"," if start else b"{")
    yield b"}\n" if len(places) else b"{}\n"


def _many_objects(
    ids: Ids,
    columns: list[Column],
    as_str: Sequence[str],
    status: npt.NDArray[np.int8] | None,
    reasons: Mapping[int, str],
    opening: bytes,
) -> bytes:
    """Members of a JSON object, one for each id, after ``opening``; column by column."""
    objects = _Objects(ids)
    for name, values, present in columns:
        objects.add(name, _texts(values, present, name in as_str), present)
    if status is not None:
        _add_status(objects, status, reasons)
    return objects.join(opening)


def _few_objects(
    ids: Ids,
    columns: list[Column],
    as_str: Sequence[str],
    status: npt.NDArray[np.int8] | None,
    reasons: Mapping[int, str],
    opening: bytes,
) -> bytes:
    """As `_many_objects`, row by row."""
    objects: dict[str, dict[str, Any]] = {str(node): {} for node in ids.tolist()}
    for name, values, present in columns:
        listed = map(str, values.tolist()) if name in as_str else values.tolist()
        for known, value, there in zip(objects.values(), listed, present.tolist(), strict=True):
            if there:
                known[name] = value
    if status is not None:
        for (node, known), code in zip(objects.items(), status.tolist(), strict=True):
            known["status"] = _STATUS_NAMES[code]
            if int(node) in reasons:
                known["reason"] = reasons[int(node)]
    return opening + orjson.dumps(objects)[1:-1]


def _first_places(ids: Ids) -> npt.NDArray[np.int64]:
    """Where each id stands first, in numeric order of the ids."""
    if (ids[1:] > ids[:-1]).all():
        return np.arange(len(ids))
    return np.unique(ids, return_index=True)[1]


@dataclass
class _Objects:
    """A JSON object for each row, made member by member."""

    ids: Ids
    begun: npt.NDArray[np.bool_] = field(init=False)
    """Whether a row has a member already, shape (n,)."""
    pieces: list[Any] = field(init=False, default_factory=list)
    """Members to join: scalars that all rows share, and arrays (n,) of bytes."""

    def __post_init__(self) -> None:
        self.begun = np.zeros(len(self.ids), dtype=bool)

    def add(self, name: str, texts: Any, present: npt.NDArray[np.bool_]) -> None:
        """A member of the rows where it is present; ``texts`` (n,) are ``:value``, empty where absent."""
        if not present.any():
            return
        key = b'"%b"' % name.encode()
        self.pieces += [_choose([b"", key, b"," + key], present * (1 + self.begun)), texts]
        self.begun |= present

    def join(self, opening: bytes) -> bytes:
        """``"id":{members}`` of all rows with commas between them, after ``opening``."""
        ids = pa.array(self.ids).cast(pa.string()).cast(pa.binary())
        pieces = [_scalar(b',"'), ids, _scalar(b'":{'), *self.pieces, _scalar(b"}")]
        text = pc.binary_join_element_wise(*pieces, _scalar(b"")).buffers()[2]
        return opening + memoryview(text)[1:]


def _scalar(text: bytes) -> Any:
    return pa.scalar(text, pa.binary())


def _choose(choices: list[bytes], which: npt.NDArray[np.integer]) -> Any:
    """The choice of each row, shape (n,); a scalar if all choose the same."""
    if (which == which[0]).all():
        return _scalar(choices[which[0]])
    return pa.array(choices, pa.binary()).take(pa.array(which))


def _texts(values: np.ndarray, present: npt.NDArray[np.bool_], quoted: bool) -> Any:
    """``:value`` of each row as JSON, empty where absent, shape (n,)."""
    values = values if present.all() else values[present]
    if values.dtype.kind == "f":
        values = values.astype(np.float64, copy=False)
    listed = list(map(str, values.tolist())) if quoted else values
    text = np.frombuffer(bytearray(orjson.dumps(listed, option=orjson.OPT_SERIALIZE_NUMPY)), dtype=np.uint8)
    if values.ndim == 1:
        starts = np.append([0], np.flatnonzero(text == _COMMA))
    else:
        brackets_of_a_row = 1 if values.ndim == 2 else 1 + values.shape[1]
        starts = np.flatnonzero(text == _BRACKET)[1::brackets_of_a_row] - 1
    text[starts] = _COLON
    ends = np.append(starts, len(text) - 1).astype(np.int32)
    offsets = ends[np.append([0], present.cumsum())]
    return pa.Array.from_buffers(pa.binary(), len(present), [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def _add_status(objects: _Objects, status: npt.NDArray[np.int8], reasons: Mapping[int, str]) -> None:
    everywhere = np.ones(len(status), dtype=bool)
    objects.add("status", _choose([b':"%b"' % name.encode() for name in _STATUS_NAMES], status), everywhere)
    which, texts = _reasons(objects.ids, reasons)
    given = [b":" + orjson.dumps(text) for text in texts]
    objects.add("reason", _choose([b"", *given], which + 1), which >= 0)


def _reasons(ids: Ids, reasons: Mapping[int, str]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Which reason each id has, shape (n,), -1 for none; and the reasons."""
    if not reasons:
        return np.full(len(ids), -1), []
    known = np.array(sorted(reasons), dtype=np.uint64)
    at = np.searchsorted(known, ids).clip(max=len(known) - 1)
    used, which = np.unique(at, return_inverse=True)
    return np.where(known[at] == ids, which, -1), [reasons[int(node)] for node in known[used]]


# ------------------------------------------------------------------ Arrow and Parquet
def arrow_schema(geometry: Geometry, names: Sequence[str] = NAMES) -> Any:
    """Schema of `arrow_table`: units and descriptions with the fields, what places the nodes with the whole.

    ``mean_dt_nm`` and ``pca`` are float32, which holds every float16: few readers know half floats.
    """
    attributes = [_BY_NAME[name] for name in sorted(set(names))]
    about = {
        "units": {a.name: a.served_unit for a in attributes},
        "resolution": geometry.resolution,
        "voxel_offset": geometry.voxel_offset,
        "chunk_size": geometry.chunk_size,
    }
    fields = [
        pa.field("id", pa.uint64(), nullable=False, metadata={"description": "id of the layer-2 node"}),
        *(
            pa.field(a.name, _type(a), metadata={"unit": a.served_unit, "description": a.meaning})
            for a in attributes
        ),
        pa.field("status", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        pa.field("reason", pa.string(), metadata={"description": "why the status is failed or not_l2"}),
    ]
    return pa.schema(fields, metadata={key: json.dumps(value) for key, value in about.items()})


def arrow_table(
    rows: Rows,
    geometry: Geometry,
    names: Sequence[str],
    status: npt.NDArray[np.int8],
    reasons: Mapping[int, str],
) -> Any:
    """An Arrow table of the rows in their order, repeats included; null where an attribute is absent.

    ``status`` (n,) are values of `Status`; ``reasons`` are by id.
    """
    schema = arrow_schema(geometry, names)
    columns = [pa.array(rows.ids)]
    for name in sorted(set(names)):
        values, present = served_column(rows, geometry, name)
        columns.append(_array(schema.field(name).type, values, present))
    columns.append(pa.DictionaryArray.from_arrays(pa.array(status.astype(np.int8)), _STATUS_NAMES))
    which, texts = _reasons(rows.ids, reasons)
    columns.append(pa.array(texts, pa.string()).take(pa.array(which, mask=which < 0)))
    return pa.Table.from_arrays(columns, schema=schema)


def arrow_stream(table: Any) -> bytes:
    """The table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def parquet(table: Any) -> bytes:
    """The table as a Parquet file. Its vectors are lists: Arrow cannot read back null fixed-size lists."""
    schema = pa.schema([f.with_type(_listed(f.type)) for f in table.schema], metadata=table.schema.metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(table.cast(schema), sink, compression="zstd", use_dictionary=["status", "reason"])
    return sink.getvalue().to_pybytes()


def _type(attribute: Attribute) -> Any:
    arrow = pa.from_numpy_dtype(attribute.served_dtype)
    for size in reversed(attribute.shape):
        arrow = pa.list_(arrow, size)
    return arrow


def _listed(arrow: Any) -> Any:
    return pa.list_(_listed(arrow.value_type)) if pa.types.is_fixed_size_list(arrow) else arrow


def _array(arrow: Any, values: np.ndarray, present: npt.NDArray[np.bool_] | None = None) -> Any:
    """An array that stands on the memory of ``values``; null where not present."""
    valid = (
        None if present is None or present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
    )
    if not pa.types.is_fixed_size_list(arrow):
        return pa.Array.from_buffers(arrow, len(values), [valid, pa.py_buffer(values)])
    inner = values.reshape(-1, *values.shape[2:])
    return pa.Array.from_buffers(arrow, len(values), [valid], children=[_array(arrow.value_type, inner)])
