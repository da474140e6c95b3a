"""The columns of a version's files, derived from the attributes of nodes and the measures of roots.

A vector has a column for each component: ``rep_coord_nm_x``, ``chunk_intersect_count_lower_x``, ``pca_1_x``
(the x of the first axis), ``pca_val_1``. Ids and all other integers are signed, because neither Delta Lake
nor Iceberg has unsigned integers. Ids are below 2^63: their top bits (8 in every known graph) are the
layer, which is below 128.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..core.geometry import Geometry
from ..core.ids import Ids
from ..core.rows import Rows, served_column
from ..core.schema import ATTRIBUTES, BY_NAME
from ..neurons.neuron_summary import MEASURES, SUMMARIES

ROOT_ID, L2_ID, MISSING = "root_id", "l2_id", "missing"
N_NODES, N_MISSING = "n_nodes", "n_missing"
AXES, ENDS, NUMBERS = ("x", "y", "z"), ("lower", "upper"), ("1", "2", "3")
_COMPONENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "pca": (NUMBERS, AXES),
    "pca_val": (NUMBERS,),
    "extents_nm": (NUMBERS,),
}
"""Suffixes by attribute and dimension; by default x, y, z (one dimension) or lower_x to upper_z (two)."""
_SIGNED = {"u1": "i2", "u2": "i4", "u4": "i8", "u8": "i8"}


class ColumnSource(NamedTuple):
    """A node's attribute or a root's measure, and the columns of its components."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    unit: str
    meaning: str

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in the order of the components."""
        if not self.shape:
            return [self.name]
        default = (ENDS, AXES) if len(self.shape) == 2 else (AXES,)
        parts = _COMPONENTS.get(self.name, default)
        names = [self.name]
        for part in parts:
            names = [f"{name}_{inner}" for name in names for inner in part]
        return names

    @property
    def stored(self) -> np.dtype:
        """Type of the columns in a file: ``dtype``, but with signed instead of unsigned integers."""
        return np.dtype(_SIGNED.get(self.dtype.str[1:], self.dtype))


NODE_SOURCES = tuple(
    ColumnSource(a.name, a.served_dtype, a.shape, a.served_unit, a.meaning) for a in ATTRIBUTES
)
ROOT_SOURCES = tuple(
    ColumnSource(
        name, MEASURES[name].dtype, MEASURES[name].shape, MEASURES[name].unit, MEASURES[name].meaning
    )
    for name in SUMMARIES.names or ()
)
NODE_COLUMNS: tuple[str, ...] = (
    ROOT_ID,
    L2_ID,
    *(column for source in NODE_SOURCES for column in source.columns),
    MISSING,
)
ROOT_COLUMNS: tuple[str, ...] = (ROOT_ID, *(column for source in ROOT_SOURCES for column in source.columns))


@cache
def node_schema() -> Any:
    """Return the Arrow schema of the files ``by_root`` and ``by_node``, with units and descriptions."""
    missing = pa.field(
        MISSING, pa.bool_(), False, {"description": "whether the node's features have not been computed"}
    )
    return pa.schema(
        [_id(ROOT_ID, "root of the node"), _id(L2_ID, "the layer-2 node"), *_fields(NODE_SOURCES), missing]
    )


@cache
def root_schema() -> Any:
    """Return the Arrow schema of the files ``roots``."""
    return pa.schema([_id(ROOT_ID, "the root"), *_fields(ROOT_SOURCES)])


@cache
def retired_schema() -> Any:
    """Return the Arrow schema of the file ``retired``: roots whose rows in older layers are left out."""
    return pa.schema([_id(ROOT_ID, "root whose rows in older layers do not belong to the version")])


@cache
def missing_schema() -> Any:
    """Return the Arrow schema of the files ``missing_nodes``: nodes whose features are not computed."""
    return pa.schema([_id(ROOT_ID, "root of the node"), _id(L2_ID, "node whose features are not computed")])


def schema_of(layout: str) -> Any:
    """Return the Arrow schema of the files of a layout, such as ``by_root``."""
    schemas = {"roots": root_schema, "retired": retired_schema, "missing_nodes": missing_schema}
    return schemas.get(layout, node_schema)()


def node_table(roots: Ids, rows: Rows, missing: npt.NDArray[np.bool_], geometry: Geometry) -> Any:
    """Return nodes as an Arrow table of `node_schema`, in the same order.

    Args:
        roots: (n,) root of each node.
        rows: (n,) features; absent ones become null.
        missing: (n,) whether a node's features have not been computed.

    Raises ValueError for a value that does not fit into a signed integer.
    """
    columns = [pa.array(signed(roots)), pa.array(signed(rows.ids))]
    for source in NODE_SOURCES:
        columns += _components(source, *served_column(rows, geometry, source.name))
    return pa.Table.from_arrays([*columns, pa.array(missing)], schema=node_schema())


def root_table(roots: Ids, summaries: np.ndarray) -> Any:
    """Return summaries, dtype `SUMMARIES`, of roots (R,) as an Arrow table of `root_schema`."""
    columns = [pa.array(signed(roots))]
    for source in ROOT_SOURCES:
        values = summaries[source.name]
        flat = values.reshape(len(values), len(source.columns))
        known = ~np.isnan(flat).any(axis=1) if values.dtype.kind == "f" else True
        columns += _components(source, values, np.broadcast_to(known, len(values)))
    return pa.Table.from_arrays(columns, schema=root_schema())


def signed(ids: np.ndarray) -> np.ndarray:
    """Return unsigned integers as int64. Raises ValueError if an integer is 2^63 or more."""
    if len(ids) and int(ids.max()) >= 1 << 63:
        raise ValueError(f"{ids.max()} does not fit into a signed column: expected less than 2^63")
    return ids.astype(np.int64)


def unsigned(ids: Any) -> Ids:
    """Return the ids of a column (Arrow or numpy) as uint64."""
    return np.asarray(ids).astype(np.uint64)


def vectors(table: Any, name: str) -> Any:
    """Return an attribute or a measure of a table as a numpy array, (n, *shape), with NaN for null.

    Integers become float64 if one of them is null.
    """
    source = _source(name)
    parts = [table.column(column).to_numpy(zero_copy_only=False) for column in source.columns]
    return np.stack(parts, axis=1).reshape(-1, *source.shape) if source.shape else parts[0]


def columns_of(names: Sequence[str]) -> list[str]:
    """Return the unique names of the columns that ``names`` select, in the order of ``names``.

    A name is an attribute, a measure or a column. Raises KeyError for an unknown name.
    """
    known = dict.fromkeys((*NODE_COLUMNS, *ROOT_COLUMNS))
    listed = (column for name in names for column in ([name] if name in known else _source(name).columns))
    return list(dict.fromkeys(listed))


def _source(name: str) -> ColumnSource:
    if name in BY_NAME:
        return next(source for source in NODE_SOURCES if source.name == name)
    return next(source for source in ROOT_SOURCES if source.name == MEASURES[name].name)


def _components(source: ColumnSource, values: np.ndarray, known: npt.NDArray[np.bool_]) -> Iterator[Any]:
    parts = values.reshape(len(values), len(source.columns)).T
    for part in parts:
        if source.dtype == np.dtype("u8"):
            part = signed(np.where(known, part, 0))
        yield pa.array(np.ascontiguousarray(part).astype(source.stored, copy=False), mask=~known)


def _id(name: str, meaning: str) -> Any:
    return pa.field(name, pa.int64(), nullable=False, metadata={"description": meaning})


def _fields(sources: Sequence[ColumnSource]) -> Iterator[Any]:
    for source in sources:
        for column in source.columns:
            about = {"unit": source.unit, "description": source.meaning}
            yield pa.field(column, pa.from_numpy_dtype(source.stored), metadata=about)
