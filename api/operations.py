"""Routes for those who run the server: health, metrics, and the description of the API."""

from __future__ import annotations

from concurrent.futures import TimeoutError as FutureTimeout

from flask import Response, render_template_string
from flask_openapi3 import APIBlueprint, OpenAPI, Tag
from flask_openapi3_swagger.plugins import RegisterPlugin
from flask_openapi3_swagger.templates import swagger_html_string

from l2features.errors import L2FeaturesError, StoreError

from . import metrics
from .answers import json_response
from .config import Settings
from .datasets import Datasets, Served
from .schemas import Health

OPERATIONS = Tag(name="operations")
UNREACHABLE = "unreachable"
METRICS = {
    "description": "Prometheus' text format.",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}


def register_operations(app: OpenAPI, settings: Settings, datasets: Datasets) -> frozenset[str]:
    """Health and metrics, at the root and below the API's prefix; gives the endpoints that need no token."""
    open_endpoints: list[str] = []
    for prefix in dict.fromkeys(("", settings.api_prefix)):
        health = APIBlueprint(
            f"health{len(open_endpoints)}", __name__, url_prefix=prefix or None, abp_tags=[OPERATIONS]
        )
        _health_routes(health, datasets, settings)
        app.register_api(health)
        open_endpoints += [f"{health.name}.{view}" for view in ("live", "ready", "metrics_text")]
    _document_routes(app, settings.api_prefix)
    return frozenset(open_endpoints)


def _health_routes(health: APIBlueprint, datasets: Datasets, settings: Settings) -> None:
    @health.get("/live", summary="Whether the process answers", responses={200: Health})
    def live() -> Response:
        """Always `ok`: no store, no graph and no other server is asked."""
        return json_response({"status": "ok"})

    @health.get("/ready", summary="Whether reads can be served", responses={200: Health, 503: Health})
    def ready() -> Response:
        """503 while a store cannot be reached, or no data set is known yet."""
        states = {served.name: state(served, settings.store_timeout_s) for served in datasets.all()}
        good = "ready" in states.values() and not any(s.startswith(UNREACHABLE) for s in states.values())
        body = Health(status="ready" if good else "not ready", datasets=states)
        return json_response(body.model_dump(), 200 if good else 503)

    @health.get("/metrics", summary="Metrics for Prometheus", responses={200: METRICS})
    def metrics_text() -> Response:
        """Latency by route and data set, ids by status, the store and the cache; over all processes."""
        text, content_type = metrics.exposition()
        return Response(text, content_type=content_type)


def state(served: Served, timeout_s: float) -> str:
    """``ready``, or what a data set lacks."""
    try:
        served.store.ping()
        served.opening().result(timeout_s)
    except StoreError:
        return f"{UNREACHABLE}: its store does not answer"
    except (L2FeaturesError, FutureTimeout):
        return "its metadata is not known: its graph does not answer"
    return "ready"


def _document_routes(app: OpenAPI, prefix: str) -> None:
    pages = RegisterPlugin.register(doc_url="openapi.json")
    app.register_blueprint(pages, url_prefix=f"{prefix}/docs")

    def document() -> Response:
        return json_response(app.api_doc)

    def docs() -> str:
        return render_template_string(
            swagger_html_string, doc_url="../openapi.json", swagger_config=None, oauth_config=None
        )

    app.add_url_rule(f"{prefix}/openapi.json", "openapi_document", document)
    app.add_url_rule("/openapi.json", "openapi_document_at_root", document)
    app.add_url_rule(f"{prefix}/docs/", "docs", docs)
