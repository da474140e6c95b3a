"""Export all nodes of a table to one Parquet file, chunk by chunk, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..config.datasets import Dataset
from ..core.chunks import ChunkBox
from ..core.geometry import Chunk, Geometry
from ..core.ids import Ids
from ..core.schema import NAMES
from ..graph.base import Graph
from ..store.base import Store, node_segments
from .answers import arrow_schema, arrow_table, parquet_schema, with_metadata
from .box_lookup import FoundNodes, RegionReader

THREADS, CHUNKS_AHEAD = 8, 32
"""Number of chunks that are read at the same time, and that are read ahead of writing."""
GROUP_ROWS = 100_000
"""A row group is written once it has at least this number of rows."""
MAX_PROBLEMS = 1000
"""Maximum problems whose messages an export returns."""
SEGMENT, ROOT = "segment_id", "root_id"
Item = TypeVar("Item")
Result = TypeVar("Result")


class ChunkNodes(NamedTuple):
    """The nodes of a chunk; in a data set without a graph, also the segment of each node."""

    found: FoundNodes
    segments: Ids | None


@dataclass
class Exported:
    """Result of an export: the numbers of nodes, and of chunks whose nodes may be incomplete.

    ``problems`` has the messages of the first `MAX_PROBLEMS` of these chunks.
    """

    nodes: int = 0
    incomplete: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class NodeExport:
    """Exports the nodes of a data set, with features as the HTTP API returns them.

    With a ``graph``, the column ``root_id`` has the root of each node at ``time``; it is null without
    ``time``, and for a node without a root. For a data set without a graph, the column ``segment_id`` has the
    segment of each node.
    """

    dataset: Dataset
    store: Store
    geometry: Geometry
    graph: Graph | None = None
    time: datetime | None = None

    def write(
        self, box: ChunkBox, sink: Any, about: Mapping[str, str], on_chunk: Callable[[], object]
    ) -> Exported:
        """Write the nodes of the box's chunks to a Parquet file, sorted by id.

        ``about`` goes into the file's metadata. ``on_chunk`` is called after each chunk. Raises StoreError or
        GraphError if the store or the graph fails; the file is then incomplete.
        """
        done, group, rows = Exported(), list[Any](), 0
        schema = self._schema(about)
        with (
            pq.ParquetWriter(sink, schema, compression="zstd") as writer,
            ThreadPoolExecutor(THREADS) as pool,
        ):
            for nodes in _ahead(pool, self._read, box.in_order()):
                done.nodes += nodes.found.count
                done.incomplete += len(nodes.found.problems)
                done.problems += nodes.found.problems[: MAX_PROBLEMS - len(done.problems)]
                if nodes.found.count:
                    group.append(self._table(nodes).cast(schema))
                    rows += nodes.found.count
                if rows >= GROUP_ROWS:
                    writer.write_table(self._with_roots(pa.concat_tables(group)))
                    group, rows = [], 0
                on_chunk()
            if rows:
                writer.write_table(self._with_roots(pa.concat_tables(group)))
        return done

    def _read(self, chunk: Chunk) -> ChunkNodes:
        found = RegionReader(self.store, self.dataset, self.geometry, 1 << 32).chunk(chunk)
        if self.dataset.has_graph:
            return ChunkNodes(found, None)
        ids = found.answer.rows.ids
        return ChunkNodes(found, node_segments(self.store, self.geometry.layout, ids))

    def _schema(self, about: Mapping[str, str]) -> Any:
        schema = arrow_schema(self.geometry, NAMES)
        schema = schema.remove(schema.get_field_index("reason"))
        if not self.dataset.has_graph:
            schema = schema.insert(1, _id_field(SEGMENT, "segment of the node"))
        elif self.graph is not None:
            schema = schema.insert(1, _id_field(ROOT, "root of the node"))
        return parquet_schema(with_metadata(schema, about))

    def _table(self, nodes: ChunkNodes) -> Any:
        answer = nodes.found.answer
        table = arrow_table(answer.rows, self.geometry, NAMES, answer.status, {}).drop_columns("reason")
        if nodes.segments is not None:
            return table.add_column(1, SEGMENT, _known(nodes.segments))
        if self.graph is not None:
            return table.add_column(1, ROOT, pa.nulls(len(table), pa.uint64()))
        return table

    def _with_roots(self, table: Any) -> Any:
        if self.graph is None or self.time is None:
            return table
        ids = table.column("id").to_numpy()
        roots = self.graph.roots_of(self.geometry, ids, self.time)
        return table.set_column(1, table.field(1), _known(roots))


def _id_field(name: str, meaning: str) -> Any:
    return pa.field(name, pa.uint64(), metadata={"description": meaning})


def _known(ids: Ids) -> Any:
    return pa.array(ids, mask=np.asarray(ids == 0))


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """Yield the results of ``items`` in order, while threads compute up to `CHUNKS_AHEAD` further results."""
    pending = deque[Future[Result]]()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= CHUNKS_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
