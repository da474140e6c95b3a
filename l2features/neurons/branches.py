"""The loop of `forest.cover`: paths from nodes of a graph to the nearest of earlier paths.

A server compiles it beforehand. Elsewhere it runs on memory views, since numba takes a second to import.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import numpy as np

from .node_graph import Edges

_compiled: list[Callable[..., int]] = []
"""`extend` as `warm_up` compiled it."""


def add_branches(graph: Any, reached: Any, order: np.ndarray, invalidation_nm: float) -> Edges:
    """Return the edges (m, 2) of new paths; each joins a node, in this order, to the nearest earlier path.

    A node within ``invalidation_nm`` of a path begins no path. ``reached`` is updated in place.
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
    """Write the edges of `add_branches` to ``child`` and ``parent``; returns their number.

    A compiled loop, since the searches are short, and each call of scipy would allocate arrays for all nodes.
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
    """Compile the loop or load it from numba's cache, for all later calls of this process."""
    from ..core.jit import compiled

    loop = compiled(extend)
    i4, i8, f8 = (np.zeros(1, dtype=name) for name in ("i4", "i8", "f8"))
    loop(0.0, np.zeros(2, dtype="i8"), i8, f8, i8[:0], f8, i4, i4, i8, i8)
    _compiled[:] = [loop]
