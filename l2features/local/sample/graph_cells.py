"""A synthetic graph's cells, edits with their messages, and meta."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import zstandard

from ...core.geometry import Geometry
from ...core.ids import Ids, as_ids, to_bytes
from ...messages.decoding import Message

BITS = 10
"""Bits per axis in ids of layers 1 and 2, as in PyChunkedGraph."""
LAYER_SHIFT = 56
CHILDREN, PARENTS = "children", "parents"
_META = b"cpychunkedgraph.graph.meta\n%b\n"
_NEW_OBJECT, _PAIR, _STATE = b"\x81", b"\x86", b"}(%bub"


class Cell(NamedTuple):
    """A cell of a graph's table: row id, column of family 0, value, and when it became valid."""

    node: int
    column: str
    value: bytes
    ms: int


@dataclass(frozen=True)
class Edit:
    """A proofreading operation: its new nodes and roots, and the cells to write."""

    operation_id: int
    new_l2_ids: tuple[int, ...]
    new_root_ids: tuple[int, ...]
    old_root_ids: tuple[int, ...]
    cells: tuple[Cell, ...]

    def message(self, table_id: str, high: bool = True) -> Message:
        """Return the message that PyChunkedGraph publishes."""
        edit = {
            "operation_id": self.operation_id,
            "new_lvl2_ids": list(self.new_l2_ids),
            "new_root_ids": list(self.new_root_ids),
            "old_root_ids": list(self.old_root_ids),
        }
        priority = "true" if high else "false"
        attributes = {"table_id": table_id, "user_id": "0", "remesh_priority": priority, "remesh": "true"}
        return Message(pickle.dumps(edit, protocol=4), attributes)


def n_layers(geometry: Geometry) -> int:
    """Return the layer of the roots."""
    return 2 + max(1, (max(geometry.grid) - 1).bit_length())


def node_cells(node: int, children: Ids, ms: int) -> list[Cell]:
    """Return the cells of a node's children, and of the node as their parent."""
    value = zstandard.compress(to_bytes(children))
    parent = to_bytes(as_ids([node]))
    return [Cell(node, CHILDREN, value, ms), *(Cell(i, PARENTS, parent, ms) for i in children.tolist())]


def graph_meta(
    geometry: Geometry,
    name: str,
    layers: int,
    watershed: str,
    mip: int = 0,
    custom_data: dict[str, object] | None = None,
) -> bytes:
    """Return the cell ``meta`` of a graph's table: a pickled ChunkedGraphMeta, made without its class."""
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
    """Return a value's pickle without its frame."""
    return pickle.dumps(value, protocol=2)[2:-1]
