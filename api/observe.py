"""Per request: an id, a log line and metrics."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Collection
from typing import Any

from flask import Flask, Response, g, request

from . import metrics
from .auth import without_secrets
from .error_responses import shown

REQUEST_ID = "X-Request-Id"
UNMATCHED, UNKNOWN = "unmatched", "unknown"
PROBES = ("live", "ready", "metrics")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
log = logging.getLogger("l2features.api.access")


def observe(app: Flask, datasets: Collection[str]) -> None:
    """Give each request an id, count it and log it. Call this before other hooks are registered.

    Labels of metrics are limited to names of ``datasets`` and routes, so that requests cannot add series.
    """

    @app.before_request
    def begin() -> None:
        g.started = time.perf_counter()
        g.request_id = request_id(request.headers.get(REQUEST_ID))

    @app.after_request
    def end(response: Response) -> Response:
        response.headers[REQUEST_ID] = g.request_id
        seconds = time.perf_counter() - g.started
        route = request.url_rule.rule if request.url_rule else UNMATCHED
        named = (request.view_args or {}).get("dataset")
        dataset = "" if named is None else named if named in datasets else UNKNOWN
        metrics.REQUESTS.labels(route, dataset, response.status_code).observe(seconds)
        level = logging.DEBUG if is_probe() else logging.INFO
        if log.isEnabledFor(level):
            log.log(level, "request", extra=_fields(response, route, named, seconds))
        return response


def is_probe() -> bool:
    """Return whether the request is for health or metrics."""
    return request.url_rule is not None and request.url_rule.rule.rsplit("/", 1)[-1] in PROBES


def request_id(proposed: str | None) -> str:
    """Return the id that the client or a proxy proposes, if it is valid, or a new one."""
    return proposed if proposed and _REQUEST_ID.fullmatch(proposed) else uuid.uuid4().hex


def _fields(response: Response, route: str, dataset: str | None, seconds: float) -> dict[str, Any]:
    fields = {
        "method": request.method,
        "route": route,
        "dataset": dataset and shown(dataset),
        "query": shown(without_secrets(request.query_string.decode("latin-1"))) or None,
        "status": response.status_code,
        "ms": round(seconds * 1000, 3),
        "bytes": response.content_length,
        "ids": g.get("ids"),
        "client": request.remote_addr,
        "forwarded_for": request.headers.get("X-Forwarded-For", type=shown),
    }
    return {name: value for name, value in fields.items() if value is not None}
