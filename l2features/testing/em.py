"""A data set of EM chunks (supervoxel files, a graph, an empty table of features), and edits of its graph.

The graph and the table are in the Bigtable emulator. Every chunk repeats one of a few crops of the EM volume,
with other ids. Cells are cut into blocks, so that a node has many supervoxels.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..core.geometry import Chunk, Geometry, Triple
from ..core.ids import IdLayout, Ids, row_keys
from ..local.sample.graph_cells import graph_meta, n_layers
from ..local.sample.graph_table import SampleTable
from ..store.base import Meta, open_store
from ..store.bigtable.calls import open_table
from .em_volume import make_neuropil, read_em

PROJECT, INSTANCE = "benchmark", "benchmark"
NAME, GRAPH, TABLE = "em", "graph_em", "l2cache_em"
STORE_URL = f"bigtable://{PROJECT}/{INSTANCE}"
GRAPH_URL = f"{STORE_URL}/{GRAPH}"
RESOLUTION = (16.0, 16.0, 40.0)
VOXEL_OFFSET = (1024, 512, 20)
BLOCK = (64, 64, 32)
"""Size in voxels of the blocks into which cells are cut."""
FILE_CHUNK = (128, 128, 64)
"""Size in voxels of the segmentation's files."""
LAYOUT = IdLayout({1: 10, 2: 10})
BATCH_ROWS = 500
LEAST_SUPERVOXELS = 4
"""Minimum number of supervoxels of a node that is edited."""


@dataclass(eq=False)
class Crop:
    """A crop of EM: its supervoxels, and the node of each supervoxel; both are numbered from 1."""

    voxels: np.ndarray
    nodes: np.ndarray

    def supervoxels(self) -> list[np.ndarray]:
        """Return the sorted supervoxel numbers of each node; lower numbers are at smaller z."""
        order = np.argsort(self.nodes, kind="stable")
        return np.split(order + 1, np.cumsum(np.bincount(self.nodes)[1:])[:-1])


class EditMessage(NamedTuple):
    """An edit message and the nodes that it names."""

    data: bytes
    attributes: dict[str, str]
    ids: list[int]


@dataclass(eq=False)
class EmDataset:
    """A data set in files and in the emulator. ``children`` has the supervoxels of nodes that edits made."""

    config: Path
    geometry: Geometry
    crops: list[Crop]
    children: dict[int, Ids] = field(default_factory=dict)
    _made: dict[Chunk, int] = field(default_factory=dict)
    _operations: int = 0

    @property
    def chunks(self) -> list[Chunk]:
        return [Chunk(*xyz) for xyz in np.ndindex(*self.geometry.grid)]

    def crop(self, chunk: Chunk) -> Crop:
        return self.crops[self.chunks.index(chunk) % len(self.crops)]

    def parents(self, chunk: Chunk) -> Ids:
        """Return the L2 ids, before any edit, of a chunk's supervoxels; index i is for supervoxel i + 1."""
        return np.uint64(self.geometry.chunk_id(chunk)) + self.crop(chunk).nodes.astype(np.uint64)

    def new_node(self, chunk: Chunk, supervoxels: np.ndarray) -> int:
        """Return a new L2 id in a chunk for these supervoxels, given by their numbers within the chunk."""
        number = self._made.get(chunk, int(self.crop(chunk).nodes.max())) + 1
        self._made[chunk] = number
        node = self.geometry.chunk_id(chunk) + number
        first = np.uint64(LAYOUT.chunk_id(*chunk, layer=1))
        self.children[node] = first + np.sort(supervoxels).astype(np.uint64)
        return node

    def edit(self, ids: Sequence[int]) -> EditMessage:
        """Return the message that PyChunkedGraph sends for an edit that made these nodes."""
        self._operations += 1
        root = (4 << 56) + self._operations
        content = {
            "operation_id": self._operations,
            "new_lvl2_ids": list(ids),
            "new_root_ids": [root],
            "old_root_ids": [root + (1 << 40)],
        }
        attributes = {"table_id": GRAPH, "user_id": "1", "remesh_priority": "true", "remesh": "true"}
        return EditMessage(pickle.dumps(content), attributes, list(ids))


def read_labels(shared: Path, slices: int) -> np.ndarray:
    """Return ``slices`` z slices, 512 x 512 voxels each, of the recorded EM volume.

    If the recording is missing, the slices are of a synthetic volume.
    """
    path = shared / "data" / "connectomics.npy.ckl.gz"
    if path.is_file():
        return read_em(path)[:, :, :slices]
    print(f"no EM volume at {path}: a synthetic one is used", file=sys.stderr)
    return make_neuropil((512, 512, slices))


def make_crops(labels: np.ndarray, size: Triple, most: int) -> list[Crop]:
    """Return adjacent crops of a volume, cut into supervoxels."""
    corners = np.ndindex(*(n // step for n, step in zip(labels.shape, size, strict=True)))
    crops = []
    for corner in list(corners)[:most]:
        where = tuple(slice(c * step, (c + 1) * step) for c, step in zip(corner, size, strict=True))
        crops.append(cut_into_blocks(labels[where]))
    return crops


def cut_into_blocks(labels: np.ndarray) -> Crop:
    """Cut cells into supervoxels: a supervoxel has the voxels of one cell in one block of `BLOCK` voxels.

    Supervoxels are numbered block by block; blocks are in Fortran order (x fastest).
    """
    import fastremap

    cells, _ = fastremap.renumber(np.asfortranarray(labels), preserve_zero=True)
    index = np.zeros(labels.shape, np.uint64, order="F")
    for axis in (2, 1, 0):
        n = np.arange(labels.shape[axis], dtype=np.uint64) // np.uint64(BLOCK[axis])
        index = index * np.uint64(1 + n.max()) + n.reshape([-1 if a == axis else 1 for a in range(3)])
    keyed = np.where(cells > 0, (index << np.uint64(32)) + cells, np.uint64(0))
    keys = fastremap.unique(keyed)
    keys = keys[keys > 0]
    numbers = {0: 0, **dict(zip(keys.tolist(), range(1, len(keys) + 1), strict=True))}
    voxels = np.asfortranarray(fastremap.remap(keyed, numbers).astype(np.uint32))
    return Crop(voxels, (keys & np.uint64(2**32 - 1)).astype(np.int64))


def make_dataset(
    folder: Path, crops: list[Crop], grid: Triple, progress: Callable[[int], object] = lambda _: None
) -> EmDataset:
    """Write a segmentation, a data sets file, an empty table of features and a graph table without nodes."""
    size: Triple = crops[0].voxels.shape  # type: ignore[assignment]
    bounds: Any = tuple(n * step for n, step in zip(grid, size, strict=True))
    dataset = EmDataset(
        folder / "datasets.yml", Geometry(RESOLUTION, VOXEL_OFFSET, bounds, size, LAYOUT), crops
    )
    cv_path = f"precomputed://file://{folder}/segmentation"
    _write_segmentation(dataset, cv_path, progress)
    entry = {"cv_path": cv_path, "l2cache_id": TABLE, "graph": GRAPH_URL, "store": STORE_URL}
    dataset.config.write_text(json.dumps({NAME: {**entry, "chunk_size": size}}))
    store = open_store(STORE_URL, TABLE)
    store.create(Meta(GRAPH, cv_path, "2026-01-01 00:00:00", dataset.geometry))
    store.close()
    _create_graph(dataset.geometry, cv_path)
    return dataset


def _write_segmentation(dataset: EmDataset, cv_path: str, progress: Callable[[int], object]) -> None:
    from cloudvolume import CloudVolume

    geometry = dataset.geometry
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="segmentation",
        data_type="uint64",
        encoding="compressed_segmentation",
        resolution=geometry.resolution,
        voxel_offset=geometry.voxel_offset,
        volume_size=geometry.voxel_size,
        chunk_size=FILE_CHUNK,
    )
    volume = CloudVolume(cv_path, info=info, progress=False, bounded=True, non_aligned_writes=False)
    volume.commit_info()
    for chunk in dataset.chunks:
        start = geometry.origins([chunk])[0].tolist()
        where = tuple(slice(a, a + n) for a, n in zip(start, geometry.chunk_size, strict=True))
        numbers = dataset.crop(chunk).voxels
        first = np.uint64(LAYOUT.chunk_id(*chunk, layer=1))
        volume[where] = np.where(numbers > 0, numbers + first, np.uint64(0))
        progress(1)


def _create_graph(geometry: Geometry, cv_path: str) -> None:
    table = SampleTable(GRAPH_URL)
    table.create()
    table.set(b"meta", b"meta", graph_meta(geometry, GRAPH, n_layers(geometry), cv_path))
    table.close()


def write_children(children: Mapping[int, Ids]) -> None:
    """Write the children of nodes to the graph's table, in the form of PyChunkedGraph 2."""
    import zstandard

    compressor = zstandard.ZstdCompressor()
    ids = np.array(list(children), np.uint64)
    cells = (compressor.compress(own.astype("<u8").tobytes()) for own in children.values())
    _write("children", ids, cells)


def write_parents(dataset: EmDataset, chunk: Chunk) -> None:
    """Write the current parent (the L2 id) of each supervoxel of a chunk to the graph's table."""
    parents = dataset.parents(chunk)
    first = np.uint64(LAYOUT.chunk_id(*chunk, layer=1))
    ours = np.uint64(dataset.geometry.chunk_id(chunk))
    for node, supervoxels in dataset.children.items():
        if LAYOUT.chunk_ids(np.array([node], np.uint64))[0] == ours:
            parents[(supervoxels - first).astype(np.intp) - 1] = node
    ids = first + np.arange(1, len(parents) + 1, dtype=np.uint64)
    _write("parents", ids, (parent.astype("<u8").tobytes() for parent in parents))


def _write(column: str, ids: Ids, cells: Iterator[bytes]) -> None:
    from google.cloud.bigtable.data import RowMutationEntry, SetCell

    table = open_table(PROJECT, INSTANCE, GRAPH)
    batch = []
    for key, cell in zip(row_keys(ids), cells, strict=True):
        batch.append(RowMutationEntry(key, [SetCell("0", column, cell, timestamp_micros=10**15)]))
        if len(batch) == BATCH_ROWS:
            table.bulk_mutate_rows(batch)
            batch = []
    if batch:
        table.bulk_mutate_rows(batch)
    table.client.close()


class Editor:
    """Splits and merges nodes that no earlier edit used; reuses a chunk's nodes when too few are left."""

    def __init__(self, dataset: EmDataset, seed: int = 0) -> None:
        self.dataset, self.random = dataset, np.random.default_rng(seed)
        self._left: dict[Chunk, list[np.ndarray]] = {}

    def split(self, chunk: Chunk) -> list[int]:
        """Split a node; return the two new nodes."""
        (own,) = self._take(chunk, 1)
        at = int(self.random.integers(1, len(own)))
        return [self.dataset.new_node(chunk, part) for part in (own[:at], own[at:])]

    def merge(self, chunk: Chunk) -> list[int]:
        """Merge two nodes; return the new node."""
        return [self.dataset.new_node(chunk, np.concatenate(self._take(chunk, 2)))]

    def _take(self, chunk: Chunk, n: int) -> list[np.ndarray]:
        """Return the supervoxel numbers of n unused nodes; if fewer are left, reuse the chunk's nodes."""
        if len(self._left.get(chunk, ())) < n:
            large = [s for s in self.dataset.crop(chunk).supervoxels() if len(s) >= LEAST_SUPERVOXELS]
            self._left[chunk] = [large[i] for i in self.random.permutation(len(large))]
        left = self._left[chunk]
        return [left.pop() for _ in range(n)]
