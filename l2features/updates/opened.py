"""Open data sets: their stores, geometries, segmentations and graphs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

from ..config.datasets import Dataset
from ..core.errors import L2FeaturesError
from ..core.geometry import Geometry
from ..ingest.compute import read_geometry
from ..ingest.node_features import NodeSource
from ..store.base import Store, open_store

LAUNCH_DEADLINE_S = 10.0
"""Deadline of a launcher for a data set's store."""
_AT_ONCE = 8
logger = logging.getLogger(__name__)


class OpenDatasets:
    """Data sets, opened when a message first needs them. It is safe to share among threads."""

    def __init__(self, datasets: Iterable[Dataset], geometries: Iterable[tuple[str, str]] = ()) -> None:
        self._datasets = {dataset.name: dataset for dataset in datasets}
        self._opening = {name: threading.RLock() for name in self._datasets}
        self._stores: dict[str, Store] = {}
        self._geometries = {name: Geometry.from_json(text) for name, text in geometries}
        self._sources: dict[str, NodeSource] = {}

    def store(self, name: str) -> Store:
        """Return the store of a data set."""
        with self._opening[name]:
            if name not in self._stores:
                dataset = self._datasets[name]
                self._stores[name] = open_store(dataset.store, dataset.l2cache_id)
            return self._stores[name]

    def geometry(self, name: str) -> Geometry:
        """Return the geometry of a data set, from its table or else from its segmentation."""
        with self._opening[name]:
            if name not in self._geometries:
                self._geometries[name] = _geometry(self._datasets[name], self.store(name))
            return self._geometries[name]

    def close(self) -> None:
        """Close connections."""
        with ExitStack() as all_of_them:
            for source in self._sources.values():
                all_of_them.callback(source.close)
            for store in self._stores.values():
                all_of_them.callback(store.close)
        self._sources, self._stores = {}, {}

    def _source(self, name: str) -> NodeSource:
        with self._opening[name]:
            if name not in self._sources:
                self._sources[name] = NodeSource(self._datasets[name], self.geometry(name))
            return self._sources[name]


def read_geometries(datasets: Sequence[Dataset]) -> tuple[tuple[str, str], ...]:
    """Return the geometries of data sets as (name, JSON), which a launcher passes to its workers.

    A data set that cannot be read is logged and left out: workers read it when a message names it.
    """
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        found = list(threads.map(_read_json, datasets))
    return tuple((dataset.name, text) for dataset, text in zip(datasets, found, strict=True) if text)


def _read_json(dataset: Dataset) -> str:
    try:
        with closing(open_store(dataset.store, dataset.l2cache_id, LAUNCH_DEADLINE_S)) as store:
            return _geometry(dataset, store).to_json()
    except L2FeaturesError as error:
        logger.warning("data set %s: cannot read its geometry yet: %s", dataset.name, error)
        return ""


def _geometry(dataset: Dataset, store: Store) -> Geometry:
    return store.geometry() or read_geometry(dataset)
