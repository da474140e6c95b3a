"""Synthetic neurons: trees of L2 nodes in a PyChunkedGraph table, and their features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from cloudvolume import CloudVolume
from google.cloud.bigtable_v2.types import MutateRowsRequest, MutateRowsResponse

from benchmarks.servers import make_features
from l2features.config.datasets import emulator_address
from l2features.core.geometry import Geometry, Triple
from l2features.core.ids import IdLayout, Ids, as_ids
from l2features.graph.bigtable import parse_graph_url
from l2features.local.emulator_programs import BIGTABLE
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
FULL = ((24, 24, 14), (40, 40, 18))
"""First and end (excluded) chunk of a box in which 1,000,000 nodes are as dense as in EM: 977 per chunk."""
TIME_MS = 1_767_225_600_000
"""Time at which all nodes were created, in ms since 1970: 2026-01-01."""
_Request, _Response = MutateRowsRequest.pb(), MutateRowsResponse.pb()
_Entry = MutateRowsRequest.Entry.pb()
ROWS = 5_000
"""Maximum rows in one write request."""
NODES = 50_000
"""Minimum number of nodes whose cells are written together."""
BRANCHING, LOOPS = 0.01, 0.14
"""Branches and additional edges per node, as in pcg_skel's test neuron."""


@dataclass
class Neuron:
    """A root, its sorted L2 ids (n,), and the edges between them as indices into ``l2_ids``, (m, 2)."""

    root: int
    l2_ids: Ids
    edges: npt.NDArray[np.int64]


def make_neurons(url: str, watershed: str, sizes: Sequence[int], full: bool = False) -> list[Neuron]:
    """Write a graph with one neuron for each of ``sizes`` (numbers of nodes); return the neurons in order.

    ``watershed`` is the URL of the segmentation, which needs only an info file. Neurons begin in the grid's
    central chunk; with ``full``, they begin anywhere in the box `FULL` and stay in it.
    """
    random = np.random.default_rng(0)
    taken: Counter[int] = Counter()
    neurons: list[Neuron] = []
    with closing(SampleTable(url)) as table:
        table.create()
        name = url.rsplit("/", 1)[-1]
        table.set(b"meta", b"meta", graph_meta(GEOMETRY, name, n_layers(GEOMETRY), watershed))
        batch: list[Neuron] = []
        for size in sizes:
            start = random.integers(*FULL) if full else np.array(GRID) // 2
            chunks, edges = _tree(random, size, start, FULL if full else ((0, 0, 0), GRID))
            chunk_ids = GEOMETRY.layout.chunk_id_array(chunks)
            ids = as_ids([_next(taken, chunk_id) for chunk_id in chunk_ids.tolist()])
            order = np.argsort(ids)
            batch.append(Neuron(0, ids[order], np.argsort(order)[edges]))
            if sum(len(neuron.l2_ids) for neuron in batch) >= NODES:
                put_cells(url, _cells(batch, taken))
                neurons += batch
                batch = []
        put_cells(url, _cells(batch, taken))
    return neurons + batch


def put_cells(url: str, cells: Iterable[Cell]) -> None:
    """Write cells to a table in the Bigtable emulator, four times as fast as `SampleTable.put`."""
    project, instance, name = parse_graph_url(url)
    entries: dict[bytes, Any] = {}
    for node, column, value, ms, family, prefix in cells:
        key = prefix + b"%020d" % node
        entry = entries.get(key)
        if entry is None:
            entry = entries[key] = _Entry(row_key=key)
        cell = entry.mutations.add().set_cell
        cell.family_name, cell.column_qualifier = family, column.encode()
        cell.value, cell.timestamp_micros = value, 1000 * ms
    with grpc.insecure_channel(emulator_address(BIGTABLE.variable)) as channel:
        mutate = channel.unary_stream(
            "/google.bigtable.v2.Bigtable/MutateRows",
            request_serializer=_Request.SerializeToString,
            response_deserializer=_Response.FromString,
        )
        rows, path = list(entries.values()), f"projects/{project}/instances/{instance}/tables/{name}"
        for first in range(0, len(rows), ROWS):
            request = _Request(table_name=path, entries=rows[first : first + ROWS])
            codes = [entry.status.code for answer in mutate(request) for entry in answer.entries]
            assert codes == [0] * len(request.entries), f"{url}: rows were not written: {codes}"


def write_info(watershed: str) -> None:
    """Write the info file of the segmentation, which a graph server reads."""
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
    """Return synthetic features of all nodes of the neurons, sorted by id, dtype `FEATURES`."""
    ids = np.sort(np.concatenate([neuron.l2_ids for neuron in neurons]))
    features = make_features(len(ids))
    features["label"] = ids
    return features


def _tree(
    random: np.random.Generator, size: int, start: npt.NDArray[np.int64], box: tuple[Triple, Triple]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Grow a branching walk of ``size`` nodes through neighbouring chunks of the box.

    Returns a tuple: the chunk of each node, (size, 3); edges as pairs of node indices, (m, 2).
    """
    steps = np.concatenate([np.eye(3, dtype=np.int64), -np.eye(3, dtype=np.int64)])[
        random.integers(0, 6, size)
    ]
    branches = random.random(size) < BRANCHING
    places = random.random(size)
    chunks = np.empty((size, 3), dtype=np.int64)
    chunks[0] = start
    parents = np.arange(-1, size - 1)
    for i in range(1, size):
        if branches[i]:
            parents[i] = int(places[i] * i)
        before = chunks[parents[i]]
        inside = ((before + steps[i] >= box[0]) & (before + steps[i] < box[1])).all()
        chunks[i] = before + (steps[i] if inside else -steps[i])
    edges = np.stack([parents[1:], np.arange(1, size)], axis=1)
    loops = random.integers(2, max(3, size), int(LOOPS * size)).clip(max=size - 1)
    skips = np.stack([loops - 2, loops], axis=1)
    near = np.abs(chunks[skips[:, 0]] - chunks[skips[:, 1]]).max(axis=1) == 1
    return chunks, np.unique(np.concatenate([edges, skips[near]]), axis=0)


def _next(taken: Counter[int], chunk_id: int) -> int:
    taken[chunk_id] += 1
    return chunk_id + taken[chunk_id]


def _cells(neurons: Sequence[Neuron], taken: Counter[int]) -> Iterator[Cell]:
    """Yield the cells of the graph's table for these neurons, and set the neurons' roots.

    Each L2 node has one supervoxel, with the same segment number. ``taken`` has the last number used in each
    chunk.
    """
    ids = np.concatenate([as_ids([]), *(neuron.l2_ids for neuron in neurons)])
    supervoxels = supervoxels_of(ids)
    for node, supervoxel in zip(ids.tolist(), supervoxels.tolist(), strict=True):
        cells = node_cells(node, as_ids([supervoxel]), TIME_MS)
        yield next(cell for cell in cells if cell.column == CHILDREN)
    starts = np.cumsum([0, *(len(neuron.l2_ids) for neuron in neurons)])
    joined = [neuron.edges + start for neuron, start in zip(neurons, starts[:-1], strict=True)]
    edges = np.concatenate([np.empty((0, 2), dtype=np.int64), *joined])
    pairs, ends = supervoxels[edges], ids[edges]
    layers = cross_layers(GEOMETRY, pairs)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    yield from cross_edge_cells(ends.T.ravel(), both, np.tile(layers, 2), TIME_MS)

    def name(chunk_id: int, _children: Ids) -> int:
        taken[chunk_id] += 1
        return node_id(chunk_id, taken[chunk_id], n_layers(GEOMETRY))

    above: dict[int, int] = {}
    for parent, below in parents_above(GEOMETRY, np.sort(ids), ends, layers, name):
        above |= dict.fromkeys(below.tolist(), parent)
        yield from node_cells(parent, below, TIME_MS)
    for neuron in neurons:
        neuron.root = int(neuron.l2_ids[0])
        while neuron.root in above:
            neuron.root = above[neuron.root]


def supervoxels_of(ids: Ids) -> Ids:
    """Return the one supervoxel of each L2 node of a graph by `make_neurons`, shape (n,)."""
    layout = GEOMETRY.layout
    return layout.chunk_id_array(layout.chunk_coordinates(ids), 1) + (ids - layout.chunk_ids(ids))
