"""No graph: each segment of a chunk is a node, numbered by the ingest of its chunk."""

from __future__ import annotations

import re
from datetime import datetime

import numpy as np

from ..core.errors import GraphError, StoreError
from ..core.geometry import Chunk, Geometry
from ..core.ids import L2, Ids
from ..store.base import node_segments
from .base import Children, Graph, OpenTable


class FlatGraph(Graph):
    """Nodes are the chunk's id plus the 1-based rank of their segment; the store keeps the segments."""

    pattern, expected = re.compile("flat"), "flat"

    def __init__(self, url: str, open_table: OpenTable) -> None:
        super().__init__(url, open_table)
        self.store = open_table()

    def info(self) -> None:
        """Return None: there is no graph."""

    def l2_ids(self, geometry: Geometry, chunk: Chunk, supervoxels: Ids, time: datetime) -> Ids:
        most = (1 << geometry.layout.segment_bits(L2)) - 1
        if len(supervoxels) > most:
            raise GraphError(f"chunk {chunk} has {len(supervoxels)} segments: its ids have room for {most}")
        return _numbered(geometry, chunk, len(supervoxels))

    def children(self, geometry: Geometry, chunk: Chunk, ids: Ids) -> Children:
        segments = node_segments(self.store, geometry.layout, ids)
        pairs = zip(ids.tolist(), segments, strict=True)
        return Children({node: np.array([segment]) for node, segment in pairs if segment != 0})

    def nodes(self, geometry: Geometry, chunk: Chunk, time: datetime | None = None) -> Ids:
        segments = self.store.segments(geometry.chunk_id(chunk))
        if segments is None:
            raise StoreError(f"chunk {chunk}: its segments are not recorded: the ingest numbers them")
        return _numbered(geometry, chunk, len(segments))

    def close(self) -> None:
        self.store.close()


def _numbered(geometry: Geometry, chunk: Chunk, n: int) -> Ids:
    return np.uint64(geometry.chunk_id(chunk)) + np.arange(1, n + 1, dtype=np.uint64)
