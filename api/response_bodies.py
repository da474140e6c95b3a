"""Response bodies, compressed where the client accepts gzip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain
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
Piece = bytes | memoryview
_GZIP = 31
"""zlib's parameter ``wbits`` for the gzip format."""
SHORTEST = 128
"""JSON of fewer bytes is not gzipped: gzip would save a few bytes at most, or add some."""
SMALL, LARGE = 1 << 16, 1 << 19
"""Bodies below `SMALL` bytes are one piece. A thread gzips bodies whose first part reaches `LARGE` bytes."""


def json_response(value: Any, status: int = 200) -> Response:
    """Return a small JSON response, ending with a newline as in PCGL2Cache."""
    return body_response([orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)], JSON, status)


def body_response(
    parts: Iterable[Piece], mimetype: str, status: int = 200, *, zipped: bool | None = None
) -> Response:
    """Return a response whose body consists of ``parts``.

    The body is gzipped if ``zipped`` is true and the client accepts gzip. ``zipped`` is by default true for
    JSON of `SHORTEST` bytes or more.
    """
    headers, left = {}, iter(parts)
    first = next(left, b"")
    while len(first) < SHORTEST and (more := next(left, None)) is not None:
        first = b"".join([first, more])
    if zipped is None:
        zipped = mimetype == JSON and len(first) >= SHORTEST
    if zipped and accepts_gzip(request.headers.get("Accept-Encoding")):
        pieces = _gzipped(first, left)
        headers = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    else:
        pieces = [bytes(part) for part in chain([first], left)]
    size = sum(len(piece) for piece in pieces)
    pieces = [b"".join(pieces)] if size < SMALL else pieces
    response = Response(pieces, status, mimetype=mimetype, headers=headers)
    response.content_length = size
    return response


def _gzipped(first: Piece, left: Iterator[Piece]) -> list[bytes]:
    """Return one gzip stream, in pieces, of the parts ``first`` and ``left``.

    If ``first`` is large, a thread compresses each part while the next part is made.
    """
    packer = isal_zlib.compressobj(level=1, wbits=_GZIP)
    if len(first) < LARGE:
        pieces = [packer.compress(part) for part in chain([first], left)]
    else:
        with ThreadPoolExecutor(1, "gzip") as thread:
            packed = [thread.submit(packer.compress, part) for part in chain([first], left)]
        pieces = [future.result() for future in packed]
    return [*pieces, packer.flush()]


@lru_cache(1_000)
def accepts_gzip(header: str | None) -> bool:
    """Return whether a client with this Accept-Encoding accepts gzip."""
    return parse_accept_header(header).quality("gzip") > 0
