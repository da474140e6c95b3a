"""Tests of the table of transient and permanent errors, with the libraries' own errors."""

from __future__ import annotations

import gzip
import http.client
import re

import pytest
import requests
import urllib3
from google.api_core import exceptions as google
from google.auth.exceptions import RefreshError, TransportError
from tenacity import Future, RetryError

from l2features.core.errors import (
    GraphError,
    GraphUnavailable,
    StoreUnavailable,
    TableNotFound,
    VolumeError,
    VolumeUnavailable,
)
from l2features.core.transient import graph_error, has_transient_cause, is_transient, volume_error
from l2features.store.bigtable.calls import unavailable


def answered(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} Error", response=response)


class BotoError(Exception):
    """An error like botocore's, with a dictionary as the response."""

    def __init__(self, status: int) -> None:
        super().__init__(f"An error occurred ({status})")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


def retried(error: Exception) -> RetryError:
    """Return the RetryError of a retry whose last attempt raised ``error``."""
    last: Future = Future(3)
    last.set_exception(error)
    return RetryError(last)


def named(error: BaseException) -> str:
    """Return a test id that is the same in every process: the repr without addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(error))


@pytest.mark.parametrize(
    "error",
    [
        *(answered(status) for status in (401, 403, 408, 429, 500, 502, 503, 504)),
        *(kind("x") for kind in (google.Forbidden, google.Unauthorized, google.TooManyRequests)),
        *(kind("x") for kind in (google.ServiceUnavailable, google.DeadlineExceeded, google.Aborted)),
        google.Unknown("x"),
        google.InternalServerError("x"),
        TransportError("x"),
        RefreshError("x"),
        BotoError(403),
        BotoError(503),
        requests.ConnectionError("refused"),
        requests.Timeout("late"),
        urllib3.exceptions.ProtocolError("broken"),
        http.client.IncompleteRead(b""),
        ConnectionResetError("reset"),
        TimeoutError("late"),
        PermissionError(13, "denied"),
        OSError(5, "I/O error"),
        retried(ConnectionResetError("reset")),
        retried(answered(503)),
    ],
    ids=named,
)
def test_transient_errors(error: Exception) -> None:
    assert has_transient_cause(error)
    assert type(volume_error("m", error)) is VolumeUnavailable
    assert type(graph_error("m", error)) is GraphUnavailable
    assert is_transient(graph_error("m", error))


@pytest.mark.parametrize(
    "error",
    [
        *(answered(status) for status in (400, 404, 410, 416, 422)),
        google.NotFound("x"),
        google.BadRequest("x"),
        google.FailedPrecondition("x"),
        BotoError(404),
        FileNotFoundError(2, "missing"),
        IsADirectoryError(21, "a folder"),
        gzip.BadGzipFile("not gzip"),
        EOFError("cut off"),
        requests.exceptions.InvalidURL("x"),
        requests.exceptions.JSONDecodeError("x", "", 0),
        ValueError("not a label"),
        KeyError("scales"),
        ZeroDivisionError("a defect"),
        MemoryError(),
        retried(answered(404)),
    ],
    ids=named,
)
def test_what_stays_wrong(error: Exception) -> None:
    assert not has_transient_cause(error)
    assert type(volume_error("m", error)) is VolumeError
    assert type(graph_error("m", error)) is GraphError
    assert not is_transient(volume_error("m", error))


def test_a_cause_decides_if_the_error_does_not() -> None:
    error = RuntimeError("cannot read")
    error.__cause__ = answered(403)
    assert has_transient_cause(error)
    error.__cause__ = answered(404)
    assert not has_transient_cause(error)
    loop = RuntimeError("around")
    loop.__cause__ = RuntimeError("and around")
    loop.__cause__.__cause__ = loop
    assert not has_transient_cause(loop)


def test_a_store_uses_the_same_table() -> None:
    assert unavailable(google.Forbidden("x"))
    assert not unavailable(google.FailedPrecondition("x"))
    assert is_transient(StoreUnavailable("x"))
    assert not is_transient(TableNotFound("x"))
