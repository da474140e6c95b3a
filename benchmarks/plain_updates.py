"""A reference updater, for benchmarks: for each id, it computes a distance transform of the whole chunk.

It works like PCGL2Cache's workers, but measures only the requested node (plain_worker.py). It maps
supervoxels to nodes by one range scan of the graph's table, and asks no graph server.
"""

from __future__ import annotations

from datetime import UTC, datetime

import fastremap
import numpy as np

from benchmarks.plain_worker import plain_node
from l2features.config.datasets import load_datasets
from l2features.core.geometry import Chunk
from l2features.core.ids import as_ids
from l2features.graph.bigtable import BigtableGraph
from l2features.ingest.compute import timed
from l2features.store.base import Meta, open_store
from l2features.testing.em import GRAPH, GRAPH_URL, LAYOUT, STORE_URL, EmDataset

TABLE = "l2cache_plain"


class PlainUpdater:
    """Computes one id at a time, and writes it to table `TABLE`; ``millis`` is the total time by step."""

    def __init__(self, dataset: EmDataset) -> None:
        from cloudvolume import CloudVolume

        (entry,) = load_datasets(dataset.config).values()
        self.geometry, self.millis = dataset.geometry, dict[str, float]()
        self.volume = CloudVolume(entry.cv_path, progress=False, fill_missing=True)
        self.graph = BigtableGraph(GRAPH_URL)
        self.now = datetime.now(UTC)
        self.store = open_store(STORE_URL, TABLE)
        self.store.create(Meta(GRAPH, entry.cv_path, "2026-01-01 00:00:00", self.geometry))

    def handle(self, node: int) -> np.ndarray:
        """Compute a node's features, write them, and return them as one row, shape (1,)."""
        chunk = Chunk(*LAYOUT.chunk_coordinates(as_ids([node]))[0].tolist())
        with timed(self.millis, "read"):
            start = self.geometry.origins([chunk])[0].tolist()
            ends = zip(start, self.geometry.chunk_size, strict=True)
            labels = np.asarray(self.volume[tuple(slice(a, a + n) for a, n in ends)])[..., 0]
        with timed(self.millis, "map"):
            supervoxels = fastremap.unique(labels)
            supervoxels = supervoxels[supervoxels != 0]
            nodes = self.graph.l2_ids(self.geometry, chunk, supervoxels, self.now)
        with timed(self.millis, "compute"):
            parents = dict(zip(supervoxels.tolist(), nodes.tolist(), strict=True))
            row = plain_node(labels, parents, node, self.geometry.resolution)
        with timed(self.millis, "write"):
            self.store.write(row)
        return row

    def close(self) -> None:
        self.store.close()
