"""How this project calls Bigtable: time limits, what is tried again, and what its errors say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.api_core.exceptions import (
    Aborted,
    DeadlineExceeded,
    GoogleAPICallError,
    ServiceUnavailable,
    Unknown,
)
from google.cloud.bigtable.data import BigtableDataClient

OPERATION_TIMEOUT_S = 60.0
ATTEMPT_TIMEOUT_S = 20.0
RETRYABLE = (Aborted, DeadlineExceeded, ServiceUnavailable, Unknown)
"""What may pass. Unknown is what gRPC makes of a stream whose server went away."""
_KINDS = ("", "read_rows_", "mutate_rows_")


def open_table(project: str, instance: str, table: str) -> Any:
    """A table of the data client, whose calls are repeated for up to `OPERATION_TIMEOUT_S`."""
    timeouts = {"operation_timeout": OPERATION_TIMEOUT_S, "attempt_timeout": ATTEMPT_TIMEOUT_S}
    defaults: dict[str, Any] = {**timeouts, "retryable_errors": RETRYABLE}
    options = {f"default_{kind}{key}": value for kind in _KINDS for key, value in defaults.items()}
    return BigtableDataClient(project=project).get_table(instance, table, **options)


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
