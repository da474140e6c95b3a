"""The data sets that a server process serves, each opened once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import NamedTuple, TypeVar

from prometheus_client import Counter, Histogram

from l2features.config.datasets import Dataset
from l2features.config.datasets import Datasets as File
from l2features.config.entries import as_json
from l2features.core.errors import L2FeaturesError, StoreError, VersionNotFound
from l2features.core.geometry import Geometry
from l2features.graph.base import Graph
from l2features.graph.sources import open_graph
from l2features.neurons.neuron_reader import NeuronReader
from l2features.overview.chunk_scan import ChunkScan, shared_scan
from l2features.query.cache import RowCache
from l2features.query.reader import Reader
from l2features.store.base import Coverage, Meta, Store, open_store
from l2features.store.notes import BadNote, LastAudit, last_audit
from l2features.updates.freshness import Updates, read_updates
from l2features.versions.catalog import Catalog
from l2features.versions.places import versions_folder

from . import metrics
from .background import BackgroundCache, Opener
from .config import Settings
from .error_responses import ApiError

WAIT_S = 2.0
"""Time that a request waits for the first coverage or notes of a table."""
log = logging.getLogger("l2features.api")
T = TypeVar("T")


class OpenDataset(NamedTuple):
    """A data set's reader of features, and the metadata of its table, if the table has any."""

    reader: Reader
    meta: Meta | None


class Counted(NamedTuple):
    """A table's coverage, and when it was counted (UTC)."""

    coverage: Coverage
    time: datetime


class Noted(NamedTuple):
    """A table's freshness and the result of its last audit, and when both were read (UTC)."""

    updates: Updates | None
    audit: LastAudit | None
    time: datetime


class VersionsPlace(NamedTuple):
    """A data set's catalog of versions; ``catalog`` is None if the data set has no folder of versions."""

    catalog: Catalog | None


class ReadMetrics(NamedTuple):
    """The metrics of a data set's reads."""

    hits: Counter
    misses: Counter
    store_ids: Counter
    store_reads: Histogram


class ServedDataset:
    """A served data set: store, graph, caches. Metadata is read once, in the background, on first use."""

    def __init__(self, entry: Dataset, settings: Settings) -> None:
        self.entry, self.settings = entry, settings
        self.store: Store = open_store(entry.store, entry.l2cache_id, deadline_s=settings.store_timeout_s)
        self._metadata = Opener(self._open, self._cannot("cannot open data set"))
        self._neurons = Opener(self._open_neurons, self._cannot("cannot open graph"))
        self._graph: Graph | None = None
        self._catalogs: dict[str, Catalog] = {}
        self.counted = BackgroundCache(self._count, age_s=30.0, share=20.0, first_s=WAIT_S, later_s=0.0)
        """The table's coverage, cached, since counting the chunks of a large table is slow."""
        self.noted = BackgroundCache(self._read_notes, age_s=10.0, share=20.0, first_s=WAIT_S, later_s=0.5)
        """The table's notes on updates and the last audit, cached."""
        self.largest = BackgroundCache(self._largest, age_s=60.0, share=20.0, first_s=WAIT_S, later_s=0.0)
        """The number of nodes in the chunk with the most nodes, cached."""
        self._place = BackgroundCache(self._find_versions, age_s=5.0, share=20.0, first_s=WAIT_S, later_s=0.5)
        self._warned: dict[str, str] = {}

    @property
    def name(self) -> str:
        return self.entry.name

    def opening(self) -> Future[OpenDataset]:
        """Return the future of the latest attempt to open the data set; starts an attempt if one is due."""
        return self._metadata.opening()

    def opened(self) -> OpenDataset:
        """Return the data set's reader and metadata.

        Raises StoreError if the table cannot be read, and ApiError 503 if the metadata cannot be read in
        time.
        """
        message = (
            f"the metadata of data set {self.name!r} cannot be read: its graph does not answer, or is invalid"
        )
        return self._result(self._metadata, self.settings.store_timeout_s, "metadata_unavailable", message)

    def catalog(self) -> Catalog:
        """Return the catalog of versions. Raises VersionNotFound if the data set has no folder of versions.

        Also raises StoreError if the table cannot be read, and ApiError 503 if this takes too long.
        """
        catalog = self.catalog_or_none()
        if catalog is None:
            raise VersionNotFound(f"data set {self.name!r} has no versions")
        return catalog

    def catalog_or_none(self) -> Catalog | None:
        """Return the catalog of versions; None if the data set has no folder of versions.

        Raises StoreError if the table cannot be read, and ApiError 503 if this takes too long.
        """
        place = self._place.get()
        if place is None:
            message = f"the folder of versions of data set {self.name!r} is not known yet: try again later"
            raise self._unavailable("metadata_unavailable", message)
        return place.catalog

    def neurons(self) -> NeuronReader:
        """Return the reader of roots.

        Raises StoreError if the table cannot be read, and ApiError 503 if the metadata or the graph cannot be
        opened in time.
        """
        self.opened()
        message = f"the graph of data set {self.name!r} cannot be opened at the moment: try again later"
        return self._result(self._neurons, self.settings.graph_timeout_s, "graph_unavailable", message)

    def close(self) -> None:
        """Close all connections."""
        self.store.close()
        if self._graph is not None:
            self._graph.close()

    def _result(self, opener: Opener[T], timeout_s: float, code: str, message: str) -> T:
        """Return the result of ``opener``.

        Raises StoreError unchanged, and ApiError 503 for any other L2FeaturesError or a time-out.
        """
        try:
            return opener.result(timeout_s)
        except StoreError:
            raise
        except (FutureTimeout, L2FeaturesError) as error:
            raise self._unavailable(code, message) from error

    def _unavailable(self, code: str, message: str) -> ApiError:
        return ApiError(503, code, message, retry_after=self.settings.retry_after_s)

    def _cannot(self, what: str) -> Callable[[str], None]:
        """Return a function that receives an error and logs it with the message ``what``."""
        return lambda error: log.warning(what, extra={"dataset": self.name, "error": error})

    def _open(self) -> OpenDataset:
        geometry = self.store.geometry() or self._geometry_of_graph()
        meta = self.store.meta()
        cache = RowCache(self.settings.cache_rows) if self.settings.cache_rows else None
        return OpenDataset(Reader(self.store, geometry, cache, self._on_lookup, self._on_read), meta)

    def _find_versions(self) -> VersionsPlace:
        """Return the catalog of versions. Their folder is named in the data sets file or else in the table.

        Makes a new `Catalog` only if the folder's URL has changed.
        """
        try:
            folder = versions_folder(self.entry, self.store)
        except VersionNotFound:
            return VersionsPlace(None)
        known = self._catalogs.get(folder.url)
        if known is None:
            settings = self.settings
            known = Catalog(folder, settings.max_ids, settings.max_row_groups)
            self._catalogs = {folder.url: known}
        return VersionsPlace(known)

    def _open_neurons(self) -> NeuronReader:
        settings = self.settings
        graph = open_graph(self.entry.graph_url, lambda: self.store)
        graph.deadline_s = settings.graph_timeout_s
        self._graph = graph
        return NeuronReader(
            self.opened().reader,
            graph,
            settings.keep_roots,
            settings.max_root_nodes,
            settings.cache_root_bytes,
        )

    def _geometry_of_graph(self) -> Geometry:
        """Read the geometry from segmentation and graph, and store it in the table for later starts."""
        # Only PCGL2Cache's tables need it: a second of imports that other servers do without.
        from l2features.ingest.compute import read_geometry

        geometry = read_geometry(self.entry)
        try:
            self.store.put_geometry(geometry)
        except StoreError as error:
            log.warning("cannot store the geometry", extra={"dataset": self.name, "error": str(error)})
        return geometry

    def _count(self) -> Counted:
        with self._warnings("cannot count chunks"):
            return Counted(self.store.coverage(), datetime.now(UTC))

    def scan(self) -> ChunkScan:
        """Return ingest progress and a map of chunks by state, from the latest scan of the chunk records.

        Scans the table if a new scan is due. Raises StoreError if the table cannot be read, and ApiError 503
        if the metadata cannot be read in time.
        """
        return shared_scan(self.store, self.opened().reader.geometry)

    def _largest(self) -> int:
        with self._warnings("cannot read the records of chunks"):
            return self.scan().map.most_nodes

    def _read_notes(self) -> Noted:
        updates = self._note("the table's note on updates", read_updates)
        audit = self._note("the table's note on the last audit", last_audit)
        metrics.show_updates(self.name, updates)
        return Noted(updates, audit, datetime.now(UTC))

    def _note(self, what: str, read: Callable[[Store], T | None]) -> T | None:
        """Return the note that ``read`` reads from the table; None if it is missing or invalid.

        Logs a StoreError, and re-raises it unless it is a BadNote. ``what`` names the note in the log.
        """
        with suppress(BadNote), self._warnings(f"cannot read {what}"):
            return read(self.store)
        return None

    @contextmanager
    def _warnings(self, message: str) -> Iterator[None]:
        """Log and re-raise a StoreError of the ``with`` block. Logs ``message`` once for a repeated error."""
        try:
            yield
        except StoreError as error:
            if self._warned.get(message) != str(error):
                log.warning(message, extra={"dataset": self.name, "error": str(error)})
            self._warned[message] = str(error)
            raise
        self._warned.pop(message, None)

    @cached_property
    def _metrics(self) -> ReadMetrics:
        """The data set's metrics. Created on first use, after the fork: each worker writes its own files."""
        hits, misses = (metrics.CACHE_LOOKUPS.labels(self.name, outcome) for outcome in ("hit", "miss"))
        return ReadMetrics(
            hits, misses, metrics.STORE_IDS.labels(self.name), metrics.STORE_READS.labels(self.name)
        )

    def _on_lookup(self, hits: int, misses: int) -> None:
        if hits:
            self._metrics.hits.inc(hits)
        if misses:
            self._metrics.misses.inc(misses)

    def _on_read(self, ids: int, seconds: float) -> None:
        self._metrics.store_ids.inc(ids)
        self._metrics.store_reads.observe(seconds)


class ServedDatasets:
    """The data sets of a data sets file, by name; ``mapping`` is the file's content as JSON objects."""

    def __init__(self, file: File, settings: Settings) -> None:
        self.mapping = as_json(file.entries)
        self.problems = file.problems
        """Problems of entries that cannot be served, by name."""
        self._served = {name: ServedDataset(entry, settings) for name, entry in file.usable.items()}
        for problem in file.errors:
            log.error("cannot serve data set: %s", problem)

    def __getitem__(self, name: str) -> ServedDataset:
        """Return a data set. Raises ApiError 404 for an unknown name, ApiError 503 for an invalid entry."""
        if name in self.problems:
            raise ApiError(503, "dataset_misconfigured", self.problems[name], field="dataset", value=name)
        if name not in self._served:
            message = f"data set {name!r:.120} is not served: expected a name from GET /table_mapping"
            raise ApiError(404, "unknown_dataset", message, field="dataset", value=name)
        return self._served[name]

    def warm(self) -> None:
        """Start reading the metadata of every data set."""
        for served in self._served.values():
            served.opening()

    def close(self) -> None:
        for served in self._served.values():
            served.close()

    def all(self) -> list[ServedDataset]:
        return list(self._served.values())
