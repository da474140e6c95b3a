"""Errors that a user can act on. Any other exception is a bug, and is shown with its traceback."""

from __future__ import annotations

import re

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


EXIT_FAILED, EXIT_USAGE, EXIT_STOPPED = 1, 2, 130
"""Exit statuses of commands after an error, after a wrong option or data sets file, and after a signal."""


class L2FeaturesError(Exception):
    """Base class of the errors whose message is meant for the user."""


class ConfigError(L2FeaturesError):
    """A data sets file, an option or a URL has an invalid value."""


class ReadTimeout(L2FeaturesError):
    """A read did not finish before its deadline."""


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
    """Stored data has a format that this version of l2features cannot read: a newer version wrote it."""


class StoreUnavailable(StoreError):
    """A store cannot be reached, or did not answer in time: a transient error."""


MAKE_TABLE = "create it by an ingest with --create"
"""End of each store's message of `TableNotFound`."""


class TableNotFound(StoreError):
    """The store has no table of this name."""


class TableExists(StoreError):
    """The table exists, but with other metadata: another graph, segmentation, timestamp or geometry."""


class VersionError(L2FeaturesError):
    """A version (frozen table) cannot be read or written, or its files are malformed."""


class VersionNotFound(VersionError):
    """No version has the requested number."""


class DamagedVersion(VersionError):
    """A version's file is missing, truncated or malformed; ``path`` is relative to the versions' folder."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


class VersionTimeout(ReadTimeout, VersionError):
    """A read of a version did not finish before its deadline."""


class LookupTooLarge(VersionError):
    """A lookup in a version needs more than ``limit`` rows or row groups; ``what`` says which of the two."""

    def __init__(self, what: str, count: int, limit: int) -> None:
        super().__init__(what, count, limit)
        self.what, self.count, self.limit = what, count, limit

    def __str__(self) -> str:
        return f"{self.count} {self.what} in one lookup: expected at most {self.limit}, ask for fewer ids"


def one_line(text: str) -> str:
    """Return a text in one line, without terminal colors."""
    return " ".join(_ANSI.sub("", text).split())


def message_of(error: BaseException) -> str:
    """Return an error's message in one line; empty if it has none."""
    return one_line(str(error))


def typed_message(error: BaseException) -> str:
    """Return an error's type and message in one line; only its type if it has no message."""
    text = message_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def reason_of(error: BaseException) -> str:
    """Return an error's type and message in one line; for a ValueError or StorageError, only its message."""
    text = message_of(error)
    return text if type(error).__name__ in ("ValueError", "StorageError") and text else typed_message(error)
