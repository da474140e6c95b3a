"""Reads of versions: their permits, deadline and errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from flask import g

from l2features.core.errors import (
    ConfigError,
    DamagedVersion,
    LookupTooLarge,
    UnknownFormat,
    VersionError,
    VersionNotFound,
)
from l2features.versions.catalog import VersionSummary
from l2features.versions.lookup import FoundRows, VersionReader

from . import metrics
from .config import Settings
from .error_responses import ApiError, log
from .long_reads import LongReads
from .served_datasets import ServedDataset
from .version_schemas import LATEST

T = TypeVar("T")


class VersionReads:
    """Reads versions with separate concurrency limits: a slow bucket delays only reads of versions."""

    def __init__(self, settings: Settings, data_sets: int) -> None:
        self.settings = settings
        self.long = LongReads(settings, data_sets)

    def summaries(self, served: ServedDataset) -> list[VersionSummary]:
        """Return a summary of each version, oldest first; an empty list without versions. Raises ApiError."""
        with self.long.request(served.name) as long, self._errors(served, None):
            catalog = served.catalog_or_none()
            return [] if catalog is None else long.run(catalog.list)

    @contextmanager
    def of_version(
        self,
        served: ServedDataset,
        version: str,
        read: Callable[[VersionReader, float], tuple[T, int]],
        field: str = "version",
    ) -> Iterator[T]:
        """Yield the result of ``read`` for one version; hold a permit until the ``with`` block ends.

        ``read`` receives the version's reader and a deadline (`time.monotonic`). It returns a tuple: a
        result; the number of row groups that it read. Raises ApiError. If the read is too large, the error
        names ``field`` as the invalid field of the request.
        """
        number = None if version == LATEST else int(version)
        with self.long.request(served.name) as long:
            begun = time.perf_counter()
            with self._errors(served, number, field):
                found, groups = long.run(
                    lambda: served.catalog().use(number, lambda reader: read(reader, long.until))
                )
            metrics.VERSION_READS.labels(served.name).observe(time.perf_counter() - begun)
            metrics.VERSION_GROUPS.labels(served.name).inc(groups)
            yield found

    @contextmanager
    def holding(self, found: FoundRows) -> Iterator[Any]:
        """Yield the found rows, an Arrow table. Hold one permit per row until the ``with`` block ends."""
        g.ids = len(found.table)
        with self.long.limiter.ids(g.ids):
            yield found.table

    @contextmanager
    def _errors(self, served: ServedDataset, number: int | None, field: str = "version") -> Iterator[None]:
        """Convert VersionError, and ConfigError for an unknown column, from the ``with`` block to ApiError.

        ``number`` is the version, None for the newest. Messages hide the path of the versions folder.
        """
        name, retry = served.name, self.settings.retry_after_s
        shown = f"version {number}" if number is not None else "the newest version"
        try:
            yield
        except VersionNotFound as error:
            raise self._not_found(served, number) from error
        except LookupTooLarge as error:
            code = f"too_many_{error.what.replace(' ', '_')}"
            raise ApiError(
                413, code, str(error), field=field, value=error.count, limit=error.limit
            ) from error
        except DamagedVersion as error:
            log.warning("version damaged", extra={"dataset": name, "error": str(error)})
            code = "unknown_format" if isinstance(error.__cause__, UnknownFormat) else "version_damaged"
            raise ApiError(503, code, f"{shown} cannot be read: {error}", retry_after=retry) from error
        except VersionError as error:
            log.warning("version error", extra={"dataset": name, "error": str(error)})
            message = f"the versions of data set {name!r} cannot be read at the moment: try again later"
            raise ApiError(503, "version_unavailable", message, retry_after=retry) from error
        except ConfigError as error:  # of a column
            raise ApiError(422, "unknown_column", str(error), field="columns") from error

    def _not_found(self, served: ServedDataset, number: int | None) -> ApiError:
        catalog = served.catalog_or_none()
        if catalog is None or number is None:
            message = f"data set {served.name!r} has no version"
            return ApiError(404, "no_version", message, field="version")
        listed = ", ".join(map(str, catalog.numbers())) or "none"
        message = f"version {number} of data set {served.name!r} does not exist: expected one of {listed}"
        return ApiError(404, "unknown_version", message, field="version", value=number)
