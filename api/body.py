"""The ids of a request: its body, received within limits, as a uint64 array."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
from flask import Request

from l2features.ids import Ids

from .config import Settings
from .errors import ApiError

FIELD = "l2_ids"
BINARY = "application/octet-stream"
REFUSED = ("application/x-www-form-urlencoded", "multipart/form-data")
PIECE = 1 << 16
_GZIP = 31


def requested_ids(request: Request, settings: Settings) -> Ids:
    """The ids that a request asks for, in its order, shape (n,). Raises ApiError for anything else."""
    mimetype = request.mimetype
    if mimetype in REFUSED:
        message = f"a body of {mimetype} is not read: expected application/json or {BINARY}"
        raise ApiError(415, "unsupported_media_type", message, field="Content-Type", value=mimetype)
    body = received(request, settings)
    ids = ids_of_buffer(body, settings.max_ids) if mimetype == BINARY else ids_of_json(body, settings.max_ids)
    without_layer = ids[ids >> np.uint64(56) == 0]
    if len(without_layer):
        raise _bad_id(int(without_layer[0]), "an id with a layer in its top 8 bits")
    return ids


def received(request: Request, settings: Settings) -> bytes:
    """The body, gunzipped where it says so. Raises ApiError."""
    limit = settings.max_body_bytes
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", ""):
        message = f"Content-Encoding {encoding!r} is not read: expected gzip or none"
        raise ApiError(415, "unsupported_encoding", message, field="Content-Encoding", value=encoding)
    body = _received(request, limit, settings.body_timeout_s)
    return gunzipped(body, limit) if encoding == "gzip" else body


def _received(request: Request, limit: int, seconds: float) -> bytes:
    until, pieces, size = time.monotonic() + seconds, [], 0
    while piece := request.stream.read(PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        if time.monotonic() > until:
            raise ApiError(408, "body_too_slow", f"the body took longer than {seconds:g} s", limit=seconds)
    return b"".join(pieces)


def gunzipped(body: bytes, limit: int) -> bytes:
    """The content of a gzip file. Raises ApiError where it is none, or larger than ``limit`` bytes."""
    out, size = [], 0
    try:
        while body:
            unpacker = zlib.decompressobj(_GZIP)
            out.append(unpacker.decompress(body, limit + 1 - size))
            size += len(out[-1])
            if size > limit:
                raise _too_large(limit)
            if not unpacker.eof:
                raise zlib.error("it ends too early")
            body = unpacker.unused_data
    except zlib.error as error:
        message = f"Content-Encoding is gzip, but the body is not: {error}"
        raise ApiError(400, "not_gzip", message, field="Content-Encoding", value="gzip") from error
    return b"".join(out)


def ids_of_buffer(body: bytes, max_ids: int) -> Ids:
    """Ids of a buffer of little-endian uint64. Raises ApiError."""
    if len(body) % 8:
        message = f"a buffer of {len(body)} bytes: expected ids of 8 bytes each (little-endian uint64)"
        raise ApiError(422, "not_ids", message, field="body", value=f"{len(body)} bytes")
    _check_count(len(body) // 8, max_ids)
    return np.frombuffer(body, dtype="<u8").astype(np.uint64, copy=False)


def ids_of_json(body: bytes, max_ids: int) -> Ids:
    """Ids of ``{"l2_ids": …}``: integers, or strings of digits, in a list, a nested list or alone.

    As in the older service, a negative integer stands for the uint64 of the same 64 bits. Raises ApiError.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "not_json", f"the body is not JSON: {error}", field="body") from error
    if not isinstance(content, dict) or FIELD not in content:
        message = f'expected a JSON object such as {{"{FIELD}": [144115188075855873]}}: it has no "{FIELD}"'
        raise ApiError(422, "missing_field", message, field=FIELD)
    values = content[FIELD]
    items = values if isinstance(values, list) and set(map(type, values)) <= {int} else list(_flat(values))
    _check_count(len(items), max_ids)
    try:
        return np.array(items, dtype=np.uint64)
    except (OverflowError, ValueError, TypeError):
        return np.array([_id(item) for item in items], dtype=np.uint64)


def _flat(values: Any) -> Iterator[Any]:
    """Items of a nested list, in order; as ids, where they are no plain integers."""
    stack = [iter([values])]
    while stack:
        for item in stack[-1]:
            if isinstance(item, list):
                stack.append(iter(item))
                break
            yield item if type(item) is int else _id(item)
        else:
            stack.pop()


def _id(item: Any) -> int:
    digits = isinstance(item, str) and len(item) < 40 and item.strip().lstrip("-").isdecimal()
    value = int(item) if digits or (isinstance(item, float) and item.is_integer()) else item
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 64:
        raise _bad_id(item, f"an integer from 0 to {(1 << 64) - 1}")
    return value % (1 << 64)


def _bad_id(value: Any, expected: str) -> ApiError:
    message = f"{value!r:.200} is not an id: expected {expected}"
    return ApiError(422, "not_an_id", message, field=FIELD, value=value)


def _check_count(count: int, max_ids: int) -> None:
    if count > max_ids:
        message = f"{count} ids in one request: expected at most {max_ids}"
        raise ApiError(413, "too_many_ids", message, field=FIELD, value=count, limit=max_ids)


def _too_large(limit: int) -> ApiError:
    message = f"the body is larger than {limit} bytes, before or after gunzip"
    return ApiError(413, "body_too_large", message, field="body", limit=limit)
