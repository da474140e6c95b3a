"""The summary of a neuron: sums, means and bounds over the nodes of a root.

`SUMMARY` lists the measures. The arrays, JSON, Arrow tables, the OpenAPI document and the docs derive from
`SUMMARY`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.geometry import Geometry
from ..core.rows import Rows, served_column
from ..core.schema import BY_NAME
from ..query.reader import Status

if TYPE_CHECKING:
    from .node_graph import NeuronGraph

Starts = npt.NDArray[np.integer]
"""For concatenated nodes of R roots: index of each root's first node, then the number of nodes, (R + 1,)."""


class Measure(NamedTuple):
    """One measure of a root. A float measure is NaN if no node has a value; clients receive null instead."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    unit: str
    meaning: str
    needs_graph: bool = False


U4, U8, F8 = map(np.dtype, ("<u4", "<u8", "<f8"))
SATURATED = int(BY_NAME["max_dt_nm"].largest)
"""Stored ``max_dt_nm`` of a node whose distances are larger or undefined."""

SUMMARY: tuple[Measure, ...] = (
    Measure("n_nodes", U4, (), "nodes", "L2 nodes of the root"),
    Measure("n_missing", U4, (), "nodes", "nodes whose features have not been computed"),
    Measure("n_empty", U4, (), "nodes", "nodes that have no voxels or could not be computed"),
    Measure(
        "n_saturated",
        U4,
        (),
        "nodes",
        f"nodes with a max_dt_nm of {SATURATED}, whose distances are larger or undefined",
    ),
    Measure("size_nm3", U8, (), "nm^3", "volume: sum over nodes"),
    Measure("area_nm2", U8, (), "nm^2", "surface area: sum over nodes; faces between chunks do not count"),
    Measure("max_dt_nm", F8, (), "nm", "largest max_dt_nm of the nodes that are not saturated"),
    Measure(
        "mean_dt_nm", F8, (), "nm", "mean_dt_nm of the nodes that are not saturated, weighted by their volume"
    ),
    Measure("centroid_nm", F8, (3,), "nm", "mean representative coordinate, weighted by volume"),
    Measure("rep_bounds_nm", F8, (2, 3), "nm", "lowest and highest representative coordinates"),
    Measure("chunk_bounds_nm", F8, (2, 3), "nm", "bounds of all nodes' chunks, cut at the volume's bounds"),
    Measure(
        "extents_nm",
        F8,
        (3,),
        "nm",
        "square roots of the eigenvalues of the volume-weighted covariance of representative coordinates, "
        "descending",
    ),
    Measure("n_components", U4, (), "components", "connected components of the L2 graph", needs_graph=True),
    Measure("n_edges", U4, (), "edges", "edges of the L2 graph", needs_graph=True),
    Measure(
        "mst_length_nm",
        F8,
        (),
        "nm",
        "length of the L2 graph's minimum spanning forest, with nodes at their representative coordinates",
        needs_graph=True,
    ),
    Measure("cable_length_nm", F8, (), "nm", "path length of the default skeleton", needs_graph=True),
)
MEASURES = {m.name: m for m in SUMMARY}


def _dtype(measures: Sequence[Measure]) -> np.dtype:
    return np.dtype([(m.name, m.dtype, m.shape) for m in measures])


SUMMARIES = _dtype([m for m in SUMMARY if not m.needs_graph])
"""Dtype of a summary with the measures that need only features."""
GRAPH_SUMMARIES = _dtype(SUMMARY)
"""Dtype of a summary with all measures."""


# ------------------------------------------------------------------ from features
def summarize(rows: Rows, status: npt.NDArray[np.int8], starts: Starts, geometry: Geometry) -> np.ndarray:
    """Return the summaries of R roots, dtype `SUMMARIES`, shape (R,).

    Args:
        rows: (N,) features of the nodes of all roots, root after root; a root may have none.
        status: (N,) `Status` of each node.
        starts: (R + 1,) index of the first node of each root, then N.
        geometry: the data set's geometry.

    Raises ValueError for a volume of 2^64 nm^3 or more.
    """
    starts = np.asarray(starts, dtype=np.int64)
    ready, empty = status == Status.READY, status == Status.EMPTY
    names = "size_nm3", "area_nm2", "max_dt_nm", "mean_dt_nm", "rep_coord_nm"
    size, area, depth, mean, place = (_column(rows, geometry, name, ready) for name in names)
    saturated = depth[1] & (depth[0] == SATURATED)
    deep = np.where(depth[1] & ~saturated, depth[0], -np.inf)
    weight = size[0].astype(np.float64)

    out = np.zeros(len(starts) - 1, dtype=SUMMARIES)
    out["n_nodes"] = np.diff(starts)
    out["n_missing"] = _sum(~(ready | empty), starts)
    out["n_empty"] = _sum(empty, starts)
    out["n_saturated"] = _sum(saturated, starts)
    out["size_nm3"] = _volume(size[0], starts)
    out["area_nm2"] = _sum(area[0], starts)
    out["max_dt_nm"] = _known(_reduce(np.maximum, deep, starts, -np.inf))
    out["mean_dt_nm"] = _mean(mean[0], np.where(mean[1] & ~saturated, weight, 0), starts)
    out["chunk_bounds_nm"] = _chunk_bounds(rows, status != Status.NOT_L2, starts, geometry)
    _put_positions(out, place[0], np.where(place[1], weight, 0), starts)
    return out


def _column(
    rows: Rows, geometry: Geometry, name: str, ready: npt.NDArray[np.bool_]
) -> tuple[np.ndarray, npt.NDArray[np.bool_]]:
    """Return a tuple: an attribute as clients receive it, 0 where absent; the mask of present values, (N,).

    Values of nodes that are not ``ready`` count as absent.
    """
    values, present = served_column(rows, geometry, name)
    present = present & ready
    values = np.where(present.reshape(-1, *[1] * (values.ndim - 1)), values, 0)
    return values.astype(U8) if values.dtype.kind == "u" else values.astype(F8), present


def _reduce(ufunc: np.ufunc, values: np.ndarray, starts: Starts, nothing: float) -> np.ndarray:
    """Reduce the values (N, ...) of each root to (R, ...); a root without nodes gets ``nothing``.

    The values are transposed first: numpy reduces contiguous columns several times as fast as short rows.
    """
    out = np.full((len(starts) - 1, *values.shape[1:]), nothing, dtype=values.dtype)
    some = starts[:-1] < starts[1:]
    if some.any():
        columns = np.ascontiguousarray(np.moveaxis(values, 0, -1))
        out[some] = np.moveaxis(ufunc.reduceat(columns, starts[:-1][some], axis=-1), -1, 0)
    return out


def _sum(values: np.ndarray, starts: Starts) -> np.ndarray:
    return _reduce(np.add, values.astype(U8) if values.dtype == bool else values, starts, 0)


def _volume(sizes: np.ndarray, starts: Starts) -> np.ndarray:
    """Return the exact volume of each root, (R,). Raises ValueError for a volume of 2^64 nm^3 or more."""
    most = _sum(sizes.astype(F8), starts).max(initial=0)
    if most > 2.0**64 * (1 - 1e-9):
        raise ValueError(f"a root has a volume of {most:.3g} nm^3: expected less than 2^64 nm^3")
    return _sum(sizes, starts)


def _mean(values: np.ndarray, weights: np.ndarray, starts: Starts) -> np.ndarray:
    """Return the weighted mean of each root's values, NaN where all weights are 0."""
    total = _sum(weights, starts).reshape(-1, *[1] * (values.ndim - 1))
    weights = weights.reshape(-1, *[1] * (values.ndim - 1))
    with np.errstate(invalid="ignore"):
        return np.asarray(_sum(values * weights, starts) / total)


def _known(values: np.ndarray) -> np.ndarray:
    return np.where(np.isinf(values), np.nan, values)


def _bounds(low: np.ndarray, high: np.ndarray, starts: Starts) -> np.ndarray:
    """Return each root's minimum of ``low`` (N, 3) and maximum of ``high`` (N, 3), shape (R, 2, 3)."""
    ends = _reduce(np.minimum, low, starts, np.inf), _reduce(np.maximum, high, starts, -np.inf)
    return _known(np.stack(ends, axis=1))


def _chunk_bounds(rows: Rows, nodes: npt.NDArray[np.bool_], starts: Starts, geometry: Geometry) -> np.ndarray:
    """Return the bounds of each root's chunks in nm, (R, 2, 3), cut at the volume's bounds.

    Rows where ``nodes`` (N,) is False are ignored.
    """
    low, high = np.full((len(rows), 3), np.inf), np.full((len(rows), 3), -np.inf)
    low[nodes] = first = geometry.node_origins(rows.ids[nodes])
    high[nodes] = np.minimum(first + geometry.chunk_size, np.add(geometry.voxel_offset, geometry.voxel_size))
    return _bounds(low, high, starts) * geometry.resolution


def _put_positions(out: np.ndarray, places: np.ndarray, weights: np.ndarray, starts: Starts) -> None:
    """Set the measures in ``out`` that use representative coordinates.

    ``places`` (N, 3) are the coordinates. Absent coordinates must have weight 0.
    """
    known = weights[:, None] > 0
    out["rep_bounds_nm"] = _bounds(np.where(known, places, np.inf), np.where(known, places, -np.inf), starts)
    centre = out["centroid_nm"] = _mean(places, weights, starts)
    offsets = np.where(known, places - np.repeat(centre, np.diff(starts), axis=0), 0)
    covariance = _mean(offsets[:, :, None] * offsets[:, None, :], weights, starts)
    some = ~np.isnan(centre[:, 0])
    out["extents_nm"] = np.nan
    variances = np.linalg.eigvalsh(covariance[some])[:, ::-1]
    out["extents_nm"][some] = np.sqrt(variances.clip(min=0))


# ------------------------------------------------------------------ with the L2 graph
def with_graph(summaries: np.ndarray, graphs: Sequence[NeuronGraph]) -> np.ndarray:
    """Return the summaries with the measures of the roots' L2 graphs, dtype `GRAPH_SUMMARIES`, shape (R,).

    Args:
        summaries: (R,) results of `summarize`.
        graphs: the graph of each root, in the same order; all of one data set.
    """
    from .measures import graph_measures

    out = np.zeros(len(summaries), dtype=GRAPH_SUMMARIES)
    for name in SUMMARIES.names or ():
        out[name] = summaries[name]
    for name, values in graph_measures(graphs).items():
        out[name] = values
    return out


# ------------------------------------------------------------------ as clients receive it
def summary_objects(summaries: np.ndarray, *, int64_as_str: bool = False) -> list[dict[str, Any]]:
    """Return each summary as a dict for JSON, with measures in the order of `SUMMARY`, None if absent.

    With ``int64_as_str``, 64-bit integers are strings.
    """
    names, columns = summaries.dtype.names or (), []
    for name in names:
        values = summaries[name]
        if int64_as_str and values.dtype == U8:
            values = values.astype(str)
        listed = values.tolist()
        for absent in np.flatnonzero(_absent(values)):
            listed[absent] = None
        columns.append(listed)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def summary_schema(dtype: np.dtype = SUMMARIES) -> Any:
    """Return the Arrow schema of `summary_table`: fields with units and descriptions."""
    import pyarrow as pa

    fields = [pa.field("root_id", pa.uint64(), nullable=False, metadata={"description": "id of the root"})]
    for measure in (MEASURES[name] for name in dtype.names or ()):
        kind = pa.from_numpy_dtype(measure.dtype)
        for size in reversed(measure.shape):
            kind = pa.list_(kind, size)
        about = {"unit": measure.unit, "description": measure.meaning}
        fields.append(pa.field(measure.name, kind, metadata=about))
    return pa.schema(fields)


def summary_table(roots: npt.NDArray[np.uint64], summaries: np.ndarray) -> Any:
    """Return the summaries of roots (R,) as an Arrow table with a column ``root_id``."""
    import pyarrow as pa

    from ..query.answers import arrow_array

    columns = [
        arrow_array(np.ascontiguousarray(summaries[n]), ~_absent(summaries[n]))
        for n in summaries.dtype.names or ()
    ]
    return pa.Table.from_arrays([pa.array(roots), *columns], schema=summary_schema(summaries.dtype))


def _absent(values: np.ndarray) -> npt.NDArray[np.bool_]:
    """Return a mask (R,), True where a root's value has a NaN component; integers are never absent."""
    if values.dtype.kind != "f":
        return np.zeros(len(values), dtype=bool)
    return np.asarray(np.isnan(values).any(axis=tuple(range(1, values.ndim))))
