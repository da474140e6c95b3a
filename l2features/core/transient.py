"""Decide whether an error of a graph, a volume or a store is transient or permanent.

A transient error passes by itself: a service is down, busy, or refuses access for now. The same call may
succeed later, so it is retried for a long time. A permanent error is about the data or the
configuration: a table is missing, an answer contradicts itself, a file cannot be decoded.
"""

from __future__ import annotations

import gzip
import http.client
from collections.abc import Iterator
from typing import Any

from .errors import GraphError, GraphUnavailable, StoreUnavailable, VolumeError, VolumeUnavailable

OURS = (StoreUnavailable, GraphUnavailable, VolumeUnavailable)
"""This project's transient errors; all its other errors are permanent."""
STATUSES = frozenset([401, 403, 408, 425, 429])
"""Transient HTTP statuses below 500; from 500 on, all are transient. Refused access may be granted later."""
_TRANSIENT = (*OURS, OSError, http.client.HTTPException)
_PERMANENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError, gzip.BadGzipFile, ValueError)
_TRANSIENT_NAMES = frozenset(
    [
        "aiohttp.client_exceptions.ClientError",
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.HTTPClientError",
        "botocore.exceptions.NoCredentialsError",
        "cloudfiles.exceptions.AuthorizationError",
        "cloudvolume.exceptions.AuthenticationError",
        "google.api_core.exceptions.Aborted",
        "google.api_core.exceptions.RetryError",
        "google.api_core.exceptions.Unknown",
        "google.auth.exceptions.GoogleAuthError",
        "urllib3.exceptions.HTTPError",
    ]
)
"""Transient errors of other libraries, by name, because not every installation has all these libraries."""


def is_transient(error: BaseException) -> bool:
    """Return whether an error of this project is transient: a retry may succeed."""
    return isinstance(error, OURS)


def volume_error(message: str, cause: BaseException) -> VolumeError:
    """Return VolumeUnavailable if the cause is transient, else VolumeError."""
    return (VolumeUnavailable if has_transient_cause(cause) else VolumeError)(message)


def graph_error(message: str, cause: BaseException) -> GraphError:
    """Return GraphUnavailable if the cause is transient, else GraphError."""
    return (GraphUnavailable if has_transient_cause(cause) else GraphError)(message)


def is_refused(error: BaseException) -> bool:
    """Return whether an error of any library means that a service refused access (HTTP 401 or 403)."""
    return any(_status(cause) in (401, 403) for cause in _chain(error))


def has_transient_cause(error: BaseException) -> bool:
    """Return whether an error of any library is transient.

    The error and then its causes are checked in turn, until a type or an HTTP status decides. If none
    decides, the error is permanent.
    """
    verdicts = map(_verdict, _chain(error))
    return next((known for known in verdicts if known is not None), False)


def _verdict(error: BaseException) -> bool | None:
    """Return whether an error is transient; None if neither its type nor its status decides."""
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    if names & _TRANSIENT_NAMES:
        return not isinstance(error, ValueError)
    status = _status(error)
    if status is not None:
        return status >= 500 or status in STATUSES
    if isinstance(error, _PERMANENT):
        return False
    return True if isinstance(error, _TRANSIENT) else None


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an error of requests, botocore or Google's clients."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for found in (getattr(response, "status_code", response), getattr(error, "code", None)):
        if isinstance(found, int) and 400 <= found < 600:
            return int(found)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, then its causes.

    The cause of an ExceptionGroup, or of a RetryError of tenacity, is its last error.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        last, group = getattr(error, "last_attempt", None), getattr(error, "exceptions", None)
        if last is not None:
            error = last.exception()
        elif group:
            error = group[-1]
        else:
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
