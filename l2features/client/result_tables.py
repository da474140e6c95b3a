"""The tables that a client returns: joined from parts, ordered, and with their provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..core.ids import Ids, sorted_unique
from ..query.answers import with_metadata
from ..versions.catalog import VersionSummary

WAITING = ("missing", "failed")
"""Status of nodes whose features may still be computed."""


def stamped(table: Any, provenance: Mapping[str, str]) -> Any:
    """Return a table with its provenance added to the metadata, each value as JSON."""
    return table.replace_schema_metadata(with_metadata(table.schema, provenance).metadata)


def version_table(versions: Sequence[VersionSummary]) -> Any:
    """Return a table with one row per version."""
    time, count = pa.timestamp("ms", "UTC"), pa.int64()
    kinds = {"number": count, "timestamp": time, "created": time, "problem": pa.string()}
    schema = pa.schema([(name, kinds.get(name, count)) for name in VersionSummary.model_fields])
    return pa.Table.from_pylist([one.model_dump() for one in versions], schema)


def joined(tables: Sequence[Any]) -> Any:
    """Return the rows of all tables, one after another."""
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def waiting(table: Any) -> Ids:
    """Return the sorted, distinct ids of the rows with status ``missing`` or ``failed``."""
    mask = pc.is_in(table["status"].cast(pa.string()), pa.array(WAITING))
    return sorted_unique(table["id"].to_numpy()[mask.to_numpy()])


def in_order(table: Any, fresh: Any) -> Any:
    """Return the table; each row whose id is in ``fresh`` is replaced by the row from ``fresh``.

    The other rows and the order stay. The ids of ``fresh`` are sorted and unique.
    """
    ids, known = table["id"].to_numpy(), fresh["id"].to_numpy()
    at = np.searchsorted(known, ids).clip(max=len(known) - 1)
    places = np.where(known[at] == ids, at + len(ids), np.arange(len(ids)))
    return joined([table, fresh.cast(table.schema)]).take(pa.array(places))


def graph_tables(node_ids: Ids, edges: Ids) -> tuple[Any, Any]:
    """Return a table of a graph's nodes and one of its edges, from ``node_ids`` (n,) and ``edges`` (m, 2)."""
    pairs = np.asarray(edges, dtype=np.uint64).reshape(-1, 2)
    sides = {name: pa.array(np.ascontiguousarray(pairs[:, i])) for i, name in enumerate(("id", "other_id"))}
    return pa.table({"id": pa.array(node_ids)}), pa.table(sides)


def one_row_graph(row: Any) -> tuple[Any, Any]:
    """Return a graph's tables of nodes and of edges, from the one row that a server sends for the graph."""
    nodes, edges = (row[name].combine_chunks() for name in ("node_ids", "edges"))
    pairs = edges.flatten().flatten().to_numpy(zero_copy_only=False)
    return graph_tables(nodes.flatten().to_numpy(zero_copy_only=False), pairs)
