"""What a graph says of itself: in the meta of its table, or in the info that its server answers with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.errors import GraphError
from ..core.geometry import Triple, as_triple
from ..core.ids import L2, IdLayout
from ..core.unpickle import GRAPH_META, plain_loads
from .table import graph_errors, open_graph_table

LAYER_BITS = 8
SPATIAL_BITS = 10
"""PyChunkedGraph's defaults."""
_CHUNK_SIZE, _LAYER_BITS, _SPATIAL_BITS = 2, 4, 5
"""Fields of a GraphConfig."""
_WATERSHED, _CV_MIP = 2, 4
"""Fields of a DataSource."""


@dataclass(frozen=True)
class Bounds:
    """Resolution in nm, and offset and size in voxels, of one scale of a segmentation."""

    resolution: tuple[float, float, float]
    voxel_offset: Triple
    voxel_size: Triple

    def __str__(self) -> str:
        resolution, offset, size = (
            "x".join(f"{n:g}" for n in part) for part in (self.resolution, self.voxel_offset, self.voxel_size)
        )
        return f"{size} voxels of {resolution} nm from {offset}"


@dataclass(frozen=True)
class GraphInfo:
    """A graph's chunks and ids, and the segmentation that it was made of.

    ``mip`` is the scale of the segmentation at ``watershed``; each is None where the graph does not say it.
    ``scales`` are the bounds of all its scales, as far as the graph has them. ``ocdbt`` tells that the
    supervoxels live in an OCDBT fork of it.
    """

    chunk_size: Triple
    layout: IdLayout
    mip: int | None = None
    watershed: str | None = None
    scales: tuple[Bounds, ...] = ()
    ocdbt: bool = False


def read_graph_info(url: str) -> GraphInfo:
    """Return what a graph's table says, of either schema. Raises GraphError."""
    from google.cloud.bigtable.data import ReadRowsQuery

    table = open_graph_table(url)
    with graph_errors(url), closing(table.client):
        rows = table.read_rows(ReadRowsQuery(row_keys=[b"meta", b"params"]))
    cells = {cell.qualifier: cell.value for row in rows for cell in reversed(row.cells)}
    try:
        return info_of_meta(cells[b"meta"]) if b"meta" in cells else _info_v1(cells)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise GraphError(
            f"{url}: the table does not describe a graph of PyChunkedGraph 1 or 2: {error!r}"
        ) from error


def server_info(info: Mapping[str, Any], path: str) -> GraphInfo:
    """Return what a graph's server says in its info. Raises GraphError that names a key which is missing."""
    try:
        graph = info["graph"]
        masks = {int(layer): int(bits) for layer, bits in graph["spatial_bit_masks"].items()}
        layer_bits = int(graph.get("n_bits_for_layer_id") or LAYER_BITS)
        return GraphInfo(
            as_triple(graph["chunk_size"]),
            IdLayout({layer: bits for layer, bits in masks.items() if layer > 0}, layer_bits),
            int(graph.get("cv_mip") or 0),
            info.get("data_dir"),
            ocdbt=any(part.get(key) for part in (info, graph) for key in ("ocdbt_seg", "ocdbt_kvstore_spec")),
        )
    except KeyError as error:
        raise GraphError(
            f"{path}: the info of its server has no key {error}: expected that of a graph"
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise GraphError(f"{path}: the info of its server is not that of a graph: {error}") from error


def info_of_meta(meta: bytes) -> GraphInfo:
    """What a pickled ChunkedGraphMeta says. Raises ValueError, TypeError, AttributeError or IndexError."""
    made = plain_loads(meta, GRAPH_META)
    config, source = (part.args for part in made.args[:2])
    bits = _field(config, _SPATIAL_BITS, SPATIAL_BITS)
    return GraphInfo(
        as_triple(config[_CHUNK_SIZE]),
        IdLayout({1: bits, L2: bits}, _field(config, _LAYER_BITS, LAYER_BITS)),
        _field(source, _CV_MIP, 0),
        source[_WATERSHED] if len(source) > _WATERSHED else None,
        ocdbt=_names_ocdbt((made.state or {}).get("custom_data") or {}),
    )


def _names_ocdbt(custom: Mapping[str, Any]) -> bool:
    """Whether PyChunkedGraph takes the supervoxels from an OCDBT fork, by its newer or its older setting."""
    config = custom.get("ocdbt_config")
    if config is not None:
        return bool(config.get("enabled"))
    return bool(custom.get("ocdbt_seg") or (custom.get("seg") or {}).get("ocdbt"))


def _field(values: tuple[Any, ...], index: int, default: int) -> int:
    """A field of a named tuple, in which older versions have fewer."""
    value = values[index] if index < len(values) else None
    return default if value is None else int(value)


def _info_v1(cells: Mapping[bytes, bytes]) -> GraphInfo:
    """From the row ``params``. Layer 1 has 8 bits per axis, layer 2 what its part of the octree needs."""
    chunk_size = as_triple(np.frombuffer(cells[b"chunk_size"], dtype="<u8"))
    fan_out = int.from_bytes(cells[b"fan_out"], "little")
    layers = int.from_bytes(cells[b"n_layers"], "little")
    bits = max(1, (fan_out ** (layers - L2) - 1).bit_length())
    info = json.loads(cells.get(b"dataset_info", b"{}"))
    mip = (info.get("graph") or {}).get("cv_mip")
    mip = None if mip is None else int(mip)
    return GraphInfo(
        chunk_size, IdLayout({1: 8, L2: bits}), mip, info.get("data_dir"), _scales(info.get("scales"))
    )


def _scales(scales: Any) -> tuple[Bounds, ...]:
    """The bounds of a layer's scales."""
    return tuple(
        Bounds(
            (float(x), float(y), float(z)),
            as_triple(scale.get("voxel_offset") or (0, 0, 0)),
            as_triple(scale["size"]),
        )
        for scale in scales or ()
        for x, y, z in [scale["resolution"]]
    )
