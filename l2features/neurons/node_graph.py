"""The L2 graph of one root: its nodes with features, positions and edges."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..core.errors import GraphError
from ..core.geometry import Geometry
from ..core.ids import L2, Ids
from ..core.rows import Rows, served_column
from ..graph.base import Pairs
from ..query.reader import Answer, Status

Edges = npt.NDArray[np.int64]
"""Pairs of indices of nodes or vertices, shape (m, 2)."""
Positions = npt.NDArray[np.float64]
"""Positions in nm, shape (n, 3)."""
INTERPOLATION_ROUNDS = 10
"""Maximum rounds of interpolation in `place_nodes`, as in pcg_skel."""


@dataclass(frozen=True)
class NeuronGraph:
    """The L2 graph of a root.

    ``node_ids`` (n,) are sorted. ``edges`` (m, 2) are pairs of indices of nodes, the lower index first,
    unique and sorted. ``rows`` (n,) are the nodes' rows in the table, ``status`` (n,) is each node's status.
    """

    root_id: int
    node_ids: Ids
    edges: Edges
    rows: Rows
    status: npt.NDArray[np.int8]
    geometry: Geometry

    @classmethod
    def of(
        cls,
        root_id: int,
        node_ids: Ids,
        pairs: Pairs,
        rows: Rows,
        status: npt.NDArray[np.int8],
        geometry: Geometry,
    ) -> NeuronGraph:
        """Return the L2 graph of a root; ``pairs`` (m, 2) are the edges as pairs of L2 ids.

        Raises GraphError for a node that is not in layer 2, and for an edge to an id not in ``node_ids``.
        """
        layers = geometry.layout.layers(node_ids)
        if (layers != L2).any():
            node, layer = int(node_ids[layers != L2][0]), int(layers[layers != L2][0])
            raise GraphError(f"root {root_id} has node {node} of layer {layer}: expected layer {L2}")
        return cls(root_id, node_ids, edge_indices(root_id, node_ids, pairs), rows, status, geometry)

    def __len__(self) -> int:
        return len(self.node_ids)

    @property
    def missing(self) -> Ids:
        """Sorted nodes whose features have not been computed yet."""
        return Answer(self.rows, self.status).missing

    @cached_property
    def component(self) -> npt.NDArray[np.int64]:
        """Connected component of each node, (n,), numbered from 0 by descending size; ties by lowest id."""
        from .forest import components

        return components(self.edges, len(self)).of_node

    @property
    def positions(self) -> Positions:
        """Position of each node in nm, (n, 3): see `place_nodes`."""
        return self._placed[0]

    @property
    def interpolated(self) -> npt.NDArray[np.bool_]:
        """Which nodes have no representative coordinate, so that their position is interpolated, (n,)."""
        return self._placed[1]

    @cached_property
    def _placed(self) -> tuple[Positions, npt.NDArray[np.bool_]]:
        return place_nodes(self.rows, self.status, self.edges, self.geometry)


def edge_indices(root_id: int, node_ids: Ids, pairs: Pairs) -> Edges:
    """Convert edges from pairs of L2 ids, (m, 2), to pairs of indices into the sorted ``node_ids``.

    Raises GraphError for an edge to an id that is not in ``node_ids``.
    """
    edges = np.searchsorted(node_ids, pairs)
    unknown = np.append(node_ids, np.uint64(0))[edges] != pairs
    if unknown.any():
        raise GraphError(
            f"root {root_id} has an edge to node {pairs[unknown][0]}: expected edges between the root's nodes"
        )
    return edges


def place_nodes(
    rows: Rows, status: npt.NDArray[np.int8], edges: Edges, geometry: Geometry
) -> tuple[Positions, npt.NDArray[np.bool_]]:
    """Return a tuple: the position of each node in nm, (n, 3); which positions are interpolated, (n,).

    As in pcg_skel, nodes without a representative coordinate are placed in rounds. In each round, a node
    with edges to placed nodes is placed at the mean of their positions. If it has only one edge, 1 nm is
    added to z. Nodes not placed after `INTERPOLATION_ROUNDS` rounds are placed at the centre of their chunk.
    """
    positions, present = served_column(rows, geometry, "rep_coord_nm")
    known = present & (status == Status.READY)
    interpolated = ~known
    one, other = np.concatenate([edges, edges[:, ::-1]])[interpolated[np.concatenate(edges.T)]].T
    alone = np.bincount(one, minlength=len(rows)) == 1
    for _ in range(INTERPOLATION_ROUNDS):
        helped = ~known[one] & known[other]
        if not helped.any():
            break
        at, near = one[helped], positions[other[helped]]
        count = np.bincount(at, minlength=len(rows))
        new = np.flatnonzero(count)
        sums = [np.bincount(at, near[:, axis], len(rows))[new] for axis in range(3)]
        positions[new] = np.stack(sums, axis=1) / count[new, None]
        positions[new, 2] += alone[new]
        known[new] = True
    rest = np.flatnonzero(~known)
    origins = geometry.node_origins(rows.ids[rest])
    positions[rest] = (origins + np.array(geometry.chunk_size) / 2) * geometry.resolution
    return positions, interpolated
