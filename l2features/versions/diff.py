"""The differences between two versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .columns import L2_ID, ROOT_ID
from .lookup import VersionReader
from .merging import aligned, merged
from .parquet_files import Int64s


class RootDifference(NamedTuple):
    """Roots that only one of two versions has, sorted."""

    only_a: Int64s
    only_b: Int64s


class NodeDifference(NamedTuple):
    """Sorted nodes whose root differs between two versions, and their roots.

    A root is 0 if the version has no such node.
    """

    nodes: Int64s
    roots_a: Int64s
    roots_b: Int64s


def root_differences(a: VersionReader, b: VersionReader) -> Iterator[RootDifference]:
    """Yield the roots that only one of two versions has, sorted, in parts."""
    for of_a, of_b in aligned([merged(reader, "roots", [ROOT_ID]) for reader in (a, b)]):
        roots_a, roots_b = of_a[:, 0], of_b[:, 0]
        only_a = np.setdiff1d(roots_a, roots_b, assume_unique=True)
        yield RootDifference(only_a, np.setdiff1d(roots_b, roots_a, assume_unique=True))


def node_differences(a: VersionReader, b: VersionReader) -> Iterator[tuple[int, NodeDifference]]:
    """Yield the nodes whose root differs between two versions, sorted, in parts.

    Each part is a tuple: how many rows of the two versions were compared in the part; the differences.
    """
    for parts in aligned([merged(reader, "by_node", [L2_ID, ROOT_ID]) for reader in (a, b)]):
        nodes = np.union1d(*(part[:, 0] for part in parts))
        roots_a, roots_b = (_roots_of(nodes, part) for part in parts)
        other = roots_a != roots_b
        yield sum(map(len, parts)), NodeDifference(nodes[other], roots_a[other], roots_b[other])


def _roots_of(nodes: Int64s, rows: Int64s) -> Int64s:
    """Return the root of each node, or 0 for a node without a row; ``rows`` (m, 2) are pairs (node, root)."""
    roots = np.zeros(len(nodes), dtype=np.int64)
    if len(rows):
        roots[np.searchsorted(nodes, rows[:, 0])] = rows[:, 1]
    return roots
