"""A data set's deployment: its table, graph and segmentation, opened when a check first needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..config.datasets import SERVED, Dataset
from ..core.geometry import Geometry
from ..core.ids import L2, IdLayout, Ids, as_ids, sorted_unique
from ..ingest.compute import read_geometry
from ..ingest.source import Source, open_source
from ..store.base import Meta, Store, open_store

STORE_DEADLINE_S = 20.0
PROBES, OF_A_PROBE = 56, 8
"""Number of starting points of the sample besides the first row (see `node_ids`), and rows read from each."""


@dataclass
class Deployment:
    """A data set to check, and the options and connections that its checks share.

    Attributes:
        subscriptions, topics: paths of Pub/Sub resources to check.
        chunks: number of chunks in which rows are recomputed.
        say: called with a message before a slow step.
        compile: compiles the kernel before rows are recomputed.
    """

    dataset: Dataset
    subscriptions: Sequence[str] = ()
    topics: Sequence[str] = ()
    chunks: int = 4
    say: Callable[[str], object] = lambda text: None
    compile: Callable[[], object] = lambda: None
    _open: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Close connections."""
        self._open.close()

    @cached_property
    def store(self) -> Store:
        store = open_store(self.dataset.store, self.dataset.l2cache_id, STORE_DEADLINE_S)
        self._open.callback(store.close)
        return store

    @cached_property
    def meta(self) -> Meta | None:
        return self.store.meta()

    @cached_property
    def source(self) -> Source:
        """The open segmentation and graph. Raises L2FeaturesError if they cannot be opened or disagree."""
        source = open_source(self.dataset)
        self._open.callback(source.close)
        return source

    @cached_property
    def geometry(self) -> Geometry:
        """The geometry from segmentation and graph; without a graph, the id layout comes from the table."""
        return read_geometry(self.dataset, self.store.geometry(), self.source)

    @property
    def graph_urls(self) -> list[str]:
        """The graph's URL and, if the segmentation is read from a server, the segmentation's URL."""
        served = [self.dataset.cv_path] if self.dataset.served else []
        return [*dict.fromkeys([*served, self.dataset.graph_url])] if self.dataset.has_graph else []

    @property
    def servers(self) -> list[str]:
        """The ``graphene://`` URLs among `graph_urls`."""
        return [url for url in self.graph_urls if url.startswith(f"{SERVED}://")]

    @cached_property
    def node_ids(self) -> Ids:
        """A sample of the table's L2 ids, sorted.

        Reads `OF_A_PROBE` rows from each of these ids on: the table's first L2 id, and this id + 2**k for
        k from 0 to 55. Ids with a large k are in distant chunks along x, y or z, whatever the id layout.
        """
        begin, end = layer_range(L2)
        first = self.store.first_ids(begin, 1)
        if not len(first) or int(first[0]) > end:
            return as_ids([])
        starts = [int(first[0]), *(int(first[0]) + (1 << bit) for bit in range(PROBES))]
        found = [self.store.first_ids(start, OF_A_PROBE) for start in starts if start <= end]
        ids = sorted_unique(np.concatenate(found))
        return ids[ids <= np.uint64(end)]

    def sampled_chunks(self) -> Iterator[int]:
        """Yield the ids of up to ``chunks`` chunks, spread evenly over the chunks of `node_ids`."""
        found = np.unique(self.geometry.layout.chunk_ids(self.node_ids))
        places = np.linspace(0, len(found) - 1, min(self.chunks, len(found))).astype(int)
        yield from found[places].tolist()


def layer_range(layer: int) -> tuple[int, int]:
    """Return a tuple: a layer's smallest id; its largest id. Assumes that ids have 8 bits for the layer."""
    shift = 64 - IdLayout().layer_bits
    return layer << shift, ((layer + 1) << shift) - 1
