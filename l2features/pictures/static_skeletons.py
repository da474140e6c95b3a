"""Skeletons of a static export. As for the HTTP API, they are made from the graph and the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from ..config.datasets import Dataset
from ..core.errors import GraphUnavailable, StoreUnavailable
from ..core.geometry import Geometry
from ..core.ids import Ids
from ..ingest.source import open_dataset_graph
from ..ingest.steps import in_attempts
from ..neurons.kept import SKELETON
from ..neurons.neuron_reader import NeuronReader
from ..query.reader import Reader
from ..store.base import open_store
from ..versions.plan import evenly_spread
from ..volume.sharded import Sharding
from .shard_sizes import GZIP, MURMUR, list_sharding
from .skeleton_layer import skeleton_bytes, skeleton_info
from .static_index import SKELETONS, Index, sharded

MOST_NODES = 20_000_000
"""Maximum number of L2 nodes of a root that gets a skeleton."""
SAMPLE = 16
"""Skeletons that are made to estimate the sizes of shards."""


class Skeletons:
    """Reads skeletons of roots; keeps the graph and the store open."""

    def __init__(self, dataset: Dataset, geometry: Geometry) -> None:
        self._graph = open_dataset_graph(dataset)
        self._store = open_store(dataset.store, dataset.l2cache_id)
        self._neurons = NeuronReader(Reader(self._store, geometry), self._graph, most_nodes=MOST_NODES)

    def close(self) -> None:
        """Close connections."""
        self._graph.close()
        self._store.close()

    def read(self, roots: Ids, progress: Callable[[], object] | None = None) -> Iterator[bytes]:
        """Yield the skeleton of each root, and call ``progress`` after each. Transient errors are retried.

        Raises GraphError, StoreError, and RootError, see `NeuronReader`.
        """
        for root in roots.tolist():
            yield in_attempts(partial(self._one, root), GraphUnavailable, StoreUnavailable)
            if progress is not None:
                progress()

    def _one(self, root: int) -> bytes:
        return self._neurons.kept_bytes(SKELETON, root, skeleton_bytes)[0]

    def index(self, roots: Ids, nodes: np.ndarray, wanted: int) -> Index:
        """Return the index of the skeletons of roots (n,); ``nodes`` (n,) is each root's number of nodes.

        A skeleton's size is assumed proportional to its root's nodes. Files have about ``wanted`` bytes.
        Raises GraphError, StoreError, and RootError, see `NeuronReader`.
        """
        some = list(evenly_spread(len(roots), SAMPLE))
        one_file = Sharding(0, 0, 0, MURMUR, GZIP, GZIP)
        sampled = sharded(one_file, roots[some], self.read(roots[some]))
        sizes = nodes * (len(sampled) - one_file.index_bytes) / max(1, nodes[some].sum())
        sharding = list_sharding([(roots, sizes)], len(roots), sizes.sum(), wanted)
        return Index(layer=SKELETONS, kind="skeletons", key="", sharding=sharding)


def skeletons_info(index: Index) -> dict[str, Any]:
    """Return the ``info`` file of the layer ``skeletons``, including the sharding of its index."""
    return {**skeleton_info(), "sharding": index.info()["sharding"]}
