"""Calls of Bigtable: clients, time limits, transient errors, and messages of errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import timedelta
from functools import partial
from typing import Any

from google.api_core.exceptions import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    GoogleAPICallError,
    InternalServerError,
    ServiceUnavailable,
    Unknown,
)
from google.cloud import bigtable
from google.cloud.bigtable.column_family import MaxAgeGCRule, MaxVersionsGCRule
from google.cloud.bigtable.data import BigtableDataClient
from grpc import insecure_channel
from grpc.experimental import ChannelOptions

from ...core import transient
from ...core.errors import one_line, typed_message

OPERATION_TIMEOUT_S = 60.0
ATTEMPT_TIMEOUT_S = 20.0
RETRYABLE = (Aborted, DeadlineExceeded, ServiceUnavailable, Unknown)
"""Transient errors. Unknown is gRPC's error for a stream whose server disconnected."""
_YEAR = timedelta(days=365)
FAMILIES = {"0": None, "1": MaxVersionsGCRule(1), "2": None, "3": MaxAgeGCRule(_YEAR), "4": None}
"""Column families of a table and their garbage collection, as kvdbclient creates them."""
GRAPH_FAMILIES = {"0": None, "1": MaxVersionsGCRule(1), "2": None, "3": None}
"""Column families of a graph's table and their garbage collection, as PyChunkedGraph creates them."""
_CUT_OFF = ("rst_stream", "rst stream", "received unexpected eos on data frame")
_KINDS = ("", "read_rows_", "mutate_rows_")
_CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    (ChannelOptions.SingleThreadedUnaryStream, 1),
)


class _Client(BigtableDataClient):
    """Google's client with other gRPC channel options; see docs/decisions/bigtable-client.md.

    The client waits a second at most before it reconnects to a lost server. It receives a stream's messages
    in the thread that reads the stream; receiving them in a separate thread takes about twice as long.
    """

    def _build_grpc_channel(self, *args: Any, **kwargs: Any) -> Any:
        options = [*(kwargs.pop("options", None) or ()), *_CHANNEL]
        channel = super()._build_grpc_channel(*args, options=options, **kwargs)
        if self._emulator_host is None:
            return channel
        return type(channel)(partial(insecure_channel, self._emulator_host, options=options))


def open_table(project: str, instance: str, table: str, *, deadline_s: float | None = None) -> Any:
    """Return a table of Google's client; it retries calls for up to ``deadline_s``, by default 60 seconds."""
    operation = OPERATION_TIMEOUT_S if deadline_s is None else deadline_s
    timeouts = {"operation_timeout": operation, "attempt_timeout": min(ATTEMPT_TIMEOUT_S, operation)}
    defaults: dict[str, Any] = {**timeouts, "retryable_errors": RETRYABLE}
    options = {f"default_{kind}{key}": value for kind in _KINDS for key, value in defaults.items()}
    return _Client(project=project).get_table(instance, table, **options)


def create_table(
    project: str, instance: str, name: str, timeout_s: float, rules: Mapping[str, Any] = FAMILIES
) -> bool:
    """Create a table; return whether it was created. An existing table remains unchanged.

    ``rules`` maps the names of the column families to their rules of garbage collection.
    Raises GoogleAPIError or GoogleAuthError if the call fails.
    """
    with closing(bigtable.Client(project=project, admin=True)) as admin, suppress(AlreadyExists):
        place = admin.instance(instance)
        table = place.table(name)
        families = {family: table.column_family(family, rule).to_pb() for family, rule in rules.items()}
        admin.table_admin_client.create_table(
            parent=place.name, table_id=name, table={"column_families": families}, timeout=timeout_s
        )
        return True
    return False


def column_families(project: str, instance: str, name: str, timeout_s: float) -> list[str]:
    """Return the names of a table's column families, sorted.

    Raises GoogleAPIError or GoogleAuthError if the call fails.
    """
    with closing(bigtable.Client(project=project, admin=True)) as admin:
        path = f"{admin.instance(instance).name}/tables/{name}"
        found = admin.table_admin_client.get_table(request={"name": path}, timeout=timeout_s)
        return sorted(found.column_families)


def is_transient(error: BaseException) -> bool:
    """Return whether this error of a single call is transient; its causes are ignored."""
    if isinstance(error, InternalServerError):
        return any(text in str(error).lower() for text in _CUT_OFF)
    return isinstance(error, RETRYABLE)


def unavailable(error: BaseException) -> bool:
    """Return whether an error of a Google client, or one of its causes, is transient.

    The service is then down, is busy, or refuses access for now.
    """
    return any(map(is_transient, causes(error))) or transient.has_transient_cause(error)


def reason(error: BaseException) -> str:
    """Return the messages of an error of a Google client and of its causes, in one line."""
    messages = [str(cause.message) for cause in causes(error) if isinstance(cause, GoogleAPICallError)]
    return one_line(": ".join(dict.fromkeys(messages))) or typed_message(error)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error of Google's client, then its causes.

    The cause of a group of errors is the `most_telling` of them.
    """
    while error is not None:
        yield error
        inner = getattr(error, "exceptions", None)
        error = most_telling(inner) if inner else error.__cause__


def most_telling(failures: Sequence[Exception]) -> Exception | None:
    """Return the last of several errors, but ignore timeouts unless all errors are timeouts."""
    telling = [error for error in failures if not isinstance(error, DeadlineExceeded)]
    best = telling or failures
    return best[-1] if best else None
