"""Reads of the Parquet files of versions, row group by row group, with their footers in a cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from cachetools import LRUCache  # type: ignore[import-untyped]

from ..core.errors import DamagedVersion, VersionError, message_of
from .columns import L2_ID, ROOT_ID, schema_of
from .folders import Folder
from .manifest import Layout, VersionFile

Int64s = npt.NDArray[np.int64]
KEYS: dict[Layout, str] = {
    "by_root": ROOT_ID,
    "by_node": L2_ID,
    "roots": ROOT_ID,
    "retired": ROOT_ID,
    "missing_nodes": ROOT_ID,
}
"""The column by which the rows of each layout are sorted first."""
FOOTER_BYTES, RETIRED_BYTES = 64_000_000, 128_000_000
"""Sizes of the caches of footers and of retired roots, in bytes."""
BYTES_PER_ENTRY = 200
"""Bytes of a cache entry besides its value."""
T = TypeVar("T")


class Footer(NamedTuple):
    """A file's footer. Per row group, shape (groups,): number of rows, smallest and largest key (`KEYS`)."""

    metadata: Any
    rows: Int64s
    low: Int64s
    high: Int64s


class BoundedCache(Generic[T]):
    """An LRU cache of at most ``capacity`` bytes; larger values are not cached. Thread-safe."""

    def __init__(self, capacity: int, size: Callable[[T], int]) -> None:
        self._capacity, self._size = capacity, size
        self._values: LRUCache[Hashable, T] = LRUCache(capacity, getsizeof=self._entry_size)
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the cached value of a key, or else make and cache it."""
        with self._lock:
            value = self._values.get(key)
        if value is None:
            value = make()
            with self._lock:
                if self._entry_size(value) <= self._capacity:
                    self._values[key] = value
        return value

    def _entry_size(self, value: T) -> int:
        return self._size(value) + BYTES_PER_ENTRY


class ParquetFiles:
    """The Parquet files of a folder of versions. Threads may share this object.

    Caches use the sha256 of a file as the key, so that a new file is not mistaken for a deleted one at the
    same path. All methods raise VersionError; for a file that differs from its manifest, DamagedVersion.
    """

    def __init__(
        self, folder: Folder, footer_bytes: int = FOOTER_BYTES, retired_bytes: int = RETIRED_BYTES
    ) -> None:
        self.folder = folder
        self._footers: BoundedCache[Footer] = BoundedCache(
            footer_bytes, lambda footer: 3 * footer.metadata.serialized_size
        )
        self._retired: BoundedCache[Int64s] = BoundedCache(retired_bytes, lambda roots: roots.nbytes)

    def footer(self, file: VersionFile) -> Footer:
        """Return the footer of a file."""
        return self._footers.get((file.layout, file.sha256), lambda: self._read_footer(file))

    def retired(self, file: VersionFile) -> tuple[Int64s, int]:
        """Return a tuple: the sorted roots in a file of retired roots; the number of row groups read."""
        read = 0

        def load() -> Int64s:
            nonlocal read
            read = len(self.footer(file).rows)
            parts = [table[ROOT_ID].to_numpy() for table in self.groups(file, range(read), [ROOT_ID])]
            roots = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
            if (roots[1:] <= roots[:-1]).any():
                raise DamagedVersion(file.path, "is not sorted by root_id")
            return roots

        return self._retired.get(file.sha256, load), read

    def groups(self, file: VersionFile, groups: Sequence[int], columns: Sequence[str]) -> Iterator[Any]:
        """Yield these row groups of a file as Arrow tables with these columns."""
        footer = self.footer(file)
        expected = _types(file.layout, columns)
        with self._opened(file, footer.metadata) as parquet:
            for group in groups:
                table = parquet.read_row_group(group, columns=list(columns), use_threads=False)
                table = table.select(columns)
                if table.schema.types != expected:
                    types, named = (", ".join(map(str, kinds)) for kinds in (table.schema.types, expected))
                    raise DamagedVersion(
                        file.path, f"has types {types} in {', '.join(columns)}: expected {named}"
                    )
                yield table

    def _read_footer(self, file: VersionFile) -> Footer:
        with self._opened(file) as parquet:
            metadata = parquet.metadata
        if metadata.num_rows != file.rows:
            raise DamagedVersion(
                file.path, f"has {metadata.num_rows} rows, expected {file.rows} as in the manifest"
            )
        names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
        key = KEYS[file.layout]
        if key not in names:
            raise DamagedVersion(file.path, f"has no column {key}")
        place = names.index(key)
        count = metadata.num_row_groups
        groups = [metadata.row_group(i) for i in range(count)]
        ends = [_ends(group, place, file.path, key) for group in groups]
        low, high = np.array(ends, dtype=np.int64).reshape(-1, 2).T
        return Footer(metadata, np.array([group.num_rows for group in groups], dtype=np.int64), low, high)

    @contextmanager
    def _opened(self, file: VersionFile, metadata: Any = None) -> Iterator[Any]:
        """Yield a file as a `pyarrow.parquet.ParquetFile`. Turns errors of pyarrow into DamagedVersion.

        A failed read of a file in a bucket becomes VersionError: the file may be intact.
        """
        try:
            source = self.folder.open(file.path)
        except VersionError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise DamagedVersion(file.path, "is missing") from error
            raise
        with source:
            if (size := source.size()) != file.bytes:
                raise DamagedVersion(
                    file.path, f"has {size} bytes, expected {file.bytes}: it is truncated or was replaced"
                )
            try:
                yield pq.ParquetFile(
                    source,
                    metadata=metadata,
                    pre_buffer=self._remote,
                    page_checksum_verification=True,
                )
            except (OSError, pa.ArrowException, KeyError) as error:
                reason = message_of(error)
                if self._remote and isinstance(error, OSError):
                    raise VersionError(f"cannot read {self.folder.url}/{file.path}: {reason}") from error
                raise DamagedVersion(file.path, f"cannot be decoded: {reason[:200]}") from error

    @cached_property
    def _remote(self) -> bool:
        return self.folder.local is None


def _ends(group: Any, place: int, path: str, name: str) -> tuple[int, int]:
    """Return the smallest and largest value of a column in one row group; 0 and -1 without rows."""
    if not group.num_rows:
        return 0, -1
    statistics = group.column(place).statistics
    if statistics is None or not statistics.has_min_max:
        raise DamagedVersion(path, f"has a row group without statistics of {name}")
    return statistics.min, statistics.max


def _types(layout: Layout, columns: Sequence[str]) -> list[Any]:
    schema = schema_of(layout)
    return [schema.field(name).type for name in columns]
