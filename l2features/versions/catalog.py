"""The versions in a folder, cached for a long-running process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple, TypeVar

from cachetools import LRUCache  # type: ignore[import-untyped]
from pydantic import BaseModel, Field

from ..core.errors import DamagedVersion, VersionError, VersionNotFound
from ..store.notes import Time
from .folders import Folder
from .lookup import MOST_GROUPS, MOST_ROWS, VersionReader
from .manifest import Manifest, manifest_path, not_found, parse_manifest, version_numbers
from .parquet_files import ParquetFiles

NUMBERS_S, MANIFEST_S = 2.0, 30.0
"""Seconds for which the list of versions, and a manifest, are cached."""
MANIFEST_BYTES = 128_000_000
PARSED = 6
"""Estimated size of a manifest in memory, as a multiple of the file's size."""
T = TypeVar("T")


class VersionSummary(BaseModel):
    """One version in a list of versions."""

    number: int
    timestamp: Time | None = Field(
        None, description="Time at which the version's nodes and roots are valid (UTC)."
    )
    created: Time | None = Field(None, description="When the version was made (UTC).")
    base: int | None = Field(
        None, description="Number of the older version that this version renews; null for a fresh version."
    )
    nodes: int | None = Field(None, description="Number of L2 nodes.")
    roots: int | None = Field(None, description="Number of roots.")
    missing: int | None = Field(None, description="Number of nodes whose features had not been computed.")
    empty: int | None = Field(None, description="Number of nodes whose features could not be computed.")
    bytes: int | None = Field(
        None, description="Size of the version's files in bytes, shared files of older versions included."
    )
    problem: str | None = Field(
        None, description="Why the version cannot be read; then all fields but `number` are null."
    )


class _Entry(NamedTuple):
    """A version's reader; its manifest's digest and estimated bytes in memory; when the manifest was read."""

    reader: VersionReader
    digest: bytes
    size: int
    read_at: float


class Catalog:
    """The versions in a folder. Threads may share a catalog.

    A new version becomes visible within `NUMBERS_S` seconds. Caches manifests, footers of Parquet files, and
    lists of retired roots (see `manifest`).
    ``most_rows`` and ``most_groups`` limit a lookup, see `VersionReader`. All methods raise VersionError.
    """

    def __init__(self, folder: Folder, most_rows: int = MOST_ROWS, most_groups: int = MOST_GROUPS) -> None:
        self.folder, self._limits = folder, (most_rows, most_groups)
        self._files = ParquetFiles(folder)
        self._entries: LRUCache[int, _Entry] = LRUCache(MANIFEST_BYTES, getsizeof=lambda entry: entry.size)
        self._numbers: tuple[float, list[int]] = (float("-inf"), [])
        self._lock = threading.Lock()

    def numbers(self) -> list[int]:
        """Return the numbers of all versions, sorted."""
        read_at, numbers = self._numbers
        if time.monotonic() - read_at > NUMBERS_S:
            numbers = version_numbers(self.folder)
            self._numbers = time.monotonic(), numbers
        return numbers

    def newest(self) -> int:
        """Return the number of the newest version. Raises VersionNotFound if the folder has no version."""
        numbers = self.numbers()
        if not numbers:
            raise VersionNotFound(f"{self.folder.url} has no version: make one with `l2features materialize`")
        return numbers[-1]

    def reader(self, number: int | None = None) -> VersionReader:
        """Return the reader of a version, by default the newest.

        Raises VersionNotFound if the version is missing, and DamagedVersion if its manifest is malformed or
        was written by a newer l2features.
        """
        number = self.newest() if number is None else number
        with self._lock:
            entry = self._entries.get(number)
        if entry is not None and time.monotonic() - entry.read_at < MANIFEST_S:
            return entry.reader
        return self._read(number, entry)

    def use(self, number: int | None, read: Callable[[VersionReader], T]) -> T:
        """Return what ``read`` returns for the reader of a version, by default the newest.

        If ``read`` raises DamagedVersion, and the version has been replaced, ``read`` is called again with a
        new reader.
        """
        reader = self.reader(number)
        try:
            return read(reader)
        except DamagedVersion:
            found = reader.manifest.number
            fresh = self._read(found, None)
            if fresh.manifest == reader.manifest:
                raise
            return read(fresh)

    def list(self) -> list[VersionSummary]:
        """Return a summary of each version, sorted by number.

        The summary of an unreadable version has only its number and problem.
        """
        return [self._summary(number) for number in self.numbers()]

    def _summary(self, number: int) -> VersionSummary:
        try:
            return summary_of(self.reader(number).manifest)
        except VersionError as error:
            return VersionSummary(number=number, problem=str(error))

    def _read(self, number: int, known: _Entry | None) -> VersionReader:
        """Read a version's manifest; return the ``known`` reader if it is unchanged, else a new reader."""
        content = self.folder.read(manifest_path(number))
        if content is None:
            with self._lock:
                self._entries.pop(number, None)
            raise not_found(self.folder, number)
        digest = blake2b(content, digest_size=16).digest()
        if known is not None and known.digest == digest:
            reader = known.reader
        else:
            manifest = parse_manifest(content, number)
            reader = VersionReader(self._files, manifest, *self._limits)
        entry = _Entry(reader, digest, min(PARSED * len(content), MANIFEST_BYTES), time.monotonic())
        with self._lock:
            self._entries[number] = entry
        return reader


def summary_of(manifest: Manifest) -> VersionSummary:
    """Return the summary of the version with this manifest."""
    return VersionSummary(
        number=manifest.number,
        timestamp=manifest.timestamp,
        created=manifest.created,
        base=manifest.base,
        bytes=sum(file.bytes for layer in manifest.layers for file in layer.files),
        **manifest.totals.model_dump(),
    )
