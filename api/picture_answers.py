"""Responses with pictures (annotations and skeletons), their cache headers, and pages that list a folder."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import orjson
from flask import Response, request

from l2features.pictures.listing import listing_page

from .picture_schemas import HTML
from .response_bodies import JSON, body_response

A_DAY, A_MINUTE, NOT_KEPT = "private, max-age=86400", "private, max-age=60", "private, no-cache"
"""Values of Cache-Control: for responses that change only if rows are replaced, for responses that change
with edits of the graph, and for responses that the client must check each time."""
TAG_BYTES = 16


def picture_response(body: bytes, cache: str, mimetype: str) -> Response:
    """Return a picture, gzipped if the client accepts gzip, or 304 if the client has it already.

    ``cache`` is the response's header Cache-Control.
    """
    response = body_response([body], mimetype, zipped=True)
    response.vary.add("Accept-Encoding")
    response.headers["Cache-Control"] = cache
    response.set_etag(blake2b(body, digest_size=TAG_BYTES).hexdigest(), weak=True)
    response.make_conditional(request)
    return response


def info_response(info: Mapping[str, Any]) -> Response:
    """Return the response with an info file of Neuroglancer's precomputed format."""
    return picture_response(orjson.dumps(info, option=orjson.OPT_APPEND_NEWLINE), NOT_KEPT, JSON)


def listing(title: str, entries: Mapping[str, str]) -> Response:
    """Return a page that links to the entries of a folder; ``entries`` maps their names to descriptions."""
    response = Response(listing_page(title, entries), mimetype=HTML)
    response.headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"
    return response
