"""An in-memory cache of the largest roots of versions: a version never changes, and reading it is slow."""

from __future__ import annotations

import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from threading import Lock
from weakref import WeakKeyDictionary

from flask import Response
from flask_openapi3 import APIBlueprint

from l2features.core.errors import VersionTimeout
from l2features.core.futures import in_background
from l2features.pictures.segment_list import segment_list
from l2features.versions.largest_roots import LargestRoots, largest_roots
from l2features.versions.lookup import VersionReader
from l2features.versions.parquet_files import ParquetFiles

from .picture_answers import info_response
from .picture_schemas import info_responses
from .service import AppResources
from .version_schemas import VersionPath

COUNT = 1_000
"""Maximum number of roots in a list."""


class LargestLists:
    """Caches the list of largest roots of each requested version. Thread-safe.

    A list is read once per VersionReader, and again only after an error. Lists of the same data set are read
    one after another. A read goes on after its request has timed out, so a later request finds the list.
    """

    def __init__(self) -> None:
        self._lists: WeakKeyDictionary[VersionReader, Future[LargestRoots]] = WeakKeyDictionary()
        self._reading: WeakKeyDictionary[ParquetFiles, Lock] = WeakKeyDictionary()
        self._lock = Lock()

    def largest(self, reader: VersionReader, until: float) -> tuple[LargestRoots, int]:
        """Return a tuple: the largest roots of the version; the number of row groups that this call read.

        The number is 0 if an earlier call has started the read. Raises VersionTimeout after ``until``
        (`time.monotonic`), and the errors of `largest_roots`.
        """
        with self._lock:
            found = self._lists.get(reader)
            begun = found is None or (found.done() and found.exception() is not None)
            if found is None or begun:
                reading = self._reading.setdefault(reader.files, Lock())
                found = self._lists[reader] = in_background(lambda: _read(reader, reading))
        try:
            largest = found.result(max(0.0, until - time.monotonic()))
        except FutureTimeout as error:
            raise VersionTimeout("the largest roots are being read: try again later") from error
        return largest, largest.row_groups if begun else 0


def _read(reader: VersionReader, reading: Lock) -> LargestRoots:
    with reading:
        return largest_roots(reader, COUNT)


def add_list_route(api: APIBlueprint, place: str, service: AppResources, lists: LargestLists) -> None:
    """Add the route that lists the largest roots of a version, below the path ``place``."""

    @api.get(
        f"{place}/segment_properties/version-<version>/info",
        summary="The largest roots of a version",
        responses=info_responses(422, 429),
    )
    def version_segments(path: VersionPath) -> Response:
        """Return volume, area and number of nodes of the 1,000 largest roots of a version."""
        served = service.datasets[path.dataset]
        with service.versions.of_version(served, path.version, lists.largest) as found:
            return info_response(segment_list(found.roots, found.summaries))
