"""The body of a request for rows of a version."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import orjson
from flask import Request

from l2features.core.ids import Ids

from .body import BINARY, NODE_FIELD, REFUSED, ROOT_FIELD, check_layers, ids_of_json, received
from .config import Settings
from .error_responses import ApiError, shown_repr

_NODE_KEY = re.compile(rb'"%b"\s*:' % NODE_FIELD.encode())
FIELDS = (ROOT_FIELD, NODE_FIELD)
NODES, ROOTS = "nodes", "roots"
EXPECTED = f'expected "{ROOT_FIELD}" or "{NODE_FIELD}" (not both), optionally "part", "columns" and "limit"'


class WantedRows(NamedTuple):
    """The rows of a version that a query requests.

    ``field`` is the JSON key of ``ids``. ``part`` is "nodes" or "roots", the kind of rows.
    """

    field: str
    ids: Ids
    part: str
    columns: list[str] | None
    limit: int | None


def wanted_rows(request: Request, settings: Settings) -> WantedRows:
    """Parse the body of a query. Raises ApiError 4xx for an invalid body."""
    if request.mimetype in (*REFUSED, BINARY):
        message = f"Content-Type {request.mimetype}: expected application/json"
        raise ApiError(415, "unsupported_media_type", message, field="Content-Type", value=request.mimetype)
    body = received(request, settings)
    field = NODE_FIELD if _NODE_KEY.search(body) else ROOT_FIELD
    ids = ids_of_json(body, settings.max_ids if field == NODE_FIELD else settings.max_roots, field)
    content: dict[str, Any] = orjson.loads(body)
    unknown = sorted({*content} - {*FIELDS, "part", "columns", "limit"})
    if unknown or len({*content} & {*FIELDS}) != 1:
        named = unknown[0] if unknown else NODE_FIELD
        raise ApiError(422, "invalid_body", f"{shown_repr(named)} in the body: {EXPECTED}", field=named)
    if field == NODE_FIELD:
        check_layers(ids, NODE_FIELD)
    part = content.get("part", NODES)
    if part not in (NODES, ROOTS) or (part == ROOTS and field == NODE_FIELD):
        message = f'part {shown_repr(part)}: expected "{NODES}" or, only with "{ROOT_FIELD}", "{ROOTS}"'
        raise ApiError(422, "invalid_body", message, field="part", value=part)
    return WantedRows(field, ids, part, _columns(content), _limit(content, settings.max_ids))


def _columns(content: dict[str, Any]) -> list[str] | None:
    if "columns" not in content:
        return None
    columns = content["columns"]
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        message = f"columns {shown_repr(columns)}: expected a list of names"
        raise ApiError(422, "invalid_body", message, field="columns", value=columns)
    return columns


def _limit(content: dict[str, Any], most: int) -> int | None:
    if "limit" not in content:
        return None
    limit = content["limit"]
    whole = isinstance(limit, (int, float)) and not isinstance(limit, bool) and float(limit).is_integer()
    if not whole or not 1 <= limit <= most:
        message = f"limit {shown_repr(limit)}: expected an integer from 1 to {most}"
        raise ApiError(422, "invalid_body", message, field="limit", value=limit, limit=most)
    return int(limit)
