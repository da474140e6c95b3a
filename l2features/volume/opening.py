"""Opening of a layer: read its info, choose a scale, and return a reader of the scale's blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..core.geometry import as_triple
from ..core.paths import GRAPHENE, Location, parse_path
from .blocks import Cells, FileBlocks, Grid
from .buckets import open_storage
from .encodings import Encoding
from .http import check_reachable
from .layer import COMPRESSED, check_layer, check_scale, choose_scale
from .sharded import ShardedBlocks, Sharding
from .storage import LocalStorage, Request, Storage, StorageError
from .zarr import open_zarr

MAX_REDIRECTS = 10
Info = Mapping[str, Any]


class LayerPlace(NamedTuple):
    """Path of a layer, and the content of its info file if known."""

    path: str
    info: Info | None = None


class OpenLayer(NamedTuple):
    """An open layer: the metadata of all scales, and a reader of the blocks of scale ``mip``.

    ``folder`` is the layer's folder if it is on this machine, else None. ``packed`` is None, except for
    compressed_segmentation: then it is the encoding, and blocks are decoded to 32-bit words, not to labels.
    """

    scales: Sequence[Info]
    mip: int
    blocks: FileBlocks | ShardedBlocks
    dtype: np.dtype[Any]
    folder: Path | None
    packed: Encoding | None = None


def open_layer(layer: LayerPlace, mip: int | None, scale: Sequence[float] | None) -> OpenLayer:
    """Open a layer at scale ``mip``, or at the scale with resolution ``scale`` in nm.

    Raises StorageError if a file cannot be read. Raises ValueError if the layer is not a supported
    segmentation, or lacks the scale.
    """
    location = parse_path(layer.path)
    check_reachable(location.url)
    if location.format == GRAPHENE:
        raise ValueError(f"{layer.path} is a graph, expected a segmentation layer")
    if location.format == "precomputed":
        storage, info = (open_storage(location.url), layer.info) if layer.info else find_info(location)
        check_layer(info)
        chosen = choose_scale([s.get("resolution") for s in info["scales"]], mip, scale)
        check_scale(info["scales"][chosen], info["data_type"])
        blocks: FileBlocks | ShardedBlocks = _open_blocks(storage, info["scales"][chosen], info["data_type"])
    else:
        storage = open_storage(location.url)
        try:
            info, chosen, blocks = open_zarr(location, storage, mip, scale)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"metadata is not valid {location.format}: {error!r}") from error
        check_scale(info["scales"][chosen], info["data_type"])
    folder = Path(storage.folder) if isinstance(storage, LocalStorage) else None
    dtype = np.dtype(f"u{np.dtype(info['data_type']).itemsize}")
    scale_read = info["scales"][chosen]
    packed = location.format == "precomputed" and scale_read["encoding"] == COMPRESSED
    encoding = _encoding(scale_read, info["data_type"]) if packed else None
    return OpenLayer(info["scales"], chosen, blocks, dtype, folder, encoding)


def _encoding(scale: Info, data_type: str) -> Encoding:
    block_size = as_triple(scale.get("compressed_segmentation_block_size", [8, 8, 8]))
    return Encoding(scale["encoding"], np.dtype(data_type).newbyteorder("<"), block_size)


def _open_blocks(storage: Storage, scale: Info, data_type: str) -> FileBlocks | ShardedBlocks:
    """Return a reader of one scale of a precomputed layer that `check_scale` accepted."""
    key = scale["key"]
    offset, size, step = scale.get("voxel_offset", [0, 0, 0]), scale["size"], scale["chunk_sizes"][0]
    grid = Grid(as_triple(offset), as_triple(size), as_triple(step))
    encoding = _encoding(scale, data_type)
    if scale.get("sharding"):
        return ShardedBlocks(storage, key, grid, encoding, Sharding.of(scale["sharding"]))

    def names(cells: Cells) -> list[str]:
        bounds = np.stack(grid.bounds(cells), axis=-1).tolist()
        return [f"{key}/" + "_".join(f"{a}-{b}" for a, b in axes) for axes in bounds]

    return FileBlocks(storage, grid, names, encoding.decode, encoding.most_bytes(grid.step))


def find_info(location: Location) -> tuple[Storage, dict[str, Any]]:
    """Follow redirects to a layer, and return a tuple: its storage; the content of its info file.

    Raises StorageError if the info file cannot be read. Raises ValueError if the file is not JSON, or if it
    redirects too often or to another format.
    """
    for _ in range(MAX_REDIRECTS):
        storage = open_storage(location.url)
        content, forbidden = storage.fetch_one(Request("info", most=1 << 28))
        if content is None:
            raise StorageError("file info: HTTP 403 Forbidden" if forbidden else "file info is missing")
        try:
            info = json.loads(content)
        except ValueError as error:
            raise ValueError(f"info is not JSON: {error}") from error
        target = info.get("redirect") if isinstance(info, dict) else None
        if not target:
            return storage, info
        location = parse_path(str(target))
        if location.format != "precomputed":
            raise ValueError(f"info redirects to {target}, expected precomputed://…")
        check_reachable(location.url)
    raise ValueError(f"info redirects {MAX_REDIRECTS} times, expected fewer")
