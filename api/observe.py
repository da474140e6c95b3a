"""Observation of requests: each gets an id, a log line and metrics."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Collection
from functools import partial
from typing import Any

from flask import Flask, Request, Response, g, request

from . import metrics
from .auth import without_secrets
from .error_responses import shown

REQUEST_ID = "X-Request-Id"
UNMATCHED, UNKNOWN = "unmatched", "unknown"
PROBES = ("live", "ready", "metrics")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
log = logging.getLogger("l2features.api.access")


def observe(app: Flask, datasets: Collection[str]) -> None:
    """Make the app give each request an id, count it and log it. Call this before other hooks are registered.

    Metrics are labelled by route and by data set. All data sets that are not in ``datasets`` share one label,
    so that unknown names do not each add a time series.
    """

    @app.before_request
    def begin() -> None:
        g.started = time.perf_counter()
        g.request_id = request_id(request.headers.get(REQUEST_ID))

    @app.after_request
    def end(response: Response) -> Response:
        given, identity = this_request(), g.request_id
        response.headers[REQUEST_ID] = identity
        seconds = time.perf_counter() - g.started
        route = given.url_rule.rule if given.url_rule else UNMATCHED
        named = (given.view_args or {}).get("dataset")
        dataset = "" if named is None else named if named in datasets else UNKNOWN
        metrics.REQUESTS.labels(route, dataset, response.status_code).observe(seconds)
        level = logging.DEBUG if is_probe(given) else logging.INFO
        if log.isEnabledFor(level):
            answered = {
                "request_id": identity,
                "status": response.status_code,
                "ms": round(seconds * 1000, 3),
                "bytes": response.content_length,
                "ids": g.get("ids"),
            }
            write = partial(_log, level, given, route, named, answered)
            if response.direct_passthrough:
                write()  # werkzeug passes on a file without closing the response
            else:
                response.call_on_close(write)  # the client has the body by then
        return response


def this_request() -> Request:
    """Return the current request itself, not Flask's proxy, which looks the request up at each use."""
    found: Request = request._get_current_object()  # type: ignore[attr-defined]
    return found


def is_probe(given: Request) -> bool:
    """Return whether a request is for health or metrics."""
    return given.url_rule is not None and given.url_rule.rule.rsplit("/", 1)[-1] in PROBES


def request_id(proposed: str | None) -> str:
    """Return ``proposed``, the id from the request's X-Request-Id header, if it is valid; else a new id."""
    return proposed if proposed and _REQUEST_ID.fullmatch(proposed) else secrets.token_hex(16)


def _log(level: int, given: Request, route: str, dataset: str | None, answered: dict[str, Any]) -> None:
    """Log a request; ``answered`` has the log fields of the response.

    Does not receive the response, because the response stores this call until it is closed. The reference
    cycle would keep the body in memory until the next full garbage collection.
    """
    fields = {
        **answered,
        "method": given.method,
        "route": route,
        "dataset": dataset and shown(dataset),
        "query": shown(without_secrets(given.query_string.decode("latin-1"))) or None,
        "client": given.remote_addr,
        "forwarded_for": given.headers.get("X-Forwarded-For", type=shown),
    }
    log.log(level, "request", extra={name: value for name, value in fields.items() if value is not None})
