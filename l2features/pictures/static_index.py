"""Indexes of static layers: what their keys are, and the bytes of their shards.

An index is a folder of shards, which store a value for each key. An index of annotations has node ids, root
ids or the cells of one level as keys. An index of skeletons has root ids as keys.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from ..core.geometry import Geometry
from ..core.ids import Ids, as_ids, group_starts
from ..volume.sharded import Sharding
from .annotations import AnnotationLayer, annotation_list
from .levels import Level, cell_order, levels_of
from .node_layers import NODE_LAYERS, ROOT

SHARDED = "neuroglancer_uint64_sharded_v1"
Kind = Literal["by_id", "related", "cells", "skeletons"]
SKELETONS = "skeletons"
COMPRESSION = 6
"""Compression level of gzip."""


class Index(BaseModel):
    """One index of a layer, in the folder ``layer``/``key``.

    ``shards`` are the sorted numbers of the shards that have keys; None means all.
    """

    model_config = ConfigDict(frozen=True)

    layer: str
    kind: Kind
    key: str
    sharding: Sharding
    level: Level | None = None
    shards: tuple[int, ...] | None = None

    @property
    def count(self) -> int:
        """Number of shards."""
        return 1 << self.sharding.shard_bits if self.shards is None else len(self.shards)

    def shard(self, place: int) -> int:
        """Return the number of the shard at this position of ``shards``."""
        return place if self.shards is None else self.shards[place]

    def places(self, rows: np.ndarray, geometry: Geometry) -> Ids:
        """Return the position of each row's shard in ``shards``, (n,)."""
        shards = self.sharding.places(self.keys(rows, geometry))[0]
        return shards if self.shards is None else as_ids(np.searchsorted(as_ids(self.shards), shards))

    @property
    def annotations(self) -> AnnotationLayer:
        return NODE_LAYERS[self.layer].annotations

    def keys(self, rows: np.ndarray, geometry: Geometry) -> Ids:
        """Return the key of each row, (n,)."""
        if self.level is None:
            return np.ascontiguousarray(rows["root" if self.kind == "related" else "id"])
        return self.level.cells(geometry.layout.chunk_coordinates(rows["id"]), geometry.grid)

    @property
    def path(self) -> str:
        """The index's folder, relative to the export's folder."""
        return f"{self.layer}/{self.key}".rstrip("/")

    def file(self, shard: int) -> str:
        """Return the path of a shard, relative to the export's folder."""
        return f"{self.path}/{self.sharding.file(shard)}"

    def info(self) -> dict[str, Any]:
        """Return this index's entry in the ``info`` file of the layer."""
        return {"key": self.key, "sharding": {"@type": SHARDED, **self.sharding._asdict()}}


def row_dtype(layer: str) -> np.dtype:
    """Return the dtype of a layer's rows.

    A row has an ``id`` and a ``part``, the number of a shard among the shards of all indexes. For skeletons,
    ``id`` is a root id. In other layers, a row is a node: ``id`` is the node's id, ``root`` its root id, and
    ``record`` its annotation.
    """
    if layer == SKELETONS:
        return np.dtype([("part", "<u4"), ("id", "<u8")])
    record = NODE_LAYERS[layer].annotations.dtype
    return np.dtype([("part", "<u4"), ("id", "<u8"), ("root", "<u8"), ("record", record)])


def parts_of(indexes: Sequence[Index]) -> list[int]:
    """Return the position of each index's first part among all parts, then the number of all parts.

    A part is one shard of one index.
    """
    ends = np.cumsum([0, *(index.count for index in indexes)])
    return [int(end) for end in ends]


def divided(
    rows: np.ndarray, layer: str, indexes: Sequence[Index], geometry: Geometry
) -> npt.NDArray[np.void]:
    """Return a layer's rows with ``part`` set, sorted by part. A part is one shard of one index.

    A row is repeated, once for each index that contains it.
    """
    firsts = parts_of(indexes)
    own = [(index, first) for index, first in zip(indexes, firsts[:-1], strict=True) if index.layer == layer]
    levels = [index.level for index, _ in own if index.level]
    which, depth, found = levels_of(rows["id"], levels), 0, list[np.ndarray]()
    for index, first in own:
        some = rows
        if index.level is not None:
            some = _taken(rows, np.flatnonzero(which == depth))
            depth += 1
        some = some.copy()
        some["part"] = index.places(some, geometry) + np.uint64(first)
        found.append(some)
    every = np.concatenate([rows[:0], *found])
    return _taken(every, np.argsort(every["part"], kind="stable"))


def _taken(rows: np.ndarray, places: npt.NDArray[np.intp]) -> np.ndarray:
    """Return the rows at these places. Rows are copied as bytes, since numpy would copy field by field."""
    return rows.view((np.void, rows.dtype.itemsize))[places].view(rows.dtype)


class Shard(NamedTuple):
    """A shard's bytes, its number of keys, and the maximum number of nodes per key."""

    content: bytes
    keys: int
    largest: int


def make_shard(index: Index, rows: np.ndarray, geometry: Geometry, least: int = 0) -> Shard:
    """Return the shard of these rows, (n,) in any order, dtype `row_dtype`; n is at least 1.

    ``least`` is the minimum size in bytes, see `sharded`.
    """
    keys = index.keys(rows, geometry)
    within = cell_order(rows["id"]) if index.kind == "cells" else rows["id"]
    order = np.lexsort((rows["id"], within, keys))
    rows, keys = _taken(np.ascontiguousarray(rows), order), keys[order]
    starts = group_starts(keys)
    ends = np.append(starts[1:], len(keys))
    values = _annotations(rows) if index.kind == "by_id" else _lists(rows, starts, ends)
    content = sharded(index.sharding, keys[starts], values, least)
    return Shard(content, len(starts), int((ends - starts).max()))


def _annotations(rows: np.ndarray) -> Iterator[bytes]:
    """Yield each row's annotation and root, encoded as by `one_annotation`."""
    out = np.zeros(len(rows), [("record", rows["record"].dtype), ("count", "<u4"), ("root", "<u8")])
    out["record"], out["count"], out["root"] = rows["record"], 1, rows["root"]
    body, step = out.tobytes(), out.dtype.itemsize
    return (body[i : i + step] for i in range(0, len(body), step))


def _lists(rows: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Iterator[bytes]:
    records, ids = np.ascontiguousarray(rows["record"]), np.ascontiguousarray(rows["id"])
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        yield annotation_list(records[start:end], ids[start:end])


def sharded(sharding: Sharding, keys: Ids, values: Iterable[bytes], least: int = 0) -> bytes:
    """Return a shard with these values; the sorted keys (n,) all belong to this shard.

    A shard smaller than ``least`` bytes is padded with zeros.
    """
    from cloudvolume.datasource.precomputed.sharding import ShardingSpecification

    if sharding.data_encoding == "gzip":
        values = (gzip.compress(value, COMPRESSION, mtime=0) for value in values)
    minishards: dict[int, dict[int, bytes]] = {}
    places = sharding.places(keys)[1].tolist()
    for minishard, key, value in zip(places, keys.tolist(), values, strict=True):
        minishards.setdefault(minishard, {})[key] = value
    encoded = ShardingSpecification(SHARDED, **sharding._replace(data_encoding="raw")._asdict())
    content: bytes = encoded.synthesize_shard(minishards, presorted=True)
    return content.ljust(least, b"\0")


def static_info(
    layer: str, geometry: Geometry, indexes: Sequence[Index], largest: Callable[[Index], int]
) -> dict[str, Any]:
    """Return the ``info`` file of a layer; ``largest`` counts the nodes in the fullest cell of an index.

    The bounds cover whole cells of every level, since cloud-volume leaves out cells that extend beyond the
    bounds.
    """
    own = [index for index in indexes if index.layer == layer]
    info = NODE_LAYERS[layer].annotations.info(geometry, [ROOT], 0)
    step, spatial = np.array(info["spatial"][-1]["chunk_size"]), list[dict[str, Any]]()
    for index in own:
        if index.kind == "by_id":
            info["by_id"] = index.info()
        elif index.kind == "related":
            info["relationships"] = [{"id": ROOT, **index.info()}]
        elif index.level is not None:
            cell = index.level.cell_chunks(geometry.grid)
            grid = index.level.cell_grid(geometry.grid)
            sizes = {"grid_shape": list(grid), "chunk_size": (step * cell).tolist()}
            spatial.append({**index.info(), **sizes, "limit": max(1, largest(index))})
    extent = np.multiply(spatial[0]["grid_shape"], spatial[0]["chunk_size"])
    return {**info, "upper_bound": (info["lower_bound"] + extent).tolist(), "spatial": spatial}
