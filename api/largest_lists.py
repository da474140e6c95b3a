"""The largest roots of versions, kept in memory: a version does not change, and reading it is slow."""

from __future__ import annotations

from threading import Lock
from weakref import WeakKeyDictionary

from flask import Response
from flask_openapi3 import APIBlueprint

from l2features.core.futures import SharedCalls
from l2features.pictures.segment_list import segment_list
from l2features.versions.largest_roots import LargestRoots, largest_roots
from l2features.versions.lookup import VersionReader

from .datasets import Datasets
from .picture_answers import info_response
from .picture_schemas import info_responses
from .version_reads import VersionReads
from .version_schemas import VersionPath

COUNT = 1_000
"""Roots of a list."""


class LargestLists:
    """The largest roots of each version that was asked for. Thread-safe."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[VersionReader, LargestRoots] = WeakKeyDictionary()
        self._lock, self._calls = Lock(), SharedCalls()

    def largest(self, reader: VersionReader, until: float) -> tuple[LargestRoots, int]:
        """Return the largest roots, and how many row groups were read now. Raises as `largest_roots`."""
        with self._lock:
            known = self._kept.get(reader)
        if known is not None:
            return known, 0
        found = self._calls.run(id(reader), lambda: largest_roots(reader, COUNT, until))
        with self._lock:
            return self._kept.setdefault(reader, found), found.row_groups


def add_list_route(
    api: APIBlueprint, place: str, datasets: Datasets, versions: VersionReads, lists: LargestLists
) -> None:
    """Add the route of a version's list to those of pictures, below ``place``."""

    @api.get(
        f"{place}/segment_properties/version-<version>/info",
        summary="The largest roots of a version",
        operation_id="version_segments",
        responses=info_responses(422, 429),
    )
    def version_segments(path: VersionPath) -> Response:
        """Return volume, area and nodes of the 1,000 largest roots of a version."""
        with versions.of_version(datasets[path.dataset], path.version, lists.largest) as found:
            return info_response(segment_list(found.roots, found.summaries))
