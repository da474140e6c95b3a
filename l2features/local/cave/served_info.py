"""The info that a graph server serves: the segmentation's info, with a description of the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.errors import GraphError, reason_of
from ...core.geometry import Geometry, as_triple
from ...core.ids import L2
from ...core.paths import parse_path
from ...core.transient import volume_error
from ...graph.base import GraphInfo
from ...volume.opening import find_info
from .cave_graph import CaveGraph

API_VERSIONS = (0, 1)
BOUNDING_BOX = (2048, 2048, 512)
"""A value that PyChunkedGraph writes in every info."""


def served_info(graph: CaveGraph, watershed: str | None = None) -> dict[str, Any]:
    """Return the info that a graph server serves; ``watershed`` replaces the segmentation's path.

    Raises GraphError if the graph names no segmentation, and VolumeError if the segmentation's info cannot be
    read.
    """
    described = graph.info()
    path = watershed or described.watershed
    if not path:
        raise GraphError(f"{graph.url}: the graph names no segmentation")
    try:
        location = parse_path(path)
        layer = find_info(location)[1]
        geometry = geometry_of(described, layer)
    except Exception as error:  # file systems and HTTP share no base class
        raise volume_error(f"cannot read the info of {path}: {reason_of(error)}", error) from error
    layout, top = geometry.layout, graph.top_layer(geometry)
    upper = {layer: max(1, top - layer) for layer in range(L2 + 1, top + 1)}
    bits = {1: layout.axis_bits(1)[0], L2: layout.axis_bits(L2)[0], **upper}
    return {
        **layer,
        "app": {"supported_api_versions": list(API_VERSIONS)},
        "chunks_start_at_voxel_offset": True,
        "data_dir": location.url,
        "graph": {
            "bounding_box": list(BOUNDING_BOX),
            "chunk_size": list(geometry.chunk_size),
            "cv_mip": described.mip or 0,
            "n_bits_for_layer_id": layout.layer_bits,
            "n_layers": top,
            "spatial_bit_masks": {str(layer): n for layer, n in bits.items()},
        },
        "sharded_mesh": True,
        "verify_mesh": False,
    }


def geometry_of(graph: GraphInfo, layer: Mapping[str, Any]) -> Geometry:
    """Return the geometry of a data set from its graph and the info of its segmentation, ``layer``."""
    scale = layer["scales"][graph.mip or 0]
    x, y, z = (float(n) for n in scale["resolution"])
    offset = as_triple(scale.get("voxel_offset") or (0, 0, 0))
    return Geometry((x, y, z), offset, as_triple(scale["size"]), graph.chunk_size, graph.layout)
