"""Where features are kept: one small interface, one implementation per kind of URL."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..core.chunks import NO_FILES, FileCounts
from ..core.errors import ConfigError, StoreError
from ..core.geometry import Geometry
from ..core.ids import IdLayout, Ids
from ..core.rows import Rows
from ..core.schema import NAMES, TABLE_NAME
from ..core.times import utc_time

NOTE_NAME = re.compile(r"[a-z_]{1,50}")
DONE, FAILED = "done", "failed"
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Meta:
    """What a table holds: features of ``graph_id`` as it was at ``timestamp`` (UTC), cut from ``cv_path``.

    ``geometry`` is missing in tables that another program made.
    """

    graph_id: str
    cv_path: str
    timestamp: str
    geometry: Geometry | None = None

    @property
    def time(self) -> datetime:
        """Raises StoreError where the timestamp is none."""
        try:
            return utc_time(self.timestamp)
        except ValueError as error:
            where = f"table of graph {self.graph_id!r}"
            raise StoreError(f"{where}: its meta's timestamp {self.timestamp!r}: {error}") from error


@dataclass(frozen=True)
class ChunkRecord:
    """Outcome of one chunk: ``state`` is ``done`` or ``failed``, ``time`` when (UTC).

    ``saturated`` counts, by attribute, the nodes whose value is the largest that its type holds.
    """

    chunk_id: int
    state: str
    time: datetime
    nodes: int = 0
    orphans: int = 0
    reason: str = ""
    files: FileCounts = NO_FILES
    saturated: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Coverage:
    """Recorded chunks by state, and when the newest of them was recorded (UTC)."""

    done: int
    failed: int
    newest: datetime | None


class Store(Protocol):
    """One table of features.

    Every method raises `StoreUnavailable` when the store cannot be reached or does not answer within
    ``deadline_s``, `TableNotFound` when the table is missing, `UnknownFormat` for what a newer version has
    written, and `StoreError` for what it should not hold.
    Several threads may use one store; it connects on first use, and anew in a process that was forked.
    """

    url: str
    name: str
    deadline_s: float

    def create(self, meta: Meta) -> None:
        """Make the table and stamp its meta. Raises `TableExists` where it is there with another meta."""

    def meta(self) -> Meta | None:
        """The table's meta; None where it has none."""

    def stamp(self, meta: Meta) -> None:
        """Write the meta of a table that is there."""

    def geometry(self) -> Geometry | None:
        """The geometry kept with the table, whether it has a meta or not; None where there is none."""

    def put_geometry(self, geometry: Geometry) -> None:
        """Keep the geometry with a table that is there. It does not give it a meta."""

    def write(self, features: np.ndarray) -> None:
        """Write complete rows (dtype `schema.FEATURES`). They are durable when this returns; writing them
        again leaves the table as it was."""

    def read(self, ids: Any, names: Sequence[str] = NAMES) -> Rows:
        """The rows of these ids, in the order asked for."""

    def scan_chunk(self, chunk_id: int, last_id: int, names: Sequence[str] = NAMES) -> Rows:
        """All rows of a chunk, sorted by id."""

    def delete(self, first_id: int, last_id: int) -> None:
        """Remove the rows from ``first_id`` to ``last_id``, if there are any."""

    def put_chunk(self, record: ChunkRecord, segments: Ids | None = None) -> None:
        """Record the outcome of a chunk and, for a data set without a graph, which segment each node is."""

    def count_attempts(self, chunk_id: int, works: Sequence[str] = ("",)) -> list[int]:
        """Record that an attempt at each of these works on a chunk begins; returns how many are open of each.

        The work ``""`` is the chunk as a whole: `put_chunk` ends its attempts. An attempt that never ends
        killed or hung its process.
        """

    def clear_attempts(self, chunk_id: int, works: Sequence[str] = ("",)) -> None:
        """Record that the attempts at these works have ended."""

    def chunk_states(self, chunk_ids: Ids) -> npt.NDArray[np.str_]:
        """State of each chunk, shape (n,); empty where nothing is recorded."""

    def incomplete_chunks(self, chunk_ids: Ids) -> npt.NDArray[np.bool_]:
        """Return whether each chunk is recorded as done although files were missing or empty, shape (n,)."""

    def chunk_records(self) -> Iterator[ChunkRecord]:
        """Every recorded chunk, in no special order."""

    def failures(self, chunk_ids: Ids) -> dict[int, str]:
        """Why each of these chunks failed that is recorded as failed."""

    def coverage(self) -> Coverage:
        """Recorded chunks by state. Where it takes long, the deadline is that of each part of the work."""

    def segments(self, chunk_id: int) -> Ids | None:
        """Segments of a chunk by rank, as given to `put_chunk`; None where none were."""

    def put_note(self, name: str, text: str) -> None:
        """Keep a text with a table that is there, in place of the one kept under this name (`NOTE_NAME`)."""

    def note(self, name: str) -> str | None:
        """The text kept under this name; None where there is none."""

    def ping(self) -> None:
        """Return where the store can be reached and has the table."""

    def close(self) -> None:
        """Close connections."""


def node_segments(store: Store, layout: IdLayout, ids: Ids) -> Ids:
    """The segment that each node of a data set without a graph is, shape (n,); 0 where that is not known."""
    out = np.zeros(len(ids), dtype=np.uint64)
    known = np.isin(layout.layers(ids), list(layout.spatial_bits))
    chunk_ids = np.where(known, ids, np.uint64(0))
    chunk_ids[known] = layout.chunk_ids(ids[known])
    for chunk_id in np.unique(chunk_ids[known]).tolist():
        segments = store.segments(chunk_id)
        places = np.flatnonzero(known & (chunk_ids == chunk_id))
        ranks = (ids[places] - np.uint64(chunk_id)).astype(np.int64) - 1
        inside = (ranks >= 0) & (ranks < (0 if segments is None else len(segments)))
        if segments is not None:
            out[places[inside]] = segments[ranks[inside]]
    return out


def check_note_name(name: str) -> None:
    """Raise ValueError for what cannot be the name of a note."""
    if not NOTE_NAME.fullmatch(name):
        raise ValueError(f"note {name!r}: expected up to 50 small letters or '_'")


def open_store(url: str, name: str, deadline_s: float = DEADLINE_S) -> Store:
    """The table ``name`` of the store at ``url`` (``bigtable://project/instance`` or ``sqlite:///path/file.db``).

    Opening does not touch the store; its calls give up after ``deadline_s``. Raises ConfigError for a URL or
    a name that cannot be.
    """
    if not TABLE_NAME.fullmatch(name):
        raise ConfigError(f"table name {name!r}: expected 1 to 50 letters, digits, '_', '-' or '.'")
    scheme = url.partition(":")[0]
    if scheme == "bigtable":
        from .bigtable.bigtable_store import BigtableStore

        return BigtableStore(url, name, deadline_s)
    if scheme == "sqlite":
        from .sqlite.sqlite_store import SqliteStore

        return SqliteStore(url, name, deadline_s)
    raise ConfigError(f"store {url!r}: expected bigtable://project/instance or sqlite:///path/file.db")
