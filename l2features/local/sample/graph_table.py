"""A sample's graph table in PyChunkedGraph 2's format: nodes, roots, counters, and a mark.

Roots are the parents of L2 nodes, without layers between. The mark prevents accidental edits of other graphs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any

from ...config.reach import check_bigtable
from ...core.errors import ConfigError, GraphError
from ...core.ids import KEY_DIGITS, Ids, as_ids, ids_of_row_keys, row_keys
from ...core.times import format_time
from ...graph.bigtable import decode_children, graph_errors, parse_graph_url
from .graph_cells import LAYER_SHIFT, PARENTS, Cell, graph_meta, n_layers, node_cells
from .segmentation_files import Sample, sample_chunks

MADE = datetime(2026, 1, 1, tzinfo=UTC)
"""When the nodes of every sample become valid; the time for its ingest."""
TIMESTAMP = format_time(MADE)
OPERATIONS = b"ioperations"
ROOT_STEP = 256
"""PyChunkedGraph's number of root counters; the sample uses the first."""
ROWS = 2_000
DEADLINE_S = 30.0
_MARK, _TITLE, _COMPLETE = b"l2features_sample", b"title", b"complete"
_COUNTER = "1", b"counter"


class SampleTable:
    """A graph's table (``bigtable://project/instance/table``). All its methods raise GraphError."""

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
        """Create the table; return False where it exists."""
        from ...store.bigtable.calls import create_table

        with self._errors():
            return create_table(*self._path, DEADLINE_S)

    def marks(self) -> dict[bytes, bytes]:
        """Return the columns of the mark; empty where this is not a sample's graph."""
        with self._errors():
            row = self._table.read_row(_MARK)
        return {cell.qualifier: cell.value for cell in reversed(row.cells)} if row else {}

    def set(self, key: bytes, column: bytes, value: bytes) -> None:
        """Write a cell without a time."""
        from google.cloud.bigtable.data import SetCell

        with self._errors():
            self._table.mutate_row(key, SetCell("0", column, value, timestamp_micros=0))

    def put(self, cells: Iterable[Cell]) -> None:
        """Write cells."""
        from google.cloud.bigtable.data import SetCell
        from google.cloud.bigtable.data.mutations import RowMutationEntry

        rows: defaultdict[int, list[Any]] = defaultdict(list)
        for node, column, value, ms in cells:
            rows[node].append(SetCell("0", column.encode(), value, timestamp_micros=1000 * ms))
        entries = [RowMutationEntry(*row) for row in zip(row_keys(as_ids(rows)), rows.values(), strict=True)]
        for first in range(0, len(entries), ROWS):
            with self._errors():
                self._table.bulk_mutate_rows(entries[first : first + ROWS])

    def take(self, counter: bytes, count: int = 1) -> int:
        """Reserve ``count`` numbers of a counter, from 1; return the last."""
        from google.cloud.bigtable.data.read_modify_write_rules import IncrementRule

        with self._errors():
            row = self._table.read_modify_write_row(counter, IncrementRule(*_COUNTER, count))
        return int.from_bytes(row.cells[0].value, "big")

    def take_once(self, counter: bytes, count: int) -> None:
        """Reserve the first ``count`` numbers of a counter, unless an earlier attempt did."""
        with self._errors():
            used = self._table.read_row(counter) is not None
        if count and not used:
            self.take(counter, count)

    def new_nodes(self, chunk_id: int, count: int) -> list[int]:
        """Reserve ids for a chunk's new L2 nodes."""
        last = self.take(node_counter(chunk_id), count)
        return [chunk_id + number for number in range(last - count + 1, last + 1)]

    def new_roots(self, layers: int, count: int) -> list[int]:
        """Reserve ids for new roots."""
        last = self.take(root_counter(layers), count)
        return [root_id(layers, number) for number in range(last - count + 1, last + 1)]

    def newest(self, ids: Ids, column: str) -> dict[int, Ids]:
        """Return the ids in the newest cell of a column, by node; nodes without a cell are left out."""
        from google.cloud.bigtable.data import ReadRowsQuery
        from google.cloud.bigtable.data import row_filters as f

        name = column.encode()
        newest = f.RowFilterChain(filters=[f.ColumnRangeFilter("0", name, name), f.CellsColumnLimitFilter(1)])
        with self._errors():
            rows = self._table.read_rows(ReadRowsQuery(row_keys=row_keys(ids), row_filter=newest))
        nodes = ids_of_row_keys([row.row_key for row in rows]).tolist()
        return {
            node: decode_children(row.cells[0].value, 1 << 30) for node, row in zip(nodes, rows, strict=True)
        }

    def roots(self, nodes: Ids) -> dict[int, int]:
        """Return the root of each of these L2 nodes."""
        return {node: int(root[0]) for node, root in self.newest(nodes, PARENTS).items()}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from google.cloud.bigtable.data.exceptions import MutationsExceptionGroup

        from ...store.bigtable.calls import reason

        try:
            with graph_errors(self.url):
                yield
        except MutationsExceptionGroup as error:
            raise GraphError(f"cannot write {self.url}: {reason(error)}") from error


def node_counter(chunk_id: int) -> bytes:
    """Return the key of a chunk's node counter."""
    return b"i%0*d" % (KEY_DIGITS, chunk_id)


def root_counter(layers: int) -> bytes:
    """Return the key of the root counter."""
    return b"i%0*d_0" % (KEY_DIGITS, layers << LAYER_SHIFT)


def root_id(layers: int, number: int) -> int:
    return (layers << LAYER_SHIFT) + number * ROOT_STEP


def make_graph(sample: Sample, watershed: str) -> bool:
    """Write a sample's graph into its table; return False where it exists.

    Raises ConfigError for a table with other contents, and GraphError.
    """
    with closing(SampleTable(str(sample.graph))) as table:
        title = sample.title.encode()
        if table.create():
            table.set(_MARK, _TITLE, title)
        marks = table.marks()
        if marks.get(_TITLE) != title:
            what = f"is {marks[_TITLE].decode()!r}" if _TITLE in marks else "is not a sample's"
            raise ConfigError(f"graph {sample.graph}: a table exists that {what}: choose another")
        if _COMPLETE in marks:
            return False
        name = parse_graph_url(table.url)[2]
        table.set(b"meta", b"meta", graph_meta(sample.geometry, name, n_layers(sample.geometry), watershed))
        table.put(_first_cells(table, sample))
        table.set(_MARK, _COMPLETE, b"1")
        return True


def open_sample_table(url: str) -> SampleTable:
    """Open a sample's graph table. Raises ConfigError for any other graph, and GraphError."""
    table = SampleTable(url) if url.startswith("bigtable://") else None
    if table is None or _COMPLETE not in table.marks():
        if table:
            table.close()
        raise ConfigError(
            f"graph {url}: not a sample's graph: expected one made by "
            "`l2features sample FOLDER --graph bigtable://project/instance/table`"
        )
    return table


def _first_cells(table: SampleTable, sample: Sample) -> Iterator[Cell]:
    """Yield the cells of a sample's nodes and roots; reserve their numbers unless an earlier attempt did."""
    ms, geometry = int(MADE.timestamp() * 1000), sample.geometry
    nodes: defaultdict[int, list[int]] = defaultdict(list)
    for chunk in sample_chunks(sample):
        chunk_id = geometry.chunk_id(chunk.chunk)
        own: defaultdict[int, list[int]] = defaultdict(list)
        for supervoxel, owner in chunk.objects.items():
            own[owner].append(supervoxel)
        for number, (owner, supervoxels) in enumerate(sorted(own.items()), 1):
            nodes[owner].append(chunk_id + number)
            yield from node_cells(chunk_id + number, as_ids(supervoxels), ms)
        table.take_once(node_counter(chunk_id), len(own))
    layers = n_layers(geometry)
    for number, (_, of_root) in enumerate(sorted(nodes.items()), 1):
        yield from node_cells(root_id(layers, number), as_ids(of_root), ms)
    table.take_once(root_counter(layers), len(nodes))
