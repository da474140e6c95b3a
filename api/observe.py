"""What is seen of every request: its id, a line in the log, and the metrics."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterable
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.wsgi import ClosingIterator

from . import metrics
from .auth import without_secrets
from .errors import shown

REQUEST_ID = "X-Request-Id"
UNMATCHED, UNKNOWN = "unmatched", "unknown"
PROBES = ("live", "ready", "metrics")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
log = logging.getLogger("l2features.api.access")


def observe(app: Flask, datasets: Collection[str]) -> None:
    """Give every request an id, count it and log it; to be called before other hooks are registered.

    Metrics know the names of ``datasets`` and of routes only, so that no request adds to their number.
    """
    app.wsgi_app = _InFlight(app.wsgi_app)  # type: ignore[method-assign]

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
        level = logging.DEBUG if route.rsplit("/", 1)[-1] in PROBES else logging.INFO
        if log.isEnabledFor(level):
            log.log(level, "request", extra=_line(response, route, named, seconds))
        return response


def request_id(given: str | None) -> str:
    """The id that a client or a load balancer has given to a request, if it is one, or a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _line(response: Response, route: str, dataset: str | None, seconds: float) -> dict[str, Any]:
    line = {
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
    return {name: value for name, value in line.items() if value is not None}


class _InFlight:
    """Counts the requests of a WSGI application whose answer has not been sent."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        metrics.IN_FLIGHT.inc()
        try:
            return ClosingIterator(self.app(environ, start_response), metrics.IN_FLIGHT.dec)
        except BaseException:
            metrics.IN_FLIGHT.dec()
            raise
