"""Splits of synthetic neurons: an edge between two chunks is removed, which replaces a root by two roots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from benchmarks.synthetic_neurons import GEOMETRY, Neuron, put_cells, supervoxels_of
from l2features.core.ids import Ids, as_ids
from l2features.local.sample.graph_cells import Cell, Edit, OperationStatus, n_layers, node_cells, root_cells
from l2features.local.sample.graph_table import ROOT_STEP, node_id
from l2features.local.sample.hierarchy import cross_layers, parents_above

FIRST_NUMBER = 1 << 20
"""Number, within its chunk, of the first node that an edit creates; `make_neurons` uses smaller numbers."""
STEP_MS = 1_000


def split_neurons(url: str, neurons: Sequence[Neuron], after_ms: int) -> Ids:
    """Split the neurons, one per second after ``after_ms`` (ms since 1970); return the new L2 ids."""
    edits = [_split(neuron, i + 1, after_ms + (i + 1) * STEP_MS) for i, neuron in enumerate(neurons)]
    done = [edit for edit in edits if edit is not None]
    put_cells(
        url, (cell for edit in done for cell in (*edit.cells, *edit.log(OperationStatus.SUCCESS, edit.ms)))
    )
    return as_ids([node for edit in done for node in edit.new_l2_ids])


def _split(neuron: Neuron, operation: int, ms: int) -> Edit | None:
    """Return a split of the neuron at one edge.

    Of the edges whose removal disconnects the neuron, removes the one nearest to the middle of the array
    ``neuron.edges``. Returns None if every edge is part of a loop. ``ms`` is the time in ms since 1970.
    """
    cut = next((i for i in _from_the_middle(len(neuron.edges)) if _parts(neuron, i) > 1), None)
    if cut is None:
        return None
    ids, ends = neuron.l2_ids.copy(), neuron.edges[cut]
    layout = GEOMETRY.layout
    number = FIRST_NUMBER + 2 * operation
    ids[ends] = layout.chunk_ids(ids[ends]) + as_ids([number, number + 1])
    supervoxels = supervoxels_of(neuron.l2_ids)
    cells = [
        cell for end in ends.tolist() for cell in node_cells(int(ids[end]), supervoxels[end : end + 1], ms)
    ]
    rest = np.delete(neuron.edges, cut, axis=0)
    upper, roots = _upper(ids, supervoxels, rest, operation, ms)
    cells += [*upper, *root_cells(roots, [neuron.root], operation, ms)]
    return Edit(operation, tuple(ids[ends].tolist()), tuple(roots), (neuron.root,), tuple(cells), ms)


def _upper(
    ids: Ids, supervoxels: Ids, edges: npt.NDArray[np.int64], operation: int, ms: int
) -> tuple[list[Cell], list[int]]:
    """Return the graph's cells of all nodes above these L2 nodes, and the roots of these L2 nodes."""
    top, roots, cells = n_layers(GEOMETRY), list[int](), list[Cell]()
    numbers = iter(range(FIRST_NUMBER + operation * ROOT_STEP, FIRST_NUMBER + (operation + 1) * ROOT_STEP))

    def name(chunk_id: int, _children: Ids) -> int:
        return node_id(chunk_id, next(numbers), top)

    layers = cross_layers(GEOMETRY, supervoxels[edges])
    for parent, below in parents_above(GEOMETRY, np.sort(ids), ids[edges], layers, name):
        cells += node_cells(parent, below, ms)
        if parent >> (64 - GEOMETRY.layout.layer_bits) == top:
            roots.append(parent)
    return cells, roots


def _from_the_middle(n: int) -> list[int]:
    return sorted(range(n), key=lambda i: abs(i - n // 2))


def _parts(neuron: Neuron, cut: int) -> int:
    """Return the number of connected components of a neuron without its edge number ``cut``."""
    n, edges = len(neuron.l2_ids), np.delete(neuron.edges, cut, axis=0)
    matrix = coo_array((np.ones(len(edges)), edges.T), shape=(n, n))
    return int(connected_components(matrix, directed=False, return_labels=False))
