"""The L2 nodes of a chunk according to the graph: all that were ever made, or those valid at a time.

Rows of nodes are never removed from a graph, and do not say when they were superseded. A node is valid at a
time if it is the newest parent, not younger than that, of a supervoxel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Protocol

import numpy as np

from ..config.datasets import Dataset
from ..core.errors import GraphError, StoreError
from ..core.geometry import Chunk, Geometry
from ..core.ids import L2, Ids, as_ids, row_keys, sorted_unique
from ..store.base import Store, open_store
from ..store.bigtable.decoded import Columns, Decoded
from .base import GrapheneGraph, graph_errors, map_supervoxels, open_session, parse_graph_url
from .children import SUPERVOXEL, list_children

DEADLINE_S = 60.0
_CHILDREN = Columns(("children",))
_PARENTS = Columns(("parents",), np.dtype([("parents", "<u8")]))


class GraphNodes(Protocol):
    """Knows the L2 nodes of chunks; their ids are sorted. Raises `GraphError`, or `StoreError`."""

    def made(self, chunk: Chunk) -> Ids:
        """All nodes of a chunk that were ever made, valid or superseded."""

    def valid(self, chunk: Chunk, time: datetime) -> Ids:
        """The nodes of a chunk that are valid at a time."""

    def close(self) -> None:
        """Let go of connections."""


def open_graph_nodes(dataset: Dataset, geometry: Geometry) -> GraphNodes:
    """What knows the nodes of a data set. Only a ``graphene`` one opens its segmentation."""
    if dataset.graph == "flat":
        return FlatNodes(open_store(dataset.store, dataset.l2cache_id), geometry)
    if dataset.graph == "graphene":
        from ..volume import open_volume

        return GrapheneNodes(open_volume(dataset).cv, geometry)
    return BigtableNodes(dataset.graph, geometry)


class FlatNodes:
    """No graph: the nodes are the segments that the ingest of a chunk numbered, at all times."""

    def __init__(self, store: Store, geometry: Geometry) -> None:
        self.store, self.geometry = store, geometry

    def made(self, chunk: Chunk) -> Ids:
        chunk_id = self.geometry.chunk_id(chunk)
        segments = self.store.segments(chunk_id)
        if segments is None:
            raise StoreError(f"chunk {chunk}: its segments are not recorded: the ingest numbers them")
        return np.uint64(chunk_id) + np.arange(1, len(segments) + 1, dtype=np.uint64)

    def valid(self, chunk: Chunk, time: datetime) -> Ids:
        return self.made(chunk)

    def close(self) -> None:
        self.store.close()


class BigtableNodes:
    """The graph's own table, of PyChunkedGraph 1 or 2, by one range of its rows without their content.

    All nodes are the chunk's rows with a cell ``children``; valid ones are the distinct newest parents in the
    rows of the chunk's supervoxels.
    """

    def __init__(self, url: str, geometry: Geometry) -> None:
        from ..store.bigtable.row_stream import Connection

        self.url, self.geometry = url, geometry
        with graph_errors(url):
            self._connection = Connection(*parse_graph_url(url), DEADLINE_S)

    def made(self, chunk: Chunk) -> Ids:
        from google.cloud.bigtable.data import row_filters as f

        parts = self._scan(chunk, L2, _CHILDREN, f.StripValueTransformerFilter(True))
        return np.concatenate([as_ids([]), *(part.ids for part in parts)])

    def valid(self, chunk: Chunk, time: datetime) -> Ids:
        from google.cloud.bigtable.data import row_filters as f

        # Bigtable's times are whole milliseconds, and its filters round up
        until = time.replace(microsecond=time.microsecond // 1000 * 1000) + timedelta(milliseconds=1)
        parts = self._scan(chunk, SUPERVOXEL, _PARENTS, f.TimestampRangeFilter(end=until))
        parents = [part.records.view("<u8").reshape(-1).astype(np.uint64) for part in parts]
        return _of_chunk(self.geometry, chunk, sorted_unique(np.concatenate([as_ids([]), *parents])))

    def _scan(self, chunk: Chunk, layer: int, columns: Columns, restrict: Any) -> list[Decoded]:
        """The newest cell of one column in each of a chunk's rows of a layer."""
        from google.cloud.bigtable.data import row_filters as f

        layout, name = self.geometry.layout, columns.names[0].encode()
        chunk_id = layout.chunk_id(*chunk, layer=layer)
        first, last = row_keys(as_ids([chunk_id + 1, layout.last_id(chunk_id)]))
        newest = [f.ColumnRangeFilter("0", name, name), restrict, f.CellsColumnLimitFilter(1)]
        with graph_errors(self.url), _strange_answers(self.url):
            parts = self._connection.read_range(first, last, columns, f.RowFilterChain(filters=newest))
        for part in parts:
            if part.strange_key is not None:
                raise GraphError(f"{self.url}: the row key {part.strange_key!r} is not 20 digits of an id")
        return parts

    def close(self) -> None:
        self._connection.close()


class GrapheneNodes:
    """The graph's server, by HTTP. ``cv`` is an open ``graphene://`` CloudVolume.

    The server lists all of a chunk's nodes and their supervoxels, superseded ones among them and not told
    from the others; which of them are valid is asked of their supervoxels. Times are whole seconds to it.
    """

    def __init__(self, cv: Any, geometry: Geometry) -> None:
        self.cv, self.geometry = cv, geometry
        self.server, self._session = open_session(cv)

    def made(self, chunk: Chunk) -> Ids:
        return self._pairs(chunk)[0]

    def valid(self, chunk: Chunk, time: datetime) -> Ids:
        _, supervoxels = self._pairs(chunk)
        if not len(supervoxels):
            return supervoxels
        mapping = map_supervoxels(GrapheneGraph(self.cv, time), self.geometry, chunk, supervoxels)
        if mapping.errors:
            raise GraphError(f"chunk {chunk}: {'; '.join(mapping.errors[:3])}")
        return sorted_unique(mapping.l2_ids[mapping.l2_ids != 0])

    def _pairs(self, chunk: Chunk) -> tuple[Ids, Ids]:
        """The nodes of a chunk, and the supervoxels of all of them."""
        pairs = list_children(self._session, self.server, self.geometry, chunk)
        return _of_chunk(self.geometry, chunk, sorted_unique(pairs[:, 0])), sorted_unique(pairs[:, 1])

    def close(self) -> None:
        self._session.close()


def _of_chunk(geometry: Geometry, chunk: Chunk, ids: Ids) -> Ids:
    """The ids. Raises GraphError where one is no L2 node of the chunk."""
    first = geometry.chunk_id(chunk)
    strange = ids[(ids <= np.uint64(first)) | (ids > np.uint64(geometry.layout.last_id(first)))]
    if len(strange):
        raise GraphError(f"chunk {chunk}: the graph gives it {strange[0]}, which is no L2 node of this chunk")
    return ids


@contextmanager
def _strange_answers(url: str) -> Iterator[None]:
    from ..store.bigtable.row_stream import BadAnswer

    try:
        yield
    except BadAnswer as error:
        raise GraphError(f"{url}: {error}") from error
