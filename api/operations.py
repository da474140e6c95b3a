"""Routes about the server as a whole: health, metrics, and where to get a token."""

from __future__ import annotations

from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial

from flask import Response
from flask_openapi3 import APIBlueprint, OpenAPI

from l2features.core.errors import L2FeaturesError, StoreError, StoreUnavailable, TableNotFound, UnknownFormat
from l2features.core.futures import in_background

from . import metrics
from .auth import login_url
from .config import Settings
from .error_responses import ApiError
from .problems import errors
from .response_bodies import json_response
from .schemas import NOT_READY, OPERATIONS, AuthInfo, Health, plain_response
from .served_datasets import ServedDataset, ServedDatasets

UNREACHABLE = "unreachable"
MISCONFIGURED = "its entry in the data sets file is invalid: see the server's log"


def register_operations(app: OpenAPI, settings: Settings, datasets: ServedDatasets) -> frozenset[str]:
    """Register /auth_info and, both at / and below the API's prefix, the routes of health and metrics.

    Returns the Flask endpoints of all these routes. Requests to them need no token.
    """
    open_endpoints: list[str] = []
    for prefix in dict.fromkeys(("", settings.api_prefix)):
        health = APIBlueprint(
            f"health{len(open_endpoints)}",
            __name__,
            url_prefix=prefix or None,
            abp_tags=[OPERATIONS],
            doc_ui=prefix == settings.api_prefix,
        )
        _health_routes(health, datasets, settings, "" if prefix else "root_")
        app.register_api(health)
        open_endpoints += [f"{health.name}.{view}" for view in ("live", "ready", "metrics_text")]

    @app.get(  # what Neuroglancer requests of the origin of middleauth+https://…
        "/auth_info",
        tags=[OPERATIONS],
        summary="Where to get a token",
        operation_id="auth_info",
        responses={200: AuthInfo, **errors(404)},
    )
    def auth_info() -> Response:
        """Return the authentication service's URL, as PyChunkedGraph does; 404 if no route needs a token."""
        if (url := login_url()) is None:
            raise ApiError(404, "no_authentication", "no route of this server needs a token")
        return json_response(AuthInfo(login_url=url).model_dump())

    return frozenset({*open_endpoints, "auth_info"})


def _health_routes(health: APIBlueprint, datasets: ServedDatasets, settings: Settings, name: str) -> None:
    @health.get(
        "/live",
        summary="Whether the process answers",
        operation_id=f"{name}live",
        responses={200: Health},
    )
    def live() -> Response:
        """Return `ok` always, without any I/O."""
        return json_response({"status": "ok"})

    @health.get(
        "/ready",
        summary="Whether reads can be served",
        operation_id=f"{name}ready",
        responses={200: Health, 503: NOT_READY},
    )
    def ready() -> Response:
        """Return the state of each data set.

        The status is 503 if a store cannot be reached, no data set is ready, or the server is draining.
        """
        if settings.drain_file and settings.drain_file.exists():
            return json_response(Health(status="draining", datasets={}).model_dump(), 503)
        states = all_states(datasets, settings.store_timeout_s)
        good = "ready" in states.values() and not any(s.startswith(UNREACHABLE) for s in states.values())
        body = Health(status="ready" if good else "not ready", datasets=states)
        return json_response(body.model_dump(), 200 if good else 503)

    @health.get(
        "/metrics",
        summary="Metrics for Prometheus",
        operation_id=f"{name}metrics",
        responses=plain_response("text/plain", {"type": "string"}, "Prometheus' text format."),
    )
    def metrics_text() -> Response:
        """Return metrics of all server processes: latency, ids by status, store and cache reads."""
        for served in datasets.all():
            served.noted.refresh()
        text, content_type = metrics.exposition()
        return Response(text, content_type=content_type)


def all_states(datasets: ServedDatasets, timeout_s: float) -> dict[str, str]:
    """Return each data set's state, by name; data sets are checked concurrently."""
    asked = {served.name: in_background(partial(state, served, timeout_s)) for served in datasets.all()}
    states = {name: answer.result() for name, answer in asked.items()}
    return states | dict.fromkeys(datasets.problems, MISCONFIGURED)


def state(served: ServedDataset, timeout_s: float) -> str:
    """Return ``ready``, or why the data set is not ready."""
    try:
        served.store.ping()
        served.opening().result(timeout_s)
    except (L2FeaturesError, FutureTimeout) as error:
        return problem_text(error)
    return "ready"


def problem_text(error: Exception) -> str:
    """Return why a data set is not ready, without names of stores or paths, since anyone may read it."""
    if isinstance(error, TableNotFound):
        return "its table is missing"
    if isinstance(error, StoreUnavailable):
        return f"{UNREACHABLE}: its store does not answer"
    if isinstance(error, UnknownFormat):
        return "its table is of a newer format than this server reads"
    if isinstance(error, StoreError):
        return "its table cannot be read"
    return "its metadata cannot be read: its graph does not answer, or is invalid"
