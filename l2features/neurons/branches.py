"""The inner loop of `forest.cover`: paths that join uncovered nodes of a graph to the paths found so far.

The HTTP API compiles the loop when it starts. Other programs run it uncompiled, because numba takes a
second to import. Uncompiled, it reads memory views, which Python indexes faster than arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import numpy as np

from .node_graph import Edges

_compiled: list[Callable[..., int]] = []
"""`extend`, compiled by `warm_up`; empty before."""


def add_branches(graph: Any, reached: Any, order: np.ndarray, invalidation_nm: float) -> Edges:
    """Return the edges (m, 2) of new paths. Each is (node, next node), directed towards an earlier path.

    For each node in ``order`` that is farther than ``invalidation_nm`` from all paths, a new path joins the
    node to the nearest path. ``reached`` (`forest.Reached` from the earlier paths) is updated in place.
    """
    edges = np.empty((2, len(reached.distance)), dtype=np.int64)
    row, column = (array.astype(np.int64, copy=False) for array in (graph.indptr, graph.indices))
    arrays = row, column, graph.data, order, *reached, *edges
    if _compiled:
        n = _compiled[0](invalidation_nm, *arrays)
    else:
        n = extend(invalidation_nm, *(array.data for array in arrays))
    return edges[:, :n].T


def extend(
    invalidation_nm: float,
    row: Any,
    column: Any,
    length: Any,
    order: Any,
    distance: Any,
    before: Any,
    source: Any,
    child: Any,
    parent: Any,
) -> int:
    """Write the edges of `add_branches` to ``child`` and ``parent``, and return the number of edges.

    A loop instead of scipy: the searches are short, and each scipy call would allocate arrays for all nodes.
    """
    n, heap = 0, [(0.0, 0)]
    heap.pop()
    for i in range(len(order)):
        node = order[i]
        if distance[node] <= invalidation_nm:
            continue
        while before[node] >= 0:
            above = before[node]
            child[n], parent[n] = node, above
            distance[node], before[node], source[node] = 0.0, -1, node
            heappush(heap, (0.0, node))
            node = above
            n += 1
        while heap:
            near, node = heappop(heap)
            if near > distance[node]:
                continue
            for k in range(row[node], row[node + 1]):
                far, other = near + length[k], column[k]
                if far < distance[other]:
                    distance[other], before[other], source[other] = far, node, source[node]
                    heappush(heap, (far, other))
    return n


def warm_up() -> None:
    """Compile `extend`, or load it from numba's cache, for all later calls of `add_branches`."""
    from ..core.jit import compiled

    loop = compiled(extend)
    i4, i8, f8 = (np.zeros(1, dtype=name) for name in ("i4", "i8", "f8"))
    loop(0.0, np.zeros(2, dtype="i8"), i8, f8, i8[:0], f8, i4, i4, i8, i8)
    _compiled[:] = [loop]
