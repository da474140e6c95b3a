"""The ids of a request's body, as a uint64 array."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from math import isinf
from typing import Any

import numpy as np
import orjson
from flask import Request
from gunicorn.http.errors import ParseException

from l2features.core.gunzip import GunzipTooLarge, gunzipped
from l2features.core.ids import AN_ID, Ids

from .config import Settings
from .error_responses import ApiError, shown, shown_repr

FIELD, ROOT_FIELD, NODE_FIELD = "l2_ids", "root_ids", "node_ids"
BINARY = "application/octet-stream"
REFUSED = ("application/x-www-form-urlencoded", "multipart/form-data")
PIECE = 1 << 16
OTHER_VALUES = 1000
"""Maximum number of JSON values in a body, besides its ids and a list around each id."""
_DIGITS = re.compile(r"\s*-?[0-9]{1,40}\s*")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(r"-?(NaN|Infinity)")
EXACT_FLOATS = 1 << 53
"""A 64-bit float holds every integer below this limit exactly."""
NO_FLOAT = f"{AN_ID}; a float cannot hold an id exactly: send integers or strings"


def requested_ids(request: Request, settings: Settings) -> Ids:
    """Return the node ids in a request's body, in the given order, shape (n,).

    Raises ApiError 4xx for an invalid body or id, and for too many ids.
    """
    ids = _ids(request, settings, settings.max_ids, FIELD)
    check_layers(ids, FIELD)
    return ids


def check_layers(ids: Ids, field: str) -> None:
    """Raise ApiError 422, which names ``field``, if an id has layer 0 in its top 8 bits."""
    without_layer = ids[ids >> np.uint64(56) == 0]
    if len(without_layer):
        raise _bad_id(int(without_layer[0]), "expected an id with a layer in its top 8 bits", field)


def requested_roots(request: Request, settings: Settings) -> Ids:
    """Return the root ids in a request's body, in the given order, shape (n,).

    Raises ApiError 4xx for an invalid body or id, and for too many ids.
    """
    return _ids(request, settings, settings.max_roots, ROOT_FIELD)


def _ids(request: Request, settings: Settings, most: int, field: str) -> Ids:
    mimetype = request.mimetype
    if mimetype in REFUSED:
        message = f"Content-Type {mimetype}: expected application/json or {BINARY}"
        raise ApiError(415, "unsupported_media_type", message, field="Content-Type", value=mimetype)
    body = received(request, settings)
    read = ids_of_buffer if mimetype == BINARY else ids_of_json
    return read(body, most, field)


def received(request: Request, settings: Settings) -> bytearray:
    """Return a request's body as one buffer, gunzipped if its Content-Encoding is gzip.

    Raises ApiError 413 for a body that is too large, 415 for another encoding, and 400 for a malformed,
    incomplete or wrongly gzipped body.
    """
    limit = settings.max_body_bytes
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", ""):
        message = f"Content-Encoding {shown(encoding)!r}: expected gzip or none"
        raise ApiError(415, "unsupported_encoding", message, field="Content-Encoding", value=encoding)
    pieces = _pieces(request, limit)
    if encoding != "gzip":
        body = bytearray()
        for piece in pieces:
            body += piece
        return body
    try:
        return gunzipped(pieces, limit)
    except GunzipTooLarge as error:
        raise _too_large(limit) from error
    except ValueError as error:
        message = f"Content-Encoding is gzip, but the body is not valid gzip: {error}"
        raise ApiError(400, "not_gzip", message, field="Content-Encoding", value="gzip") from error


def _pieces(request: Request, limit: int) -> Iterator[bytes]:
    """Yield a request's body in pieces.

    Raises ApiError 413 for more than ``limit`` bytes, and 400 for a malformed or incomplete body.
    """
    length, size = request.content_length, 0
    if (length or 0) > limit:
        raise _too_large(limit)
    try:
        while piece := request.stream.read(PIECE):
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            yield piece
    except (OSError, ParseException) as error:
        message = f"malformed HTTP body: {shown(str(error))}"
        raise ApiError(400, "bad_body", message, field="body") from error
    if length is not None and size < length:
        message = f"the body ended after {size} bytes: expected {length}, the Content-Length"
        raise ApiError(400, "body_incomplete", message, field="Content-Length", value=length)


def discard_rest(request: Request, limit: int) -> None:
    """Read and discard the part of the request's body that is still unread.

    gunicorn resets a connection with more than 64 KiB of unread data, and nginx would lose the response. A
    body with a Content-Length above ``limit`` stays unread: nginx itself refuses such a body.
    """
    if (request.content_length or 0) > limit:
        return
    with suppress(OSError, ParseException):  # the client is gone, or its body was refused
        for _ in range(limit // PIECE + 1):
            if not request.stream.read(PIECE):
                break


def ids_of_buffer(body: bytes | bytearray, max_ids: int, field: str = FIELD) -> Ids:
    """Return the ids in a buffer of little-endian uint64, shape (n,).

    Raises ApiError 422 if the length is no multiple of 8 bytes, and 413 for more than ``max_ids`` ids.
    """
    if len(body) % 8:
        message = f"the body has {len(body)} bytes: expected a multiple of 8, as each id is 8 bytes (uint64)"
        raise ApiError(422, "not_ids", message, field="body", value=f"{len(body)} bytes")
    _check_count(len(body) // 8, max_ids, field)
    return np.frombuffer(body, dtype="<u8").astype(np.uint64, copy=False)


def ids_of_json(body: bytes | bytearray, max_ids: int, field: str = FIELD) -> Ids:
    """Return the ids in ``field`` of a JSON object, shape (n,).

    The field has one id, a list or a nested list of ids. Each id is an integer, a string of digits, or a
    whole float below 2^53, since larger floats may have been rounded. As in PCGL2Cache, a negative integer
    means the uint64 with the same 64 bits. Raises ApiError 400 if the body is not JSON, 413 for more than
    ``max_ids`` ids, and 422 for a missing field or an invalid id.
    """
    _check_values(body, max_ids, field)
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _not_json(error, field) from error
    if not isinstance(content, dict) or field not in content:
        message = f'"{field}" is missing: expected a JSON object such as {{"{field}": [144115188075855873]}}'
        raise ApiError(422, "missing_field", message, field=field)
    values = content[field]
    items = (
        values if isinstance(values, list) and set(map(type, values)) <= {int} else list(_flat(values, field))
    )
    _check_count(len(items), max_ids, field)
    try:
        return np.array(items, dtype=np.uint64)
    except (OverflowError, ValueError, TypeError):
        return np.array([_id(item, field) for item in items], dtype=np.uint64)


def _flat(values: Any, field: str) -> Iterator[Any]:
    """Yield the items of nested lists in order. Integers stay as they are, others are converted to ids."""
    stack = [iter([values])]
    while stack:
        for item in stack[-1]:
            if isinstance(item, list):
                stack.append(iter(item))
                break
            yield item if type(item) is int else _id(item, field)
        else:
            stack.pop()


def _id(item: Any, field: str) -> int:
    value = item
    if isinstance(item, str) and _DIGITS.fullmatch(item):
        value = int(item)
    elif isinstance(item, float) and abs(item) >= EXACT_FLOATS:
        raise _bad_id(item, NO_FLOAT, field)
    elif isinstance(item, float) and item.is_integer():
        value = int(item)
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 64:
        raise _bad_id(item, AN_ID, field)
    return value % (1 << 64)


def _bad_id(value: Any, why: str, field: str) -> ApiError:
    message = f"{shown_repr(value)} is not an id: {why}"
    return ApiError(422, "not_an_id", message, field=field, value=value)


def _not_json(error: orjson.JSONDecodeError, field: str) -> ApiError:
    """Return the error for a body that orjson cannot parse.

    orjson also refuses JSON numbers above the largest float, such as 1e400.
    """
    number = _NUMBER.match(error.doc, error.pos)
    if number and isinf(float(number[0])):
        message = f"{shown(number[0])} is not an id: {NO_FLOAT}"
        return ApiError(422, "not_an_id", message, field=field, value=number[0])
    message = f"the body is not JSON: {error}"
    at = max(0, error.pos - 1)  # for -Infinity the parser reports the second character
    if named := _NOT_FINITE.match(error.doc, at) or _NOT_FINITE.match(error.doc, error.pos):
        message = f"the body is not JSON: {named[0]} is neither a JSON number nor an id: leave it out"
    return ApiError(400, "not_json", message, field="body")


def _check_count(count: int, max_ids: int, field: str) -> None:
    if count > max_ids:
        message = f"{count} ids in one request: expected at most {max_ids}"
        raise ApiError(413, "too_many_ids", message, field=field, value=count, limit=max_ids)


def _check_values(body: bytes | bytearray, max_ids: int, field: str) -> None:
    """Raise ApiError 413 if a JSON body has far more values than ``max_ids``.

    Called before parsing, which takes up to a hundred times the body's memory.
    """
    most = 2 * max_ids + OTHER_VALUES
    if len(body) > most:
        values = 1 + body.count(b",") + body.count(b"[") + body.count(b"{")
        if values > most:
            message = f"{values} JSON values in one request: expected at most {max_ids} ids"
            raise ApiError(413, "too_many_ids", message, field=field, value=values, limit=max_ids)


def _too_large(limit: int) -> ApiError:
    message = f"the body is larger than {limit} bytes, before or after gunzip"
    return ApiError(413, "body_too_large", message, field="body", limit=limit)
