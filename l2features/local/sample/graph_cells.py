"""Cells and metadata of a synthetic graph's table; edits of the graph, and their Pub/Sub messages."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import zstandard

from ...core.geometry import Geometry
from ...core.ids import Ids, as_ids, to_bytes
from ...messages.decoding import Message

BITS = 10
"""Bits per axis in ids of layers 1 and 2, as in PyChunkedGraph."""
LAYER_SHIFT = 56
CHILDREN, PARENTS = "children", "parents"
FORMER, NEW, OPERATION = "former_parents", "new_parents", "operation_id"
"""Columns of a root: predecessors, successors, and the operations that made and retired it."""
CROSS_EDGES, EDGE_FAMILY = "atomic_cross_edges_", "3"
FAKE_EDGES, FAKE_PREFIX = "fake_edges", b"f"
USER = "0"
_META = b"cpychunkedgraph.graph.meta\n%b\n"
_NEW_OBJECT, _PAIR, _STATE = b"\x81", b"\x86", b"}(%bub"


class Cell(NamedTuple):
    """A cell of a graph's table; ``ms`` is its timestamp in milliseconds since 1970.

    The row key consists of ``prefix`` and the id ``node``.
    """

    node: int
    column: str
    value: bytes
    ms: int
    family: str = "0"
    prefix: bytes = b""


class OperationStatus(IntEnum):
    """Status of an operation in PyChunkedGraph's operation log."""

    SUCCESS = 0
    CREATED = 1
    WRITE_STARTED = 3


@dataclass(frozen=True)
class Edit:
    """A proofreading operation: its new nodes and roots, and the cells to write.

    ``ms`` is the time of the operation, in milliseconds since 1970. ``added_edges`` and ``removed_edges`` are
    pairs of supervoxels.
    """

    operation_id: int
    new_l2_ids: tuple[int, ...]
    new_root_ids: tuple[int, ...]
    old_root_ids: tuple[int, ...]
    cells: tuple[Cell, ...]
    ms: int = 0
    added_edges: tuple[tuple[int, int], ...] = ()
    removed_edges: tuple[tuple[int, int], ...] = ()

    def message(self, table_id: str, high: bool = True) -> Message:
        """Return PyChunkedGraph's message about this edit; ``high`` requests a high remesh priority."""
        edit = {
            "operation_id": self.operation_id,
            "new_lvl2_ids": list(self.new_l2_ids),
            "new_root_ids": list(self.new_root_ids),
            "old_root_ids": list(self.old_root_ids),
        }
        priority = "true" if high else "false"
        attributes = {"table_id": table_id, "user_id": "0", "remesh_priority": priority, "remesh": "true"}
        return Message(pickle.dumps(edit, protocol=4), attributes)

    def log(self, status: OperationStatus, ms: int) -> Iterator[Cell]:
        """Yield the cells, with timestamp ``ms``, that record a status in this operation's row of the log."""
        time = datetime.fromtimestamp(self.ms / 1000, UTC)
        roots = () if status is OperationStatus.CREATED else self.new_root_ids
        columns = {
            "operation_status": pickle.dumps(int(status), protocol=4),
            "operation_exception": b"",
            "operation_ts": pickle.dumps(time, protocol=4),
        }
        columns_2 = {"user": USER.encode(), "roots": id_bytes(roots)}
        for name, edges in (("added_edges", self.added_edges), ("removed_edges", self.removed_edges)):
            if edges:
                columns_2[name] = id_bytes(np.array(edges, dtype=np.uint64))
        for family, values in (("0", columns), ("2", columns_2)):
            for name, value in values.items():
                yield Cell(self.operation_id, name, value, ms, family)


def n_layers(geometry: Geometry) -> int:
    """Return the layer of the roots."""
    return 2 + max(1, (max(geometry.grid) - 1).bit_length())


def node_cells(node: int, children: Ids, ms: int) -> list[Cell]:
    """Return the cell with a node's children, and for each child the cell with the node as its parent."""
    value = zstandard.compress(to_bytes(children))
    parent = to_bytes(as_ids([node]))
    return [Cell(node, CHILDREN, value, ms), *(Cell(i, PARENTS, parent, ms) for i in children.tolist())]


def cross_edge_cells(nodes: Ids, pairs: Ids, layers: npt.NDArray[np.int64], ms: int) -> Iterator[Cell]:
    """Yield the cells of cross-chunk edges.

    Args:
        nodes: the L2 node of each edge, (n,).
        pairs: supervoxels of each edge, (n, 2); the first of a pair is in the node.
        layers: the layer of each edge, (n,).
        ms: timestamp of the cells in milliseconds since 1970.
    """
    order = np.lexsort((pairs[:, 1], pairs[:, 0], layers, nodes))
    nodes, pairs, layers = nodes[order], pairs[order], layers[order]
    changes = (nodes[1:] != nodes[:-1]) | (layers[1:] != layers[:-1])
    starts = np.flatnonzero(np.concatenate([[len(nodes) > 0], changes]))
    for start, own in zip(starts.tolist(), np.split(pairs, starts)[1:], strict=True):
        value = zstandard.compress(to_bytes(own))
        yield Cell(int(nodes[start]), f"{CROSS_EDGES}{layers[start]}", value, ms, EDGE_FAMILY)


def fake_edge_cell(chunk_id: int, edge: tuple[int, int], ms: int) -> Cell:
    """Return the cell of a fake edge: a merge's edge between supervoxels of a chunk that need not touch."""
    return Cell(chunk_id, FAKE_EDGES, id_bytes(edge[::-1]), ms, EDGE_FAMILY, FAKE_PREFIX)


def root_cells(new: Sequence[int], old: Sequence[int], operation: int, ms: int) -> Iterator[Cell]:
    """Yield cells with the new roots' predecessors, the old roots' successors, and the operation's id."""
    by = b"%020d" % operation
    for roots, column, others in ((new, FORMER, sorted(old)), (old, NEW, new)):
        for root in roots:
            yield Cell(root, column, id_bytes(others), ms)
            yield Cell(root, OPERATION, by, ms)


def id_bytes(ids: Sequence[int] | Ids) -> bytes:
    return to_bytes(as_ids(ids))


def graph_meta(
    geometry: Geometry,
    name: str,
    layers: int,
    watershed: str,
    mip: int = 0,
    custom_data: dict[str, object] | None = None,
) -> bytes:
    """Return the value of a graph table's cell ``meta``: a pickled ChunkedGraphMeta of PyChunkedGraph.

    The pickle is written without importing the class.
    """
    config = (name, "", list(geometry.chunk_size), 2, 8, BITS, False, timedelta(minutes=3), 8)
    source = ("", "", watershed, layers, mip)
    parts = (_instance(b"GraphConfig", config), _instance(b"DataSource", source))
    values = zip(
        ("graph_config", "data_source", "custom_data"), (*parts, _pickled(custom_data or {})), strict=True
    )
    state = b"".join(_pickled(name) + value for name, value in values)
    made = _META % b"ChunkedGraphMeta" + b"".join(parts) + _PAIR + _NEW_OBJECT
    return b"\x80\x02" + made + _STATE % state + b"."


def _instance(name: bytes, arguments: tuple[object, ...]) -> bytes:
    return _META % name + _pickled(arguments) + _NEW_OBJECT


def _pickled(value: object) -> bytes:
    """Return a value's pickle without the protocol opcode at its start and the STOP opcode at its end."""
    return pickle.dumps(value, protocol=2)[2:-1]
