"""A sample's graph table in PyChunkedGraph 2's format: nodes, edges, roots, counters and operation log.

A row marks the table as a sample's, to prevent accidental edits of other graphs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ...config.reach import check_bigtable
from ...core.errors import ConfigError, GraphError
from ...core.ids import KEY_DIGITS, L2, Ids, as_ids, ids_of_row_keys, row_keys
from ...core.times import format_time
from ...graph.bigtable import parse_graph_url
from ...graph.id_cells import decode_ids
from ...graph.table_reads import graph_errors
from ..progress import progress_bar
from .graph_cells import CHILDREN, CROSS_EDGES, EDGE_FAMILY, LAYER_SHIFT, PARENTS, Cell

MADE = datetime(2026, 1, 1, tzinfo=UTC)
"""Creation time of the first nodes of every sample, and the timestamp of its ingest."""
TIMESTAMP = format_time(MADE)
OPERATIONS = b"ioperations"
ROOT_STEP = 256
"""Number of root counters in PyChunkedGraph; the sample uses only the first."""
ROWS = 2_000
DEADLINE_S = 30.0
MARK, TITLE, COMPLETE = b"l2features_sample", b"title", b"complete"
FORMAT = b"2"
"""Value of column ``complete``. Format 1 had no cross-chunk edges, and no layers between 2 and the roots."""
_COUNTER = "1", b"counter"
_MOST_IDS = 1 << 30


class SampleTable:
    """A graph's table, ``bigtable://project/instance/table``. Methods raise GraphError if a request fails."""

    def __init__(self, url: str) -> None:
        from ...store.bigtable.calls import open_table

        self.url = url
        self._path = parse_graph_url(url)
        check_bigtable(url, GraphError)
        with self._errors():
            self._table = open_table(*self._path, deadline_s=DEADLINE_S)

    def close(self) -> None:
        """Close the connection."""
        self._table.client.close()

    def create(self) -> bool:
        """Create the table; return False if the table exists."""
        from ...store.bigtable.calls import GRAPH_FAMILIES, create_table

        with self._errors():
            return create_table(*self._path, DEADLINE_S, GRAPH_FAMILIES)

    def marks(self) -> dict[bytes, bytes]:
        """Return the columns and values that mark a sample's graph; empty for any other graph."""
        with self._errors():
            row = self._table.read_row(MARK)
        return {cell.qualifier: cell.value for cell in reversed(row.cells)} if row else {}

    def set(self, key: bytes, column: bytes, value: bytes) -> None:
        """Write a cell with timestamp 0."""
        from google.cloud.bigtable.data import SetCell

        with self._errors():
            self._table.mutate_row(key, SetCell("0", column, value, timestamp_micros=0))

    def put(self, cells: Iterable[Cell]) -> None:
        """Write cells."""
        from google.cloud.bigtable.data import SetCell
        from google.cloud.bigtable.data.mutations import RowMutationEntry

        rows: defaultdict[tuple[int, bytes], list[Any]] = defaultdict(list)
        for node, column, value, ms, family, prefix in cells:
            rows[node, prefix].append(SetCell(family, column.encode(), value, timestamp_micros=1000 * ms))
        keys = row_keys(as_ids([node for node, _ in rows]))
        entries = [
            RowMutationEntry(prefix + key, own)
            for key, ((_, prefix), own) in zip(keys, rows.items(), strict=True)
        ]
        with progress_bar(len(entries), "row", "cells of the graph", delay=1.0) as bar, self._errors():
            for first in range(0, len(entries), ROWS):
                self._table.bulk_mutate_rows(entries[first : first + ROWS])
                bar.update(len(entries[first : first + ROWS]))

    def take(self, counter: bytes, count: int = 1) -> int:
        """Reserve the next ``count`` numbers of a counter, which begins at 1; return the last of them."""
        from google.cloud.bigtable.data.read_modify_write_rules import IncrementRule

        with self._errors():
            row = self._table.read_modify_write_row(counter, IncrementRule(*_COUNTER, count))
        return int.from_bytes(row.cells[0].value, "big")

    def take_once(self, counter: bytes, count: int) -> None:
        """Reserve the first ``count`` numbers of a counter, unless an earlier attempt has reserved them."""
        with self._errors():
            used = self._table.read_row(counter) is not None
        if count and not used:
            self.take(counter, count)

    def new_nodes(self, chunk_id: int, count: int, layers: int) -> list[int]:
        """Reserve ids for new nodes of a chunk; ``layers`` is the layer of the roots."""
        last = self.take(node_counter(chunk_id, layers), count)
        return [node_id(chunk_id, number, layers) for number in range(last - count + 1, last + 1)]

    def newest(self, ids: Ids, column: str, family: str = "0") -> dict[int, Ids]:
        """Map each node to the ids in its row, from all columns whose names begin with ``column``.

        Only the newest cell of a column is read. Nodes without such a column are left out.
        """
        from google.cloud.bigtable.data import ReadRowsQuery
        from google.cloud.bigtable.data import row_filters as f

        if not len(ids):
            return {}
        named = f.ColumnRangeFilter(family, column.encode(), column.encode() + b"~")
        newest = f.RowFilterChain(filters=[named, f.CellsColumnLimitFilter(1)])
        with self._errors():
            rows = self._table.read_rows(ReadRowsQuery(row_keys=row_keys(ids), row_filter=newest))
        nodes = ids_of_row_keys([row.row_key for row in rows]).tolist()
        return {
            node: np.concatenate([decode_ids(cell.value, _MOST_IDS, CHILDREN) for cell in row.cells])
            for node, row in zip(nodes, rows, strict=True)
        }

    def roots(self, nodes: Ids) -> dict[int, int]:
        """Map each node to its current root."""
        found = dict(zip(nodes.tolist(), nodes.tolist(), strict=True))
        while above := self.newest(as_ids(set(found.values())), PARENTS):
            found = {node: int(above[at][0]) if at in above else at for node, at in found.items()}
        return found

    def tree(self, roots: Ids) -> dict[int, Ids]:
        """Map each node to its children, from the roots down to layer 2."""
        tree: dict[int, Ids] = {}
        while len(roots):
            found = self.newest(roots, CHILDREN)
            tree |= found
            below = np.concatenate([as_ids([]), *found.values()])
            roots = below[below >= np.uint64(L2 << LAYER_SHIFT)]
        return tree

    def cross_edges(self, nodes: Ids) -> Ids:
        """Return the cross-chunk edges of L2 nodes: pairs of supervoxels, (n, 2).

        The first supervoxel of a pair is in the L2 node.
        """
        edges = self.newest(nodes, CROSS_EDGES, EDGE_FAMILY).values()
        return np.concatenate([as_ids([]), *edges]).reshape(-1, 2)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from google.cloud.bigtable.data.exceptions import MutationsExceptionGroup

        from ...store.bigtable.calls import reason

        try:
            with graph_errors(self.url):
                yield
        except MutationsExceptionGroup as error:
            raise GraphError(f"cannot write {self.url}: {reason(error)}") from error


def node_counter(chunk_id: int, layers: int) -> bytes:
    """Return the row key of a chunk's node counter; ``layers`` is the layer of the roots."""
    of_root = b"_0" if chunk_id >> LAYER_SHIFT == layers else b""
    return b"i%0*d" % (KEY_DIGITS, chunk_id) + of_root


def node_id(chunk_id: int, number: int, layers: int) -> int:
    """Return the id of a chunk's node; ``number`` counts from 1, ``layers`` is the layer of the roots."""
    return chunk_id + number * (ROOT_STEP if chunk_id >> LAYER_SHIFT == layers else 1)


def open_sample_table(url: str) -> SampleTable:
    """Open a sample's graph table.

    Raises ConfigError for any other graph, and GraphError if the table cannot be read.
    """
    table = SampleTable(url) if url.startswith("bigtable://") else None
    marks = table.marks() if table else {}
    if table and marks.get(COMPLETE) == FORMAT:
        return table
    if table:
        table.close()
    if COMPLETE in marks:
        check_format(url, marks[COMPLETE])
    raise ConfigError(
        f"graph {url}: not a sample's graph: expected one made by "
        "`l2features sample FOLDER --graph bigtable://project/instance/table`"
    )


def check_format(url: str, found: bytes) -> None:
    """Raise ConfigError unless ``found``, the format of a sample's graph, is `FORMAT`."""
    if found != FORMAT:
        raise ConfigError(
            f"graph {url}: a sample of format {found.decode(errors='replace')}, expected {FORMAT.decode()}: "
            "delete the table and write the sample again, or choose another table"
        )
