"""Synthetic neurons: trees of L2 nodes in a PyChunkedGraph table, and their features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cloudvolume import CloudVolume

from benchmarks.servers import make_features
from l2features.core.geometry import Geometry
from l2features.core.ids import IdLayout, Ids, as_ids
from l2features.local.sample.graph_cells import (
    CHILDREN,
    Cell,
    cross_edge_cells,
    graph_meta,
    n_layers,
    node_cells,
)
from l2features.local.sample.graph_table import SampleTable, node_id
from l2features.local.sample.hierarchy import cross_layers, parents_above

GRID = (64, 64, 32)
CHUNK = (256, 256, 512)
GEOMETRY = Geometry(
    (4, 4, 40),
    (0, 0, 0),
    (GRID[0] * CHUNK[0], GRID[1] * CHUNK[1], GRID[2] * CHUNK[2]),
    CHUNK,
    IdLayout({1: 10, 2: 10}),
)
TIME_MS = 1_767_225_600_000
"""When all nodes were made: 2026-01-01."""
BRANCHING, LOOPS = 0.01, 0.14
"""Share of the nodes that begin a branch, and of additional edges; as in pcg_skel's test neuron."""


@dataclass
class Neuron:
    """A root, its L2 ids (n,), and its edges as indices of them, (m, 2)."""

    root: int
    l2_ids: Ids
    edges: npt.NDArray[np.int64]


def make_neurons(url: str, watershed: str, sizes: Sequence[int]) -> list[Neuron]:
    """Write a graph with one neuron per size, a number of nodes; returns the neurons in that order.

    ``watershed`` is the layer of the segmentation, of which there is only the info.
    """
    random = np.random.default_rng(0)
    taken: Counter[int] = Counter()
    neurons = []
    with closing(SampleTable(url)) as table:
        table.create()
        name = url.rsplit("/", 1)[-1]
        table.set(b"meta", b"meta", graph_meta(GEOMETRY, name, n_layers(GEOMETRY), watershed))
        for size in sizes:
            chunks, edges = _tree(random, size)
            chunk_ids = GEOMETRY.layout.chunk_id_array(chunks)
            ids = as_ids([_next(taken, chunk_id) for chunk_id in chunk_ids.tolist()])
            order = np.argsort(ids)
            neuron = Neuron(0, ids[order], np.argsort(order)[edges])
            table.put(_cells(neuron, taken))
            neurons.append(neuron)
    return neurons


def write_info(watershed: str) -> None:
    """Write the info of the segmentation, which a graph's server reads."""
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="segmentation",
        data_type="uint64",
        encoding="raw",
        resolution=GEOMETRY.resolution,
        voxel_offset=GEOMETRY.voxel_offset,
        volume_size=GEOMETRY.voxel_size,
        chunk_size=(64, 64, 64),
    )
    CloudVolume(watershed, info=info, progress=False).commit_info()


def features_of(neurons: Sequence[Neuron]) -> np.ndarray:
    """Return synthetic features of all nodes."""
    ids = np.sort(np.concatenate([neuron.l2_ids for neuron in neurons]))
    features = make_features(len(ids))
    features["label"] = ids
    return features


def _tree(random: np.random.Generator, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Grow a branching walk through neighbouring chunks; returns chunks (size, 3) and edges (m, 2)."""
    steps = np.concatenate([np.eye(3, dtype=np.int64), -np.eye(3, dtype=np.int64)])[
        random.integers(0, 6, size)
    ]
    branches = random.random(size) < BRANCHING
    places = random.random(size)
    chunks = np.empty((size, 3), dtype=np.int64)
    chunks[0] = np.array(GRID) // 2
    parents = np.arange(-1, size - 1)
    for i in range(1, size):
        if branches[i]:
            parents[i] = int(places[i] * i)
        before = chunks[parents[i]]
        inside = ((before + steps[i] >= 0) & (before + steps[i] < GRID)).all()
        chunks[i] = before + (steps[i] if inside else -steps[i])
    edges = np.stack([parents[1:], np.arange(1, size)], axis=1)
    loops = random.integers(2, max(3, size), int(LOOPS * size)).clip(max=size - 1)
    skips = np.stack([loops - 2, loops], axis=1)
    near = np.abs(chunks[skips[:, 0]] - chunks[skips[:, 1]]).max(axis=1) == 1
    return chunks, np.unique(np.concatenate([edges, skips[near]]), axis=0)


def _next(taken: Counter[int], chunk_id: int) -> int:
    taken[chunk_id] += 1
    return chunk_id + taken[chunk_id]


def _cells(neuron: Neuron, taken: Counter[int]) -> Iterator[Cell]:
    """Yield a neuron's cells, and set its root; each L2 node has one supervoxel of the same number."""
    layout, ids = GEOMETRY.layout, neuron.l2_ids
    chunk_ids = layout.chunk_ids(ids)
    bases = layout.chunk_id_array(layout.chunk_coordinates(ids), 1)
    supervoxels = bases + (ids - chunk_ids)
    for node, supervoxel in zip(ids.tolist(), supervoxels.tolist(), strict=True):
        cells = node_cells(node, as_ids([supervoxel]), TIME_MS)
        yield next(cell for cell in cells if cell.column == CHILDREN)
    pairs = supervoxels[neuron.edges]
    layers = cross_layers(GEOMETRY, pairs)
    ends = ids[neuron.edges]
    both = np.concatenate([pairs, pairs[:, ::-1]])
    yield from cross_edge_cells(ends.T.ravel(), both, np.tile(layers, 2), TIME_MS)

    def name(chunk_id: int, _children: Ids) -> int:
        taken[chunk_id] += 1
        neuron.root = node_id(chunk_id, taken[chunk_id], n_layers(GEOMETRY))
        return neuron.root

    for parent, below in parents_above(GEOMETRY, ids, ends, layers, name):
        yield from node_cells(parent, below, TIME_MS)
