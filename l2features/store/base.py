"""The interface of a store, split into protocols such as `FeatureRows`, and the list of store types."""

from __future__ import annotations

import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..core.chunks import NO_FILES, FileCounts
from ..core.errors import ConfigError, StoreError, TableExists
from ..core.geometry import Geometry
from ..core.ids import IdLayout, Ids
from ..core.rows import Rows
from ..core.schema import NAMES, TABLE_NAME
from ..core.times import utc_time
from .chunk_totals import ChunkTotals, totals_of


class StoreKind(NamedTuple):
    """A kind of store: the pattern of its URLs, and its class as ``module:name``, imported on first use."""

    urls: re.Pattern[str]
    place: str


STORES = {
    "bigtable://project/instance": StoreKind(
        re.compile(r"bigtable://[^/?#]+/[^/?#]+/?"), "l2features.store.bigtable.bigtable_store:BigtableStore"
    ),
    "sqlite:///path/file.db": StoreKind(
        re.compile(r"sqlite:///+[^/](.*[^/])?"), "l2features.store.sqlite.sqlite_store:SqliteStore"
    ),
}
"""The kinds of store, by a form of their URLs that is shown in messages."""
NOTE_NAME = re.compile(r"[a-z_]{1,50}")
CELL_NAME = re.compile(r"[a-z0-9_]{1,50}")
MOST_CELL_BYTES = 10_000_000
"""Maximum bytes of a root's cell: Bigtable recommends 10 MB at most."""
DONE, FAILED = "done", "failed"
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Meta:
    """Description of a table: it has features of graph ``graph_id`` at ``timestamp`` (UTC).

    ``cv_path`` is the path of the segmentation. ``geometry`` is None in tables of PCGL2Cache.
    """

    graph_id: str
    cv_path: str
    timestamp: str
    geometry: Geometry | None = None

    @property
    def time(self) -> datetime:
        """The timestamp, parsed. Raises StoreError if it is malformed."""
        try:
            return utc_time(self.timestamp)
        except ValueError as error:
            where = f"table of graph {self.graph_id!r}"
            raise StoreError(f"{where}: timestamp {self.timestamp!r} in its meta: {error}") from error


@dataclass(frozen=True)
class ChunkRecord:
    """Outcome of the ingest of one chunk.

    Attributes:
        state: ``done`` or ``failed``.
        time: when the outcome was recorded (UTC).
        nodes: number of nodes in the chunk.
        orphans: number of supervoxels that have no L2 node.
        reason: why the chunk failed.
        files: how many of the chunk's segmentation files were expected, read, missing, forbidden and empty.
        saturated: by attribute, the number of nodes whose value is the maximum of the stored type.
    """

    chunk_id: int
    state: str
    time: datetime
    nodes: int = 0
    orphans: int = 0
    reason: str = ""
    files: FileCounts = NO_FILES
    saturated: Mapping[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return self.state == FAILED


class Structure(NamedTuple):
    """A one-line description of a table's storage, and the problems found in it."""

    text: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Coverage:
    """Number of done and of failed chunks, and the time of the newest chunk record (UTC)."""

    done: int
    failed: int
    newest: datetime | None


class FeatureRows(Protocol):
    """A table's rows of features."""

    def write(self, features: np.ndarray) -> None:
        """Write complete rows (dtype `schema.FEATURES`) durably. Repeating the call changes nothing."""

    def read(self, ids: Any, names: Sequence[str] = NAMES) -> Rows:
        """Return the rows of these ids, in the order of the ids, with the attributes ``names``.

        An id that is missing from the table gets a row without attributes.
        """

    def scan_chunk(self, chunk_id: int, last_id: int, names: Sequence[str] = NAMES) -> Rows:
        """Return all rows with ids from ``chunk_id`` to ``last_id``, both included, sorted by id."""

    def first_ids(self, first_id: int, most: int) -> Ids:
        """Return the ids of the first ``most`` rows whose id is at least ``first_id``, sorted."""

    def delete(self, first_id: int, last_id: int) -> None:
        """Delete the rows from ``first_id`` to ``last_id``, both included."""


class ChunkLog(Protocol):
    """What a table records of its chunks: their outcomes, their segments, and unfinished attempts."""

    def put_chunk(self, record: ChunkRecord, segments: Ids | None = None) -> None:
        """Record a chunk's outcome and, for a data set without a graph, the segment of each node.

        The table's index from segments to nodes is updated: the chunk's earlier segments are replaced.
        """

    def chunk_records(self) -> Iterator[ChunkRecord]:
        """Yield every record, in no particular order."""

    def chunk_states(self, chunk_ids: Ids) -> npt.NDArray[np.str_]:
        """Return the state of each chunk, shape (n,); "" if it has no record."""

    def incomplete_chunks(self, chunk_ids: Ids) -> npt.NDArray[np.bool_]:
        """Return whether each chunk is done although segmentation files were missing or empty, shape (n,)."""

    def failures(self, chunk_ids: Ids) -> dict[int, str]:
        """Map the failed chunks among ``chunk_ids`` to the reasons of their failure."""

    def coverage(self) -> Coverage:
        """Count the chunks by state. If a store reads records in pages, each page has its own deadline."""

    def chunk_totals(self, window: timedelta, most_failed: int) -> ChunkTotals:
        """Return sums over all chunk records; see `ChunkTotals`. Each page read has its own deadline."""

    def segments(self, chunk_id: int) -> Ids | None:
        """Return a chunk's segments, as passed to `put_chunk`; None if no segments are recorded.

        The segment at index i belongs to the node ``chunk_id`` + i + 1.
        """

    def count_attempts(self, chunk_id: int, works: Sequence[str] = ("",)) -> list[int]:
        """Add 1 to the attempt count of each task in ``works`` on a chunk; return the new counts.

        Callers clear a count when the attempt ends. After an attempt that kills or hangs its process, the
        count stays. The task ``""`` means the whole chunk; `put_chunk` sets its count to 0.
        """

    def clear_attempts(self, chunk_id: int, works: Sequence[str] = ("",)) -> None:
        """Set the number of attempts at each task in ``works`` on a chunk to 0."""


class RootCells(Protocol):
    """Cells of roots: a cell is a byte string that is stored for a root under a name."""

    def root_cells(self, roots: Ids, names: Sequence[str]) -> dict[int, dict[str, bytes]]:
        """Return cells by root and name; roots and names without a cell are left out."""

    def put_root_cells(self, cells: Mapping[int, Mapping[str, bytes]]) -> None:
        """Write cells by root and name durably. They replace cells of the same name; other cells remain.

        Raises ValueError if a name does not match `CELL_NAME`, or a value has more than `MOST_CELL_BYTES`.
        """

    def delete_root_cells(self, roots: Ids) -> None:
        """Delete all cells of these roots."""


class SegmentIndex(Protocol):
    """The nodes of each segment of a data set without a graph."""

    def segment_nodes(self, segments: Ids, most: int) -> dict[int, Ids]:
        """Return the lowest nodes of each segment, sorted, at most ``most`` + 1; leave out unknown segments.

        If a segment has ``most`` + 1 nodes in the result, it has more than ``most`` nodes.
        """

    def index_segments(self, chunk_id: int, segments: Ids) -> None:
        """Add a chunk's segments to the index: the segment at index i belongs to node ``chunk_id`` + i + 1.

        Indexing the same segments again changes nothing.
        """


class TableNotes(Protocol):
    """Descriptions of a whole table: its meta, its geometry, and notes, which are named texts."""

    name: str

    def meta(self) -> Meta | None:
        """Return the table's meta; None if the table has none."""

    def stamp(self, meta: Meta) -> None:
        """Write the meta of an existing table. A meta without a geometry keeps the table's geometry."""

    def geometry(self) -> Geometry | None:
        """Return the table's geometry, even if the table has no meta; None if it has no geometry."""

    def put_geometry(self, geometry: Geometry) -> None:
        """Write the geometry of an existing table, even if the table has no meta."""

    def note(self, name: str) -> str | None:
        """Return the note of this name; None if the table has no such note."""

    def put_note(self, name: str, text: str) -> None:
        """Write a note to an existing table. Raises ValueError for a name that does not match `NOTE_NAME`."""


class Store(FeatureRows, ChunkLog, RootCells, SegmentIndex, TableNotes, ABC):
    """One table of features.

    Threads may share a store. A store connects on first use, and again in a forked process.
    `l2features.testing.store_suite` tests what this class promises. Every method raises:

    - `TableNotFound` if the table is missing;
    - `StoreUnavailable` if the store cannot be reached, or does not answer within ``deadline_s`` seconds;
    - `UnknownFormat` for content that a newer version of l2features wrote;
    - `StoreError` for malformed content.
    """

    def __init__(self, url: str, name: str, deadline_s: float = DEADLINE_S) -> None:
        self.url, self.name, self.deadline_s = url, name, deadline_s

    def create(self, meta: Meta) -> None:
        """Create the table and write its meta. Raises `TableExists` if the table exists with another meta."""
        self.create_table()
        existing = self.meta()
        if existing is None:
            self.stamp(meta)
        elif existing != meta:
            found = vars(existing)
            differing = [key for key, wanted in vars(meta).items() if found[key] != wanted]
            others = "; ".join(f"{key} {found[key]!r}, expected {vars(meta)[key]!r}" for key in differing)
            raise TableExists(f"table {self.name} in {self.url} has other metadata: {others}")

    @abstractmethod
    def create_table(self) -> None:
        """Create the table without a meta. An existing table remains unchanged."""

    @abstractmethod
    def ping(self) -> None:
        """Check that the store can be reached and has the table."""

    def chunk_totals(self, window: timedelta, most_failed: int) -> ChunkTotals:
        """Return sums over all chunk records; see `ChunkTotals`. Stores may override this for speed."""
        return totals_of(self.chunk_records(), window, most_failed)

    def structure(self) -> Structure:
        """Return a description of the table's storage and the problems found in it; both may be empty."""
        return Structure()

    @abstractmethod
    def close(self) -> None:
        """Close all connections. The next call opens them again."""

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "name": self.name, "deadline_s": self.deadline_s}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def node_segments(log: ChunkLog, layout: IdLayout, ids: Ids) -> Ids:
    """Return the segment of each node of a data set without a graph, shape (n,); 0 for an unknown node."""
    out = np.zeros(len(ids), dtype=np.uint64)
    known = layout.known(ids)
    chunk_ids = np.where(known, ids, np.uint64(0))
    chunk_ids[known] = layout.chunk_ids(ids[known])
    for chunk_id in np.unique(chunk_ids[known]).tolist():
        segments = log.segments(chunk_id)
        if segments is None:
            continue
        places = np.flatnonzero(known & (chunk_ids == chunk_id))
        ranks = (ids[places] - np.uint64(chunk_id)).astype(np.int64) - 1
        inside = (ranks >= 0) & (ranks < len(segments))
        out[places[inside]] = segments[ranks[inside]]
    return out


def check_note_name(name: str) -> None:
    """Raise ValueError for a malformed name of a note."""
    if not NOTE_NAME.fullmatch(name):
        raise ValueError(f"note name {name!r}: expected 1 to 50 lower-case letters or '_'")


def store_form(url: str) -> str | None:
    """Return the key in `STORES` whose URL pattern matches ``url``; None if no pattern matches."""
    return next((form for form, kind in STORES.items() if kind.urls.fullmatch(url)), None)


def open_store(url: str, name: str, deadline_s: float = DEADLINE_S) -> Store:
    """Open the table ``name`` of the store at ``url``, without I/O. The table need not exist yet.

    The keys of `STORES` show the forms of ``url``. ``deadline_s`` is the time limit of each call, in seconds.
    Raises ConfigError for a malformed URL or name.
    """
    if not TABLE_NAME.fullmatch(name):
        raise ConfigError(f"table name {name!r}: expected 1 to 50 letters, digits, '_', '-' or '.'")
    form = store_form(url)
    if form is None:
        forms = [form for form in STORES if form.partition(":")[0] == url.partition(":")[0]] or [*STORES]
        raise ConfigError(f"store {url!r}: expected {' or '.join(forms)}")
    store: Store = pkgutil.resolve_name(STORES[form].place)(url, name, deadline_s)
    return store


def register_store(form: str, pattern: str, place: str) -> None:
    """Register a kind of store. `open_store` and the data sets file (YAML) then accept its URLs.

        register_store("memory://name", r"memory://[a-z]+", "my_stores:MemoryStore")

    Args:
        form: a URL of the store with placeholders, for messages.
        pattern: regular expression that the URLs of the store match.
        place: the store's class, as ``module:name``. It is a subclass of `Store`; its constructor takes a
            URL, the name of a table, and a deadline in seconds.
    """
    STORES[form] = StoreKind(re.compile(pattern), place)
