"""The viewer's layer ``skeletons``, whose vertices have features of their L2 nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.rows import served_column
from ..neurons.node_graph import NeuronGraph
from ..neurons.skeleton import skeletonize
from ..neurons.skeleton_files import precomputed_bytes, precomputed_info
from ..query.reader import Status

VERTEX_ATTRIBUTES = {
    "radius": "radius of the vertex's unbranched segment (nm): sqrt(V / (pi L)), volume V, length L",
    "max_dt_nm": "max_dt_nm of the vertex's node",
    "size": "volume of the vertex's node (nm^3)",
    "area": "area of the vertex's node (nm^2)",
}
"""The attributes of each vertex, float32; 0 if unknown."""
_OF_NODES = {"max_dt_nm": "max_dt_nm", "size": "size_nm3", "area": "area_nm2"}


def skeleton_info() -> dict[str, Any]:
    """Return the ``info`` file of the layer ``skeletons``. Coordinates are in nm."""
    return precomputed_info(tuple(VERTEX_ATTRIBUTES))


def skeleton_bytes(graph: NeuronGraph) -> bytes:
    """Return the skeleton of a root's graph as a precomputed file with `VERTEX_ATTRIBUTES`.

    The skeleton is made with the default settings of `skeletonize`.
    """
    skeleton, columns = skeletonize(graph), {}
    places = np.searchsorted(graph.node_ids, skeleton.l2_ids)
    columns["radius"] = skeleton.segment_radius_nm
    for name, attribute in _OF_NODES.items():
        values, present = served_column(graph.rows, graph.geometry, attribute)
        known = present & (graph.status == Status.READY)
        columns[name] = np.where(known, values, 0)[places]
    return precomputed_bytes(skeleton, [columns[name] for name in VERTEX_ATTRIBUTES])
