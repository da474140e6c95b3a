"""Neuroglancer's list of segments, ``neuroglancer_segment_properties``, made from summaries of roots."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..core.ids import Ids


class _Column(NamedTuple):
    name: str
    data_type: str
    measure: str
    scale: float
    description: str


COLUMNS = (
    _Column("volume_um3", "float32", "size_nm3", 1e-9, "volume (um^3)"),
    _Column("area_um2", "float32", "area_nm2", 1e-6, "surface area (um^2)"),
    _Column("cable_length_um", "float32", "cable_length_nm", 1e-3, "path length of the skeleton (um)"),
    _Column("n_nodes", "uint32", "n_nodes", 1, "L2 nodes"),
    _Column("n_missing", "uint32", "n_missing", 1, "nodes whose features have not been computed: not drawn"),
    _Column("n_empty", "uint32", "n_empty", 1, "nodes that could not be computed: not drawn"),
)


def segment_list(roots: Ids, summaries: np.ndarray) -> dict[str, Any]:
    """Return the ``info`` file of roots (R,) with their summaries (R,).

    Summaries of dtype `GRAPH_SUMMARIES` give all columns. Those of dtype `SUMMARIES` have no cable length.
    """
    properties = []
    for name, data_type, measure, scale, description in COLUMNS:
        if measure not in (summaries.dtype.names or ()):
            continue
        values = (summaries[measure] * scale).astype(data_type)
        properties.append(
            {
                "id": name,
                "type": "number",
                "data_type": data_type,
                "description": description,
                "values": values.tolist(),
            }
        )
    ids = roots.astype(str).tolist()
    return {"@type": "neuroglancer_segment_properties", "inline": {"ids": ids, "properties": properties}}
