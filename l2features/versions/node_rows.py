"""Arrays of nodes with their roots and features (`NODE_ROW`), from which a version's files are written."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..core.ids import Ids
from ..core.rows import Rows
from ..core.schema import FEATURES, NAMES, SIZE
from ..graph.base import NodeRoots
from ..query.reader import Status

NODE_ROW = np.dtype(
    [("root", "<u8"), ("missing", "?"), ("present", "?", (len(NAMES),)), ("features", FEATURES)]
)
"""Dtype of a node: its root, whether the store lacks its row, which attributes are present, the row."""


class StatedRows(NamedTuple):
    """Features of nodes (n,), and the `Status` of each."""

    rows: Rows
    status: np.ndarray


def blank(nodes: NodeRoots) -> np.ndarray:
    """Return nodes (n,) as `NODE_ROW`, all marked as missing; `put_rows` fills in their features."""
    out = np.zeros(len(nodes.l2_ids), dtype=NODE_ROW)
    out["root"], out["features"]["label"], out["missing"] = nodes.roots, nodes.l2_ids, True
    return out


def put_rows(nodes: np.ndarray, rows: Rows) -> None:
    """Copy features from ``rows``, sorted by id, to nodes (dtype `NODE_ROW`).

    Nodes without features in ``rows`` stay missing.
    """
    if not len(rows) or not len(nodes):
        return
    ids = labels(nodes)
    at = np.searchsorted(rows.ids, ids).clip(max=len(rows) - 1)
    known = (rows.ids[at] == ids) & rows.found[at]
    nodes["features"][known] = rows.features[at[known]]
    nodes["present"][known] = rows.present[at[known]]
    nodes["missing"] = ~known


def stated(nodes: np.ndarray) -> StatedRows:
    """Return the features and status of nodes. A node stored with size 0 is EMPTY and has no attributes."""
    rows = Rows(np.ascontiguousarray(nodes["features"]), np.ascontiguousarray(nodes["present"]))
    empty = ~nodes["missing"] & (rows.features[SIZE] == 0)
    rows.present[empty] = False
    status = np.select(
        [nodes["missing"], empty], [np.int8(Status.MISSING), np.int8(Status.EMPTY)], np.int8(Status.READY)
    )
    return StatedRows(rows, status)


def labels(nodes: np.ndarray) -> Ids:
    """Return the L2 ids of nodes."""
    return np.ascontiguousarray(nodes["features"]["label"])
