"""Open data sets (store, geometry, segmentation and graph), and retry calls for a data set."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any, TypeVar

import tenacity

from ..config.datasets import Dataset
from ..core.errors import ConfigError, L2FeaturesError, StoreUnavailable
from ..core.geometry import Geometry
from ..ingest.compute import read_geometry
from ..ingest.node_features import NodeSource
from ..store.base import Store, open_store

LAUNCH_DEADLINE_S = 10.0
"""Seconds that a launcher waits for the store of a data set."""
_AT_ONCE = 8
LONGEST_PAUSE_S = 10.0
REST_S = 5.0
"""Seconds during which calls for a data set fail without an attempt, after its store was unavailable."""
T = TypeVar("T")
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
        return self._once(self._stores, name, lambda dataset: open_store(dataset.store, dataset.l2cache_id))

    def geometry(self, name: str) -> Geometry:
        """Return the geometry of a data set from its table; if the table has none, from the segmentation."""
        return self._once(
            self._geometries, name, lambda dataset: self.store(name).geometry() or read_geometry(dataset)
        )

    def close(self) -> None:
        """Close connections."""
        with ExitStack() as all_of_them:
            for source in self._sources.values():
                all_of_them.callback(source.close)
            for store in self._stores.values():
                all_of_them.callback(store.close)
        self._sources, self._stores = {}, {}

    def _source(self, name: str) -> NodeSource:
        return self._once(self._sources, name, lambda dataset: NodeSource(dataset, self.geometry(name)))

    def _once(self, opened: dict[str, T], name: str, open_it: Callable[[Dataset], T]) -> T:
        with self._opening[name]:
            if name not in opened:
                opened[name] = open_it(self._datasets[name])
            return opened[name]


class Retries:
    """Retries calls, up to ``attempts`` attempts each, with exponential backoff from ``pause_s`` seconds.

    It is safe to share among threads.
    """

    def __init__(self, attempts: int, pause_s: float) -> None:
        self.attempts, self.pause_s = attempts, pause_s
        self._away: dict[str, tuple[L2FeaturesError, float]] = {}

    def pauses(self) -> list[float]:
        """Return the seconds between the attempts."""
        return [min(self.pause_s * 2**n, LONGEST_PAUSE_S) for n in range(self.attempts - 1)]

    def call(self, name: str, call: Callable[..., T], *arguments: Any) -> T:
        """Return the result of a call for a data set; retry it after L2FeaturesError, not after ConfigError.

        After `StoreUnavailable`, calls for this data set raise the same error for `REST_S` seconds.
        """
        away, until = self._away.get(name, (None, 0.0))
        if away is not None and time.monotonic() < until:
            raise type(away)(str(away))
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=tenacity.wait_exponential_jitter(self.pause_s, LONGEST_PAUSE_S, jitter=self.pause_s),
            retry=tenacity.retry_if_exception_type(L2FeaturesError)
            & tenacity.retry_if_not_exception_type(ConfigError),  # it stays until the data sets file changes
            reraise=True,
        )
        try:
            return retrying(call, *arguments)
        except StoreUnavailable as error:
            self._away[name] = error, time.monotonic() + REST_S
            raise


def read_geometries(datasets: Sequence[Dataset]) -> tuple[tuple[str, str], ...]:
    """Return the geometries of data sets as (name, JSON), for a launcher to pass to its workers.

    A data set that cannot be read is logged and left out; workers read its geometry when a message names it.
    """
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        found = list(threads.map(_read_json, datasets))
    return tuple((dataset.name, text) for dataset, text in zip(datasets, found, strict=True) if text)


def _read_json(dataset: Dataset) -> str:
    try:
        with closing(open_store(dataset.store, dataset.l2cache_id, LAUNCH_DEADLINE_S)) as store:
            return (store.geometry() or read_geometry(dataset)).to_json()
    except L2FeaturesError as error:
        logger.warning("data set %s: cannot read its geometry yet: %s", dataset.name, error)
        return ""
