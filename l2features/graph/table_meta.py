"""Read a graph's description in its table: row ``params`` of PyChunkedGraph 1, row ``meta`` of version 2."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.errors import GraphError
from ..core.geometry import Bounds, as_triple
from ..core.ids import L2, IdLayout
from ..core.unpickle import GRAPH_META, plain_loads
from .base import GraphInfo

META_KEYS = (b"meta", b"params")
LAYER_BITS = 8
SPATIAL_BITS = 10
FAN_OUT = 2
"""PyChunkedGraph's defaults of `LAYER_BITS`, of `SPATIAL_BITS` (per axis), and of `FAN_OUT`."""
_CHUNK_SIZE, _FAN_OUT, _LAYER_BITS, _SPATIAL_BITS = 2, 3, 4, 5
"""Indices of fields in PyChunkedGraph's GraphConfig."""
_WATERSHED, _CV_MIP = 2, 4
"""Indices of fields in PyChunkedGraph's DataSource."""


def info_of_cells(cells: Mapping[bytes, bytes], url: str) -> GraphInfo:
    """Return the graph's info; ``cells`` maps each qualifier in the rows `META_KEYS` to its value.

    Raises GraphError for cells that describe no graph.
    """
    try:
        return info_of_meta(cells[b"meta"]) if b"meta" in cells else _info_v1(cells)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise GraphError(
            f"{url}: not the table of a graph: expected a table of PyChunkedGraph 1 or 2: {error!r}"
        ) from error


def info_of_meta(meta: bytes) -> GraphInfo:
    """Return the graph's info from PyChunkedGraph 2's pickled ChunkedGraphMeta.

    Raises ValueError, TypeError, AttributeError or IndexError for a malformed meta.
    """
    made = plain_loads(meta, GRAPH_META)
    config, source = (part.args for part in made.args[:2])
    bits = _field(config, _SPATIAL_BITS, SPATIAL_BITS)
    return GraphInfo(
        as_triple(config[_CHUNK_SIZE]),
        IdLayout({1: bits, L2: bits}, _field(config, _LAYER_BITS, LAYER_BITS)),
        _field(source, _CV_MIP, 0),
        source[_WATERSHED] if len(source) > _WATERSHED else None,
        ocdbt=_names_ocdbt((made.state or {}).get("custom_data") or {}),
        fan_out=_field(config, _FAN_OUT, FAN_OUT),
    )


def layers_of(chunks: float, fan_out: int) -> int:
    """Return the layer of the roots; ``chunks`` is the number of chunks along the grid's longest axis.

    PyChunkedGraph 2 does not store this layer, but computes it from the bounds of the segmentation.
    """
    above = 1
    while fan_out**above < chunks:
        above += 1
    return L2 + above


def layout_above(layout: IdLayout, top: int, fan_out: int) -> IdLayout:
    """Return the layout, extended by the layers from 3 to ``top``, the layer of the roots.

    As in PyChunkedGraph, a layer that ``layout`` lacks gets as many bits per axis as its chunk
    coordinates need on the longest axis.
    """
    above = {layer: _bits(fan_out, top - layer) for layer in range(L2 + 1, top + 1)}
    return IdLayout({**above, **layout.spatial_bits}, layout.layer_bits)


def _bits(fan_out: int, layers_below: int) -> int:
    return max(1, (fan_out**layers_below - 1).bit_length())


def _names_ocdbt(custom: Mapping[str, Any]) -> bool:
    """Return whether supervoxels are in an OCDBT fork. If present, ``ocdbt_config`` overrides older keys."""
    config = custom.get("ocdbt_config")
    if config is not None:
        return bool(config.get("enabled"))
    return bool(custom.get("ocdbt_seg") or (custom.get("seg") or {}).get("ocdbt"))


def _field(values: tuple[Any, ...], index: int, default: int) -> int:
    """Return a field of a named tuple, or ``default``: older versions of PyChunkedGraph have fewer fields."""
    value = values[index] if index < len(values) else None
    return default if value is None else int(value)


def _info_v1(cells: Mapping[bytes, bytes]) -> GraphInfo:
    """Return the graph's info from the row ``params`` of PyChunkedGraph 1.

    Chunk coordinates have 8 bits per axis in ids of layer 1. In ids of layer 2, the number of bits follows
    from the fan-out and the number of layers.
    """
    chunk_size = as_triple(np.frombuffer(cells[b"chunk_size"], dtype="<u8"))
    fan_out = int.from_bytes(cells[b"fan_out"], "little")
    layers = int.from_bytes(cells[b"n_layers"], "little")
    bits = _bits(fan_out, layers - L2)
    info = json.loads(cells.get(b"dataset_info", b"{}"))
    mip = (info.get("graph") or {}).get("cv_mip")
    mip = None if mip is None else int(mip)
    return GraphInfo(
        chunk_size,
        IdLayout({1: 8, L2: bits}),
        mip,
        info.get("data_dir"),
        _scales(info.get("scales")),
        n_layers=layers,
        fan_out=fan_out,
    )


def _scales(scales: Any) -> tuple[Bounds, ...]:
    """Return the bounds of each scale in the info file of a segmentation."""
    return tuple(
        Bounds(
            (float(x), float(y), float(z)),
            as_triple(scale.get("voxel_offset") or (0, 0, 0)),
            as_triple(scale["size"]),
        )
        for scale in scales or ()
        for x, y, z in [scale["resolution"]]
    )
