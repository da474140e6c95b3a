"""Helpers of the tests of request bodies."""

from __future__ import annotations

import gzip
import io

import pytest
from flask import Request

from api.body import requested_ids
from api.config import Settings
from api.error_responses import ApiError

ID = 144115188075855873
MANY = 1000
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
"""The Accept header of a browser."""
LIMITS = Settings(max_ids=MANY, max_body_bytes=100_000)


def request_of(body: bytes | io.RawIOBase, **headers: str) -> Request:
    """Return a request whose stream ends where the body ends, as gunicorn's does."""
    stream = io.BytesIO(body) if isinstance(body, bytes) else body
    environ = {"REQUEST_METHOD": "POST", "wsgi.input": stream, "wsgi.input_terminated": True}
    for name, value in headers.items():
        prefix = "" if name in ("Content_Type", "Content_Length") else "HTTP_"
        environ[prefix + name.upper()] = value
    return Request(environ)


def refused(body: bytes | io.RawIOBase, **headers: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        requested_ids(request_of(body, **headers), LIMITS)
    return caught.value


def packed(*members: bytes) -> bytes:
    return b"".join(gzip.compress(member, mtime=0) for member in members)
