"""Supervoxels to L2 nodes at a timestamp: from the graph's table, from its server, or without a graph."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..core.errors import GraphError
from ..core.geometry import Chunk, Geometry
from ..core.ids import L2, IdLayout, Ids, as_ids, ids_of_row_keys, row_keys
from ..core.transient import graph_error
from .info import GraphInfo, read_graph_info
from .server import REQUESTS, open_session
from .table import check_graph, graph_errors, open_graph_table, parse_graph_url

__all__ = [
    "REQUESTS",
    "GraphInfo",
    "check_graph",
    "graph_errors",
    "open_graph_table",
    "open_session",
    "parse_graph_url",
    "read_graph_info",
]


class Graph(Protocol):
    """Gives each supervoxel of a chunk its L2 id, 0 where it has none. Raises `GraphError`."""

    def l2_ids(self, chunk: Chunk, supervoxels: Ids) -> Ids: ...


class Mapping(NamedTuple):
    """L2 id of each supervoxel (0: none), how many have none, and what is wrong with which."""

    l2_ids: Ids
    orphans: int
    errors: tuple[str, ...]


def map_supervoxels(graph: Graph, geometry: Geometry, chunk: Chunk, supervoxels: Ids) -> Mapping:
    """The L2 ids of a chunk's supervoxels, checked: of layer 2, and of this chunk.

    An answer that cannot be right becomes 0 here and a line in ``errors``.
    """
    l2_ids = graph.l2_ids(chunk, supervoxels)
    orphan = (l2_ids == 0) | (l2_ids == supervoxels)
    bad = ~orphan & (geometry.layout.layers(l2_ids) != L2)
    ours = np.uint64(geometry.chunk_id(chunk))
    elsewhere = ~orphan & ~bad
    elsewhere[elsewhere] = geometry.layout.chunk_ids(l2_ids[elsewhere]) != ours
    errors = tuple(
        f"supervoxel {supervoxel}: its parent {parent} is "
        + ("not of layer 2" if wrong_layer else f"not in chunk {chunk}")
        for supervoxel, parent, wrong_layer in zip(
            supervoxels[bad | elsewhere], l2_ids[bad | elsewhere], bad[bad | elsewhere], strict=True
        )
    )
    return Mapping(np.where(orphan | bad | elsewhere, np.uint64(0), l2_ids), int(orphan.sum()), errors)


class FlatGraph:
    """No graph: the node of a segment in a chunk is the chunk's id plus the segment's 1-based rank there."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry

    def l2_ids(self, chunk: Chunk, supervoxels: Ids) -> Ids:
        most = (1 << self.geometry.layout.segment_bits(L2)) - 1
        if len(supervoxels) > most:
            raise GraphError(f"chunk {chunk} has {len(supervoxels)} segments: its ids have room for {most}")
        chunk_id = np.uint64(self.geometry.chunk_id(chunk))
        return chunk_id + np.arange(1, len(supervoxels) + 1, dtype=np.uint64)


class GrapheneGraph:
    """The graph's server, by cloud-volume. ``cv`` is an open ``graphene://`` CloudVolume."""

    def __init__(self, cv: Any, timestamp: datetime) -> None:
        self.cv, self.timestamp = cv, timestamp

    def l2_ids(self, chunk: Chunk, supervoxels: Ids) -> Ids:
        try:
            return as_ids(self.cv.get_roots(supervoxels, stop_layer=L2, timestamp=self.timestamp))
        except Exception as error:  # requests, urllib3 and cloud-volume share no base class
            message = f"chunk {chunk}: {self.cv.meta.server_url} did not map its supervoxels: {error}"
            raise graph_error(message, error) from error


class BigtableGraph:
    """The graph's own table, of PyChunkedGraph 1 or 2 (``bigtable://project/instance/table``).

    The parents of a chunk's supervoxels are one range of its rows; of each, the newest cell that is not
    younger than the timestamp counts.
    """

    def __init__(self, url: str, timestamp: datetime, layout: IdLayout) -> None:
        self.url, self.layout = url, layout
        # Bigtable's times are whole milliseconds, and its filters round up
        self.timestamp = timestamp.replace(microsecond=timestamp.microsecond // 1000 * 1000)
        self._table = open_graph_table(url)

    def l2_ids(self, chunk: Chunk, supervoxels: Ids) -> Ids:
        parents = np.zeros(len(supervoxels), dtype=np.uint64)
        strange = supervoxels[self.layout.layers(supervoxels) != 1]
        if len(strange):
            raise GraphError(f"chunk {chunk}: {strange[0]} is not a supervoxel id: expected layer 1")
        chunk_ids = self.layout.chunk_ids(supervoxels)
        for chunk_id in np.unique(chunk_ids):
            places = np.flatnonzero(chunk_ids == chunk_id)
            wanted = supervoxels[places]
            keys, values = self._parents(wanted.min(), wanted.max())
            at = np.searchsorted(keys, wanted)
            known = at < len(keys)
            known[known] = keys[at[known]] == wanted[known]
            parents[places[known]] = values[at[known]]
        return parents

    def _parents(self, first: np.uint64, last: np.uint64) -> tuple[Ids, Ids]:
        """All (supervoxel, parent) pairs from ``first`` to ``last``, sorted."""
        from google.cloud.bigtable.data import ReadRowsQuery, RowRange
        from google.cloud.bigtable.data import row_filters as f

        start, end = row_keys(np.array([first, last], dtype=np.uint64))
        newest = f.RowFilterChain(
            filters=[
                f.FamilyNameRegexFilter("0"),
                f.ColumnQualifierRegexFilter(b"parents"),
                f.TimestampRangeFilter(end=self.timestamp + timedelta(milliseconds=1)),
                f.CellsColumnLimitFilter(1),
            ]
        )
        query = ReadRowsQuery(row_ranges=[RowRange(start, end, end_is_inclusive=True)], row_filter=newest)
        with graph_errors(self.url):
            rows = self._table.read_rows(query)
        values = b"".join(row.cells[0].value for row in rows)
        if len(values) != 8 * len(rows):
            raise GraphError(f"{self.url}: parents between {first} and {last} are not 8 bytes each")
        return ids_of_row_keys([row.row_key for row in rows]), np.frombuffer(values, dtype="<u8")


def open_graph(source: str, cv: Any, geometry: Geometry, timestamp: datetime) -> Graph:
    """The graph that a data set names: ``flat``, ``graphene`` or a ``bigtable://`` URL."""
    if source == "flat":
        return FlatGraph(geometry)
    if source == "graphene":
        return GrapheneGraph(cv, timestamp)
    return BigtableGraph(source, timestamp, geometry.layout)
