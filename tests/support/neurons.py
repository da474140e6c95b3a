"""L2 graphs with given positions, random trees, and a recorded real neuron."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from l2features.core.geometry import Geometry
from l2features.core.ids import IdLayout
from l2features.core.rows import Rows
from l2features.core.schema import FEATURES
from l2features.neurons.node_graph import NeuronGraph
from l2features.query.reader import Status

ROOT = 864691136040432126
CHUNK = 256


def graph_at(positions: Any, edges: Any, missing: Iterable[int] = (), root: int = ROOT) -> NeuronGraph:
    """Return a graph with a node at each of ``positions``, (n, 3) in whole nm. Its voxels are 1 nm wide.

    Nodes are in the order of the positions, so their ids may be unsorted. Chunks are `CHUNK` nm wide.
    """
    positions = np.asarray(positions, dtype=np.int64).reshape(-1, 3)
    low = positions.min(axis=0)
    index = positions - low
    layout = IdLayout({2: 16})
    size = tuple((index.max(axis=0) + 1).tolist())
    geometry = Geometry((1.0, 1.0, 1.0), tuple(low.tolist()), size, (CHUNK,) * 3, layout)
    features = np.zeros(len(positions), dtype=FEATURES)
    chunks = layout.chunk_id_array(index // CHUNK)
    order = np.argsort(chunks, kind="stable")
    rank = np.arange(len(chunks)) - np.searchsorted(chunks[order], chunks[order])
    features["label"][order] = chunks[order] + rank.astype(np.uint64) + np.uint64(1)
    features["rep_coord_nm"] = index % CHUNK
    features["size_nm3"], features["area_nm2"], features["max_dt_nm"] = 1000, 600, 50
    rows, status = Rows.complete(features), np.full(len(positions), Status.READY, dtype=np.int8)
    left = np.fromiter(missing, dtype=np.int64)
    rows.present[left], status[left] = False, Status.MISSING
    edges = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    return NeuronGraph(root, rows.ids, edges, rows, status, geometry)


def real_neuron(folder: Path) -> tuple[NeuronGraph, Any]:
    """Return the graph of a real neuron, and the recording with the genuine pcg_skel's results."""
    recorded = np.load(folder / "minnie_neuron.npz")
    return graph_at(recorded["rep_coord_nm"], recorded["l2_edges"]), recorded


def random_tree(n: int, seed: int = 0, step: float = 900, branching: float = 1 / 30) -> tuple[Any, Any]:
    """Return a random tree with triangles added: positions (n, 3) in whole nm, and edges (m, 2)."""
    rng = np.random.default_rng(seed)
    parent = np.arange(-1, n - 1)
    branches = np.flatnonzero(rng.random(n) < branching)[1:]
    parent[branches] = rng.integers(0, np.maximum(branches, 1))
    heading = rng.normal(size=(n, 3))
    positions = np.zeros((n, 3))
    for node in range(1, n):
        heading[node] += 3 * heading[parent[node]] * (node not in branches)
        heading[node] /= np.linalg.norm(heading[node])
        positions[node] = positions[parent[node]] + step * heading[node]
    closing = rng.choice(np.arange(2, n), n // 8) if n > 2 else np.zeros(0, dtype=int)
    edges = np.concatenate(
        [np.stack([parent[1:], np.arange(1, n)], 1), np.stack([parent[parent[closing]], closing], 1)]
    )
    edges = edges[(edges[:, 0] != edges[:, 1]) & (edges >= 0).all(axis=1)]
    place = rng.permutation(n)
    shuffled = np.empty((n, 3))
    shuffled[place] = positions
    return np.rint(shuffled) + 1_000_000, np.unique(np.sort(place[edges], axis=1), axis=0)
