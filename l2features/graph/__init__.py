"""Supervoxels to L2 nodes at a timestamp: from the graph's table, from its server, or without a graph."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import ConfigError, GraphError
from ..geometry import Chunk, Geometry, Triple
from ..ids import L2, IdLayout, Ids, as_ids, ids_of_row_keys, row_keys
from ..transient import graph_error
from ..unpickle import GRAPH_META, plain_loads

REQUESTS = 8
"""How many questions a graph's server is asked at the same time."""
_URL = re.compile(r"bigtable://([^/?#]+)/([^/?#]+)/([^/?#]+)")


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


def check_graph(source: str) -> None:
    """Raise `GraphError` where a data set names a graph's table that cannot be read."""
    from google.cloud.bigtable.data import ReadRowsQuery

    if source.startswith("bigtable://"):
        with graph_errors(source):
            open_graph_table(source).read_rows(ReadRowsQuery(limit=1))


@dataclass(frozen=True)
class GraphInfo:
    """What a graph's table says of its chunks and ids."""

    chunk_size: Triple
    layout: IdLayout


def read_graph_info(url: str) -> GraphInfo:
    """Chunk size and id layout from a graph's table, of either schema. Raises GraphError."""
    from google.cloud.bigtable.data import ReadRowsQuery

    with graph_errors(url):
        rows = open_graph_table(url).read_rows(ReadRowsQuery(row_keys=[b"meta", b"params"]))
    cells = {cell.qualifier: cell.value for row in rows for cell in reversed(row.cells)}
    try:
        return _info_v2(cells[b"meta"]) if b"meta" in cells else _info_v1(cells)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise GraphError(
            f"{url}: the table does not describe a graph of PyChunkedGraph 1 or 2: {error!r}"
        ) from error


def _info_v2(meta: bytes) -> GraphInfo:
    """From the pickled ChunkedGraphMeta: fields 2, 4 and 5 of its GraphConfig."""
    config = plain_loads(meta, GRAPH_META).args[0].args
    x, y, z = (int(n) for n in config[2])
    bits = int(config[5])
    return GraphInfo((x, y, z), IdLayout({1: bits, 2: bits}, int(config[4])))


def _info_v1(cells: dict[bytes, bytes]) -> GraphInfo:
    """From the row ``params``. Layer 1 has 8 bits per axis, layer 2 what its part of the octree needs."""
    x, y, z = np.frombuffer(cells[b"chunk_size"], dtype="<u8").tolist()
    fan_out = int.from_bytes(cells[b"fan_out"], "little")
    layers = int.from_bytes(cells[b"n_layers"], "little")
    bits = max(1, (fan_out ** (layers - L2) - 1).bit_length())
    return GraphInfo((x, y, z), IdLayout({1: 8, 2: bits}))


def open_graph_table(url: str) -> Any:
    """The table of a graph (``bigtable://project/instance/table``). Raises ConfigError, GraphError."""
    from ..bigtable import open_table

    with graph_errors(url):
        return open_table(*parse_graph_url(url))


def parse_graph_url(url: str) -> tuple[str, str, str]:
    """Project, instance and table of ``bigtable://project/instance/table``. Raises ConfigError."""
    match = _URL.fullmatch(url)
    if not match:
        raise ConfigError(f"graph {url!r}: expected bigtable://project/instance/table")
    project, instance, table = match.groups()
    return project, instance, table


def open_session(cv: Any) -> tuple[str, Any]:
    """Address of the server of an open ``graphene://`` CloudVolume, and a session that has its token."""
    import requests
    from requests.adapters import HTTPAdapter

    meta = cv.meta
    session = requests.Session()
    session.headers.update(meta.auth_header or {})
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=REQUESTS))
    return f"{meta.base_path}{meta.api_version.path(meta.server_path)}", session


@contextmanager
def graph_errors(url: str) -> Iterator[None]:
    """Errors of the Bigtable client as GraphError."""
    from google.api_core.exceptions import GoogleAPIError, NotFound
    from google.auth.exceptions import GoogleAuthError

    from ..bigtable import reason

    try:
        yield
    except NotFound as error:
        raise GraphError(f"{url}: there is no such table") from error
    except (GoogleAPIError, GoogleAuthError) as error:
        raise graph_error(f"cannot read {url}: {reason(error)}", error) from error


def open_graph(source: str, cv: Any, geometry: Geometry, timestamp: datetime) -> Graph:
    """The graph that a data set names: ``flat``, ``graphene`` or a ``bigtable://`` URL."""
    if source == "flat":
        return FlatGraph(geometry)
    if source == "graphene":
        return GrapheneGraph(cv, timestamp)
    return BigtableGraph(source, timestamp, geometry.layout)
