"""How this project calls Bigtable: time limits, what is tried again, and what its errors say."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from google.api_core.exceptions import (
    Aborted,
    DeadlineExceeded,
    GoogleAPICallError,
    InternalServerError,
    ServiceUnavailable,
    Unknown,
)
from google.cloud.bigtable.data import BigtableDataClient
from grpc import insecure_channel
from grpc.experimental import ChannelOptions

from ...core import transient

OPERATION_TIMEOUT_S = 60.0
ATTEMPT_TIMEOUT_S = 20.0
RETRYABLE = (Aborted, DeadlineExceeded, ServiceUnavailable, Unknown)
"""What may pass. Unknown is what gRPC makes of a stream whose server went away."""
_CUT_OFF = ("rst_stream", "rst stream", "received unexpected eos on data frame")
_KINDS = ("", "read_rows_", "mutate_rows_")
_CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    (ChannelOptions.SingleThreadedUnaryStream, 1),
)


class _Client(BigtableDataClient):
    """Google's client with other options of its channel.

    It looks for a server that was away every second, and not ever more rarely; and a stream's messages
    are received by the thread that waits for them, which is about twice as fast as by way of another.
    """

    def _build_grpc_channel(self, *args: Any, **kwargs: Any) -> Any:
        options = [*(kwargs.pop("options", None) or ()), *_CHANNEL]
        channel = super()._build_grpc_channel(*args, options=options, **kwargs)
        if self._emulator_host is None:
            return channel
        return type(channel)(partial(insecure_channel, self._emulator_host, options=options))


def open_table(project: str, instance: str, table: str, *, deadline_s: float | None = None) -> Any:
    """A table of the data client, whose calls are repeated for up to ``deadline_s``."""
    operation = OPERATION_TIMEOUT_S if deadline_s is None else deadline_s
    timeouts = {"operation_timeout": operation, "attempt_timeout": min(ATTEMPT_TIMEOUT_S, operation)}
    defaults: dict[str, Any] = {**timeouts, "retryable_errors": RETRYABLE}
    options = {f"default_{kind}{key}": value for kind in _KINDS for key, value in defaults.items()}
    return _Client(project=project).get_table(instance, table, **options)


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed when it is tried again."""
    if isinstance(error, InternalServerError):
        return any(said in str(error).lower() for said in _CUT_OFF)
    return isinstance(error, RETRYABLE)


def unavailable(error: BaseException) -> bool:
    """Whether an error of a Google client is transient: the service is away, busy, or refuses access."""
    return any(may_pass(cause) for cause in causes(error)) or transient.has_transient_cause(error)


def reason(error: BaseException) -> str:
    """What an error of a Google client and the errors behind it say, in one line."""
    said = [str(cause.message) for cause in causes(error) if isinstance(cause, GoogleAPICallError)]
    return ": ".join(dict.fromkeys(said)) or f"{type(error).__name__}: {error}"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error of the data client, and what it comes from: the last of each of its nested groups."""
    while error is not None:
        yield error
        inner = getattr(error, "exceptions", None)
        error = inner[-1] if inner else error.__cause__
