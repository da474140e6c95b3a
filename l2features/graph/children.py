"""Supervoxels of given L2 nodes: from the graph's table, from its server, or by their numbers.

The children of a node never change, and are there for every node ever made: a superseded node is like any
other here, though its supervoxels have other parents by now.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..config.datasets import Dataset
from ..core.geometry import Chunk, Geometry
from ..core.ids import Ids, as_ids, from_bytes, ids_of_row_keys, row_keys
from ..core.transient import graph_error
from ..store.base import Store, node_segments, open_store
from .base import REQUESTS, graph_errors, open_graph_table, open_session

if TYPE_CHECKING:
    import requests

SUPERVOXEL = 1
"""Layer of the supervoxels."""
TIMEOUT_S = (10.0, 60.0)
"""Of a connection to a graph's server, and of its answer."""
LIST_TIMEOUT_S = (10.0, 300.0)
"""Of a list of a whole chunk."""
FEW = 64
"""Up to so many nodes of a chunk are asked a graph's server one by one, more by a list of the whole chunk."""
ROWS = 2_000
"""How many rows of a graph's table are asked for at a time."""
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass
class Children:
    """Supervoxels by L2 id; why an id cannot have any. An id that is in neither is unknown to the graph."""

    supervoxels: dict[int, Ids] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)


class ChildSource(Protocol):
    """Knows the supervoxels of a chunk's L2 nodes. Raises `GraphError` or `StoreError` for what may pass."""

    def children(self, chunk: Chunk, ids: Ids) -> Children: ...

    def close(self) -> None: ...


def open_children(dataset: Dataset, cv: Any, geometry: Geometry) -> ChildSource:
    """Where a data set's nodes say what they are made of; ``cv`` is its open CloudVolume."""
    if dataset.graph == "flat":
        return FlatChildren(open_store(dataset.store, dataset.l2cache_id), geometry)
    if dataset.graph == "graphene":
        return GrapheneChildren(cv, geometry)
    return BigtableChildren(dataset.graph, geometry)


class FlatChildren:
    """No graph: a node is the segment that the ingest of its chunk numbered so."""

    def __init__(self, store: Store, geometry: Geometry) -> None:
        self.store, self.geometry = store, geometry

    def children(self, chunk: Chunk, ids: Ids) -> Children:
        segments = node_segments(self.store, self.geometry.layout, ids)
        pairs = zip(ids.tolist(), segments, strict=True)
        return Children({node: np.array([segment]) for node, segment in pairs if segment != 0})

    def close(self) -> None:
        self.store.close()


def list_children(
    session: requests.Session, server: str, geometry: Geometry, chunk: Chunk
) -> NDArray[np.uint64]:
    """All L2 nodes of a chunk, superseded ones too, and their supervoxels: (n, 2), a row for each of these.

    Raises GraphError.
    """
    url = f"{server}/l2_chunk_children_binary/{geometry.chunk_id(chunk)}"
    try:
        answer = session.get(url, params={"as_array": "True"}, timeout=LIST_TIMEOUT_S)
        answer.raise_for_status()
        return from_bytes(answer.content).reshape(-1, 2)
    except (OSError, ValueError) as error:  # all of requests' errors are OSError
        raise graph_error(f"chunk {chunk}: {server} did not list its nodes: {error}", error) from error


class GrapheneChildren:
    """The graph's server, by HTTP. ``cv`` is an open ``graphene://`` CloudVolume."""

    def __init__(self, cv: Any, geometry: Geometry) -> None:
        self.geometry, self.bounds = geometry, {"bounds": cv.bounds.to_filename()}
        self.server, self._session = open_session(cv)

    def children(self, chunk: Chunk, ids: Ids) -> Children:
        found = self._one_by_one(ids) if len(ids) <= FEW else self._listed(chunk, ids)
        return _checked(self.geometry, chunk, found, {})

    def _one_by_one(self, ids: Ids) -> dict[int, Ids]:
        with ThreadPoolExecutor(min(REQUESTS, max(1, len(ids)))) as threads:
            leaves = list(threads.map(self._leaves, ids.tolist()))
        return {node: known for node, known in zip(ids.tolist(), leaves, strict=True) if len(known)}

    def _leaves(self, node: int) -> Ids:
        """The supervoxels of a node; none where the server does not know it."""
        try:
            url = f"{self.server}/node/{node}/leaves"
            answer = self._session.get(url, params=self.bounds, timeout=TIMEOUT_S)
            answer.raise_for_status()
            return as_ids(answer.json()["leaf_ids"])
        except (OSError, ValueError, KeyError, TypeError) as error:  # all of requests' errors are OSError
            message = f"{self.server} did not say the supervoxels of {node}: {error}"
            raise graph_error(message, error) from error

    def _listed(self, chunk: Chunk, ids: Ids) -> dict[int, Ids]:
        """The supervoxels of nodes, from a list of all nodes of the chunk, superseded ones among them."""
        pairs = list_children(self._session, self.server, self.geometry, chunk)
        pairs = pairs[np.isin(pairs[:, 0], ids)]
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        nodes, first = np.unique(pairs[:, 0], return_index=True)
        return dict(zip(nodes.tolist(), np.split(pairs[:, 1], first)[1:], strict=True))

    def close(self) -> None:
        self._session.close()


class BigtableChildren:
    """The graph's own table, of PyChunkedGraph 1 (raw) or 2 (compressed with zstd)."""

    def __init__(self, url: str, geometry: Geometry) -> None:
        self.url, self.geometry = url, geometry
        self._table = open_graph_table(url)

    def children(self, chunk: Chunk, ids: Ids) -> Children:
        found: dict[int, Ids] = {}
        errors: dict[int, str] = {}
        for first in range(0, len(ids), ROWS):
            for node, cell in self._cells(ids[first : first + ROWS]).items():
                try:
                    found[node] = decode_children(cell, math.prod(self.geometry.chunk_size))
                except ValueError as error:
                    errors[node] = f"node {node}: {error}"
        return _checked(self.geometry, chunk, found, errors)

    def _cells(self, ids: Ids) -> dict[int, bytes]:
        from google.cloud.bigtable.data import ReadRowsQuery
        from google.cloud.bigtable.data import row_filters as f

        newest = f.RowFilterChain(
            filters=[
                f.FamilyNameRegexFilter("0"),
                f.ColumnQualifierRegexFilter(b"children"),
                f.CellsColumnLimitFilter(1),
            ]
        )
        with graph_errors(self.url):
            rows = self._table.read_rows(ReadRowsQuery(row_keys=row_keys(ids), row_filter=newest))
        nodes = ids_of_row_keys([row.row_key for row in rows]).tolist()
        return {node: row.cells[0].value for node, row in zip(nodes, rows, strict=True)}

    def close(self) -> None:
        self._table.client.close()


def decode_children(cell: bytes, most: int) -> Ids:
    """The supervoxels in a cell ``children``, of which there are at most so many.

    No supervoxel's id begins like compressed data: its chunk would have to have four thousand million.
    Raises ValueError for a cell that is neither.
    """
    import zstandard

    if cell[:4] == _ZSTD_MAGIC:
        try:
            size = zstandard.frame_content_size(cell)
            if size <= 8 * most:
                cell = zstandard.ZstdDecompressor().decompress(cell, max_output_size=8 * most)
        except zstandard.ZstdError as error:
            raise ValueError(f"its children cannot be decompressed: {error}") from error
        if size > 8 * most:
            raise ValueError(f"its children are {size} bytes: expected {most} ids at most")
    if len(cell) % 8:
        raise ValueError(f"its children are {len(cell)} bytes: expected 8 for each")
    return from_bytes(cell)


def _checked(
    geometry: Geometry, chunk: Chunk, found: Mapping[int, Ids], errors: Mapping[int, str]
) -> Children:
    """The nodes whose children are all supervoxels of their chunk; of the others, why they are left out."""
    checked = Children(errors=dict(errors))
    shift = np.uint64(geometry.layout.segment_bits(SUPERVOXEL))
    ours = np.uint64(geometry.layout.chunk_id(*chunk, layer=SUPERVOXEL)) >> shift
    for node, supervoxels in found.items():
        strange = supervoxels[(supervoxels >> shift) != ours]
        if not len(strange):
            checked.supervoxels[node] = supervoxels
            continue
        of_layer = geometry.layout.layers(strange[:1])[0] == SUPERVOXEL
        what = f"not in chunk {chunk}" if of_layer else "not a supervoxel"
        checked.errors[node] = f"node {node}: its child {strange[0]} is {what}"
    return checked
