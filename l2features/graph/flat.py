"""Stand-in for a graph in data sets without one: each segment of a chunk is a node."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

import numpy as np
import numpy.typing as npt

from ..core.chunks import ChunkBox
from ..core.errors import GraphError, GraphUnavailable, StoreError, StoreUnavailable
from ..core.geometry import Chunk, Geometry
from ..core.ids import L2, Ids, as_ids, numbered_ids
from ..core.rows import Rows
from ..store.base import node_segments
from .base import Children, Graph, NodeRoots, OpenTable, Pairs, RootHistory, RootNodes
from .l2_edges import unique_pairs

FACES = "chunk_intersect_count"


class FlatGraph(Graph):
    """Stands in for a missing graph: a segment is a root, and its part in a chunk is a node.

    A node's id is the chunk's id plus the rank of the segment among the chunk's segments, from 1. The data
    set's table records the segments of each chunk, and has an index that finds the nodes of a segment.
    """

    pattern, expected = re.compile("flat"), "flat"
    permanent = False  # a segment gets nodes with each ingested chunk
    expected_root = "a segment, and 0 is none"

    def __init__(self, url: str, open_table: OpenTable) -> None:
        super().__init__(url, open_table)
        self.store = open_table()
        self._indexed = False

    def info(self) -> None:
        """Return None, as there is no graph to describe."""

    def l2_ids(self, geometry: Geometry, chunk: Chunk, supervoxels: Ids, time: datetime) -> Ids:
        most = (1 << geometry.layout.segment_bits(L2)) - 1
        if len(supervoxels) > most:
            raise GraphError(
                f"chunk {chunk} has {len(supervoxels)} segments: expected at most {most}, "
                "the number of ids in a chunk"
            )
        return numbered_ids(geometry.chunk_id(chunk), len(supervoxels))

    def children(self, geometry: Geometry, chunk: Chunk, ids: Ids) -> Children:
        segments = node_segments(self.store, geometry.layout, ids)
        pairs = zip(ids.tolist(), segments, strict=True)
        return Children({node: np.array([segment]) for node, segment in pairs if segment != 0})

    def nodes(self, geometry: Geometry, chunk: Chunk, time: datetime | None = None) -> Ids:
        segments = self.store.segments(geometry.chunk_id(chunk))
        if segments is None:
            raise StoreError(f"chunk {chunk}: segments are not recorded: ingest the chunk first")
        return numbered_ids(geometry.chunk_id(chunk), len(segments))

    def valid_nodes(self, geometry: Geometry, box: ChunkBox, time: datetime) -> NodeRoots:
        """Return the nodes and segments of the box's ingested chunks; ``time`` is ignored."""
        nodes, segments = [as_ids([])], [as_ids([])]
        with self._store_errors():
            for chunk in box.in_order():
                if geometry.in_grid([chunk])[0]:
                    own = self.store.segments(geometry.chunk_id(chunk))
                    if own is not None:
                        nodes.append(numbered_ids(geometry.chunk_id(chunk), len(own)))
                        segments.append(own)
        return NodeRoots(np.concatenate(nodes), np.concatenate(segments))

    def is_root(self, geometry: Geometry, ids: Ids) -> npt.NDArray[np.bool_]:
        return np.asarray(ids != 0)

    def root_nodes(self, geometry: Geometry, roots: Ids, most: int) -> RootNodes:
        nodes = self._segment_nodes(roots, most)
        return RootNodes(
            {root: ids for root, ids in nodes.items() if len(ids) <= most},
            {root: len(ids) for root, ids in nodes.items() if len(ids) > most},
        )

    def root_edges(
        self, geometry: Geometry, nodes: Mapping[int, Ids], rows: Rows | None = None
    ) -> dict[int, Pairs]:
        """See `Graph.root_edges`. Nodes in neighbouring chunks are joined if both touch the common face.

        A node without a row has no edges.
        """
        if rows is None:
            with self._store_errors():
                rows = self.store.read(np.concatenate([as_ids([]), *nodes.values()]), (FACES,))
        touched = np.split(rows.features[FACES] > 0, np.cumsum([len(own) for own in nodes.values()]))
        return {
            root: _edges(geometry, own, faces)
            for (root, own), faces in zip(nodes.items(), touched, strict=False)
        }

    def roots_of(self, geometry: Geometry, l2_ids: Ids, time: datetime) -> Ids:
        with self._store_errors():
            return node_segments(self.store, geometry.layout, l2_ids)

    def histories(self, geometry: Geometry, roots: Ids) -> dict[int, RootHistory]:
        """Return each segment's history: created at the table's timestamp, never changed."""
        with self._store_errors():
            meta = self.store.meta()
            if meta is None:
                raise GraphError(f"table {self.store.name} has no meta: ingest the data set first")
            history = RootHistory(meta.time)
        return dict.fromkeys(self._segment_nodes(roots, 0), history)

    def close(self) -> None:
        self.store.close()

    def _segment_nodes(self, segments: Ids, most: int) -> dict[int, Ids]:
        """Return each segment's nodes with the lowest ids, at most ``most`` + 1 of them.

        Raises GraphError if the index of segments is not complete.
        """
        from ..store.segment_index import index_state

        with self._store_errors():
            self._indexed = self._indexed or index_state(self.store).complete
            if not self._indexed:
                table = f"table {self.store.name}"
                raise GraphError(f"{table}: segments are not indexed: run `l2features index`")
            return self.store.segment_nodes(segments[segments != 0], most)

    @contextmanager
    def _store_errors(self) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            kind = GraphUnavailable if isinstance(error, StoreUnavailable) else GraphError
            raise kind(str(error)) from error


def _edges(geometry: Geometry, nodes: Ids, touched: npt.NDArray[np.bool_]) -> Pairs:
    """Return the edges between a segment's nodes.

    ``nodes`` (n,) are sorted, at most one in each chunk. ``touched`` (n, 2, 3) says whether each node touches
    the lower and the upper face of its chunk on each axis.
    """
    chunks = geometry.layout.chunk_coordinates(nodes)
    chunk_ids = geometry.layout.chunk_ids(nodes)
    first, second = [as_ids([])], [as_ids([])]
    for axis in range(3):
        above = chunks + np.eye(3, dtype=np.int64)[axis]
        places = np.flatnonzero(touched[:, 1, axis] & geometry.in_grid(above))
        wanted = geometry.layout.chunk_id_array(above[places])
        at = np.searchsorted(chunk_ids, wanted).clip(max=len(nodes) - 1)
        joined = (chunk_ids[at] == wanted) & touched[at, 0, axis]
        first.append(nodes[places[joined]])
        second.append(nodes[at[joined]])
    return unique_pairs(np.concatenate(first), np.concatenate(second))
