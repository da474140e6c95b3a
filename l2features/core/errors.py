"""Errors a user can act on. Everything else is a defect and keeps its traceback."""

from __future__ import annotations

import re

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


EXIT_FAILED, EXIT_USAGE, EXIT_STOPPED = 1, 2, 130
"""Exit statuses of commands: an error, a wrong option or data sets file, a signal."""


class L2FeaturesError(Exception):
    """Base of the errors whose message is meant for the user."""


class ConfigError(L2FeaturesError):
    """A data sets file, an option or a URL has an invalid value."""


class ReadTimeout(L2FeaturesError):
    """A read takes longer than its deadline allows."""


class VolumeError(L2FeaturesError):
    """A segmentation cannot be opened, or a chunk of it cannot be read."""


class VolumeUnavailable(VolumeError):
    """A segmentation cannot be reached, or refuses access: a transient error."""


class GraphError(L2FeaturesError):
    """A graph cannot be opened, or returns an invalid answer."""


class GraphUnavailable(GraphError):
    """A graph cannot be reached, or refuses access: a transient error."""


class StoreError(L2FeaturesError):
    """A store cannot be reached, or its content is malformed."""


class UnknownFormat(StoreError):
    """Stored data has a format that this version cannot read: a newer version wrote it."""


class StoreUnavailable(StoreError):
    """A store cannot be reached, or did not answer in time: a transient error."""


MAKE_TABLE = "an ingest with --create makes it"
"""What the message of `TableNotFound` ends with."""


class TableNotFound(StoreError):
    """The store has no table of this name."""


class TableExists(StoreError):
    """The table exists with a different meta."""


class VersionError(L2FeaturesError):
    """A version cannot be read or written, or its files are malformed."""


class VersionNotFound(VersionError):
    """There is no version of this number."""


class DamagedVersion(VersionError):
    """A file of a version is missing, truncated or malformed; ``path`` is relative to the folder."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


class VersionTimeout(ReadTimeout, VersionError):
    """A read of a version takes longer than its deadline allows."""


class LookupTooLarge(VersionError):
    """A lookup in a version exceeds a limit on ``what``: rows, or row groups."""

    def __init__(self, what: str, count: int, limit: int) -> None:
        super().__init__(what, count, limit)
        self.what, self.count, self.limit = what, count, limit

    def __str__(self) -> str:
        return f"{self.count} {self.what} in one lookup: expected at most {self.limit}, ask for fewer ids"


def reason_of(error: BaseException) -> str:
    """Return an error in one line, with its type if the message alone may be unclear."""
    text = " ".join(_ANSI.sub("", str(error)).split())
    if type(error).__name__ in ("ValueError", "StorageError") and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
