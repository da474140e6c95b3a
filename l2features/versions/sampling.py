"""Compare samples of a version's rows with the graph at its time, and with the table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from ..core.chunks import parse_box
from ..core.ids import Ids, as_ids, sorted_unique
from ..graph.base import Graph
from ..query.reader import Reader, Status
from .columns import L2_ID, MISSING, N_NODES, NODE_COLUMNS, ROOT_ID, node_table, unsigned
from .lookup import VersionReader
from .verify import Findings

NODES, ROOTS, GROUPS = 1_000, 20, 20
"""Numbers of nodes and of roots that are compared, and of row groups from which the nodes are taken."""
MOST_NODES = 40_000
"""Roots with more nodes are not compared."""


def verify_samples(
    version: VersionReader, table: Reader, graph: Graph, found: Findings, seed: int = 0
) -> int:
    """Compare random nodes and roots of a version with the graph and the table; return the number of nodes.

    The graph must agree on each node's root at the version's time, and on each root's nodes. Features must
    equal those in the table, except for nodes without features in the version. Differences are added to
    ``found``. Raises GraphError, StoreError and VersionError.
    """
    rng = np.random.default_rng(seed)
    nodes = _random_nodes(version, rng)
    rows = version.nodes(nodes).table
    _compare_features(rows, table, found)
    roots = unsigned(rows[ROOT_ID])
    now = graph.roots_of(table.geometry, unsigned(rows[L2_ID]), version.manifest.timestamp)
    for place in np.flatnonzero(now != roots).tolist():
        node = rows[L2_ID][place].as_py()
        found.add(f"node {node}: root is {roots[place]}, expected {now[place]} as in the graph")
    some = rng.permutation(np.unique(roots))[:ROOTS]
    _compare_roots(version, table, graph, sorted_unique(np.sort(some)), found)
    return len(rows)


def _random_nodes(version: VersionReader, rng: np.random.Generator) -> Ids:
    """Return about `NODES` random node ids from random row groups, sorted."""
    groups = [
        (file, layer, group)
        for layer, file in version.manifest.files("by_node")
        for group in range(len(version.files.footer(file).rows))
    ]
    chosen = rng.permutation(len(groups))[:GROUPS]
    nodes = as_ids([])
    for place in chosen.tolist():
        file, _, group = groups[place]
        (table,) = version.files.groups(file, [group], [L2_ID])
        some = rng.permutation(unsigned(table[L2_ID]))[: -(-NODES // len(chosen))]
        nodes = np.union1d(nodes, some)
    return nodes


def _compare_features(rows: Any, table: Reader, found: Findings) -> None:
    answer = table.read(unsigned(rows[L2_ID]))
    missing = np.isin(answer.status, (Status.MISSING, Status.FAILED))
    was_missing = rows[MISSING].to_numpy(zero_copy_only=False)
    for node in unsigned(rows[L2_ID])[missing & ~was_missing].tolist():
        found.add(f"node {node}: has a row in the version, but none in the table")
    expected = node_table(unsigned(rows[ROOT_ID]), answer.rows, missing, table.geometry)
    both = ~missing & ~was_missing
    for name in NODE_COLUMNS[2:-1]:
        was, now = rows[name].combine_chunks(), expected[name].combine_chunks()
        same = pc.or_(pc.fill_null(pc.equal(was, now), False), pc.and_(pc.is_null(was), pc.is_null(now)))
        for place in np.flatnonzero(~same.to_numpy(zero_copy_only=False) & both).tolist():
            where = f"node {rows[L2_ID][place].as_py()}: {name}"
            found.add(f"{where} is {was[place].as_py()}, expected {now[place].as_py()} as in the table")


def _compare_roots(version: VersionReader, table: Reader, graph: Graph, roots: Ids, found: Findings) -> None:
    summaries = version.roots(roots, [N_NODES]).table
    known, counts = unsigned(summaries[ROOT_ID]), summaries[N_NODES].to_numpy()
    for root in np.setdiff1d(roots, known).tolist():
        found.add(f"root {root}: has nodes, but no summary")
    known, counts = known[counts <= MOST_NODES], counts[counts <= MOST_NODES]
    rows = version.nodes_of(known, []).table
    owners, nodes = unsigned(rows[ROOT_ID]), unsigned(rows[L2_ID])
    in_graph = graph.root_nodes(table.geometry, known, MOST_NODES)
    for root, count in zip(known.tolist(), counts.tolist(), strict=True):
        own = nodes[owners == np.uint64(root)]
        found.expect(f"root {root}: n_nodes", count, len(own))
        if root in in_graph.too_large:
            continue
        expected = _in_box(version, table, in_graph.l2_ids.get(root, as_ids([])))
        if not np.array_equal(own, expected):
            found.add(f"root {root}: its {len(own)} nodes differ from the {len(expected)} nodes in the graph")


def _in_box(version: VersionReader, table: Reader, nodes: Ids) -> Ids:
    box = parse_box(version.manifest.box, table.geometry.grid)
    xyz = table.geometry.layout.chunk_coordinates(nodes)
    return nodes[((xyz >= box.start) & (xyz < box.stop)).all(axis=1)]
