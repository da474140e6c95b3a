"""Read the rows of one unit of work: the valid nodes in a block of chunks, or the nodes of some new roots."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import numpy as np

from ..config.datasets import Dataset
from ..core.chunks import ChunkBox
from ..core.errors import GraphError, GraphUnavailable, StoreError, StoreUnavailable
from ..core.geometry import Chunk, Geometry, Triple, as_triple
from ..core.ids import Ids, as_ids, sorted_unique
from ..graph.base import NodeRoots
from ..ingest.source import open_dataset_graph
from ..ingest.steps import in_attempts
from ..neurons.root_summaries import too_large
from ..store.base import DONE, open_store
from .node_rows import blank, labels, put_rows
from .plan import ROOTS_PER_UNIT, Plan

T = TypeVar("T")
THREADS = 4
"""Chunks whose rows are read at the same time."""
MOST_NODES = 200_000_000
"""Maximum number of L2 nodes of a root."""


@dataclass(frozen=True)
class Units:
    """What a worker needs to read a version's units of work."""

    dataset: Dataset
    geometry: Geometry
    time: datetime
    plan: Plan

    def open(self) -> UnitSource:
        """Return an open source. Raises ConfigError, GraphError, StoreError or VolumeError."""
        return UnitSource(self)

    def box(self, unit: int) -> ChunkBox:
        """Return the box of chunks that a unit reads, for a version without a base."""
        return block_of(self.plan.chunk_box(self.geometry), self.plan.block, unit)

    def roots(self, unit: int) -> Ids:
        """Return the new roots that a unit reads, for a version based on an older one."""
        return as_ids(self.plan.made[unit * ROOTS_PER_UNIT : (unit + 1) * ROOTS_PER_UNIT])


class UnitSource:
    """Reads the nodes of units of work; keeps the graph and the store open."""

    def __init__(self, units: Units) -> None:
        self.units, self.geometry = units, units.geometry
        self.graph = open_dataset_graph(units.dataset)
        self.store = open_store(units.dataset.store, units.dataset.l2cache_id)
        self._threads = ThreadPoolExecutor(THREADS)

    def close(self) -> None:
        """Close connections."""
        self._threads.shutdown()
        self.graph.close()
        self.store.close()

    def read(self, unit: int) -> np.ndarray:
        """Return the nodes of a unit, dtype `NODE_ROW`, sorted by root and node.

        Transient errors are retried. Raises GraphError and StoreError.
        """
        units = self.units
        if units.plan.base is None:
            box = units.box(unit)
            rows = self._attempted(f"chunks {box}", lambda: self._block(box))
        else:
            what = f"part {unit} of the changed roots"
            rows = self._attempted(what, lambda: self._roots(units.roots(unit)))
        return rows[np.lexsort((labels(rows), rows["root"]))]

    def nodes_in(self, box: ChunkBox) -> NodeRoots:
        """Return the valid nodes of chunks, with retries. Raises GraphError and StoreError."""
        return self._attempted(f"chunks {box}", lambda: self._nodes_in(box))

    def nodes_of(self, unit: int) -> NodeRoots:
        """Return the nodes of the new roots in a unit, with retries. Raises GraphError and StoreError."""
        roots = self.units.roots(unit)
        return self._attempted(f"part {unit} of the changed roots", lambda: self._nodes_of(roots))

    def _attempted(self, what: str, read: Callable[[], T]) -> T:
        try:
            return in_attempts(read, GraphUnavailable, StoreUnavailable)
        except (GraphError, StoreError) as error:
            raise type(error)(f"{what}: {error}") from error

    def _nodes_in(self, box: ChunkBox) -> NodeRoots:
        nodes = self.graph.valid_nodes(self.geometry, box, self.units.time)
        if not self.graph.permanent:
            self._check_ingested(box)
        return nodes

    def _block(self, box: ChunkBox) -> np.ndarray:
        layout = self.geometry.layout
        rows = blank(nodes := self._nodes_in(box))
        columns = layout.chunk_coordinates(nodes.l2_ids)[:, :2]
        starts = np.flatnonzero((columns[1:] != columns[:-1]).any(axis=1)) + 1

        def fill(part: np.ndarray) -> None:
            ids = labels(part)
            put_rows(part, self.store.scan_chunk(int(ids[0]), int(ids[-1])))

        list(self._threads.map(fill, np.split(rows, starts) if len(rows) else []))
        return rows

    def _check_ingested(self, box: ChunkBox) -> None:
        """Raise StoreError if a chunk was not ingested. Called only for data sets without a graph."""
        chunk_ids = self.geometry.layout.chunk_id_array(list(box.in_order()))
        for chunk_id in chunk_ids[self.store.chunk_states(chunk_ids) != DONE].tolist():
            if self.store.segments(chunk_id) is None:
                chunk = Chunk(*self.geometry.layout.chunk_coordinates(as_ids([chunk_id]))[0].tolist())
                raise StoreError(
                    f"chunk {chunk} was not ingested: ingest it, or choose other chunks by --chunks"
                )

    def _roots(self, roots: Ids) -> np.ndarray:
        rows = blank(nodes := self._nodes_of(roots))
        put_rows(rows, self.store.read(sorted_unique(nodes.l2_ids)))
        return rows

    def _nodes_of(self, roots: Ids) -> NodeRoots:
        found = self.graph.root_nodes(self.geometry, roots, MOST_NODES)
        if found.errors or found.too_large:
            large = {root: too_large(size, MOST_NODES) for root, size in found.too_large.items()}
            root, why = next(iter({**found.errors, **large}.items()))
            raise GraphError(f"root {root}: {why}")
        unknown = roots[~np.isin(roots, as_ids(found.l2_ids))]
        if len(unknown):
            raise GraphError(f"root {unknown[0]} has no nodes in the graph")
        ids = np.concatenate([as_ids([]), *found.l2_ids.values()])
        owners = np.repeat(as_ids(found.l2_ids), [len(own) for own in found.l2_ids.values()])
        box = self.units.plan.chunk_box(self.geometry)
        chunks = self.geometry.layout.chunk_coordinates(ids)
        inside = ((chunks >= box.start) & (chunks < box.stop)).all(axis=1)
        return NodeRoots(ids[inside], owners[inside])


def block_grid(box: ChunkBox, edge: int) -> Triple:
    """Return how many aligned blocks, ``edge`` chunks wide, a box touches along each axis."""
    x, y, z = (-(-b // edge) - a // edge for a, b in zip(box.start, box.stop, strict=True))
    return x, y, z


def block_of(box: ChunkBox, edge: int, number: int) -> ChunkBox:
    """Return the part of a box that lies in block ``number`` of `block_grid`, counted from 0, z fastest."""
    place = np.unravel_index(number, block_grid(box, edge))
    first = (np.array(box.start) // edge + np.array(place)) * edge
    start, stop = np.maximum(box.start, first), np.minimum(box.stop, first + edge)
    return ChunkBox(as_triple(start), as_triple(stop))
