"""Response bodies, compressed where the client accepts gzip."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from flask import Response, request
from isal import isal_zlib

JSON, ARROW, PARQUET = (
    "application/json",
    "application/vnd.apache.arrow.stream",
    "application/vnd.apache.parquet",
)
FORMS = (JSON, ARROW, PARQUET)
"""Media types of features, the preferred one first."""
_GZIP = 31
"""``wbits`` of a gzip stream."""


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
    if zipped and request.accept_encodings.quality("gzip") > 0:
        packer = isal_zlib.compressobj(level=1, wbits=_GZIP)
        pieces = [packer.compress(part) for part in parts]
        pieces.append(packer.flush())
        headers = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    else:
        pieces = list(parts)
    response = Response(pieces, status, mimetype=mimetype, headers=headers)
    response.content_length = sum(len(piece) for piece in pieces)
    return response
