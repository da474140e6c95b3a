"""Response bodies, compressed where the client accepts gzip."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import orjson
from flask import Response, request
from isal import isal_zlib
from werkzeug.http import parse_accept_header

JSON, ARROW, PARQUET = (
    "application/json",
    "application/vnd.apache.arrow.stream",
    "application/vnd.apache.parquet",
)
FORMS = (JSON, ARROW, PARQUET)
"""Media types of features, the preferred one first."""
_GZIP = 31
"""``wbits`` of a gzip stream."""
SMALL = 1 << 16
"""Bytes of a body that is sent as one piece."""


def json_response(value: Any, status: int = 200) -> Response:
    """Return a small JSON response, ending with a newline as PCGL2Cache's do."""
    return body_response([orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)], JSON, status)


def body_response(
    parts: Iterable[bytes], mimetype: str, status: int = 200, *, zipped: bool | None = None
) -> Response:
    """Return a response in pieces, gzipped one by one if the client accepts gzip.

    Without ``zipped``, only JSON is.
    """
    headers = {}
    zipped = mimetype == JSON if zipped is None else zipped
    if zipped and accepts_gzip(request.headers.get("Accept-Encoding")):
        packer = isal_zlib.compressobj(level=1, wbits=_GZIP)
        pieces = [packer.compress(part) for part in parts]
        pieces.append(packer.flush())
        headers = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    else:
        pieces = list(parts)
    size = sum(len(piece) for piece in pieces)
    pieces = [b"".join(pieces)] if size < SMALL else pieces
    response = Response(pieces, status, mimetype=mimetype, headers=headers)
    response.content_length = size
    return response


@lru_cache(1_000)
def accepts_gzip(header: str | None) -> bool:
    """Return whether a client with this Accept-Encoding accepts gzip."""
    return parse_accept_header(header).quality("gzip") > 0
