"""The Flask application.

gunicorn -c api/gunicorn.conf.py "api.app:create_app()"
"""

from __future__ import annotations

from flask import Response
from flask_cors import CORS
from flask_openapi3 import Info, OpenAPI

from l2features import __version__
from l2features.config.datasets import read_datasets

from . import metrics
from .auth import auth_disabled, log_who_may_ask, protect
from .body import discard_rest
from .config import Settings, load_settings
from .dashboards import Dashboards, register_dashboards
from .document import register_document
from .error_responses import ErrorBody, register_errors
from .hosts import check_hosts
from .limiter import wait_limiter
from .missing import MissingIds, topic_path
from .neuron_routes import register_neurons
from .observe import observe, this_request
from .operations import register_operations
from .picture_answers import NOT_KEPT
from .picture_routes import register_pictures
from .region_routes import register_regions
from .routes import register_contract
from .schemas import validation_error
from .served_datasets import ServedDatasets
from .service import AppResources
from .version_reads import VersionReads
from .version_routes import register_versions
from .viewer_routes import register_viewer

DESCRIPTION = """Features of level-2 (L2) nodes. An L2 node is a part of a neuron within one chunk.

Read features by node, by root or by place; as JSON, Arrow or Parquet; from the current table or a frozen
version. Ids are 64-bit integers. Browsers round such integers: send ids as strings. If a node with features
is known, the ids in the examples are from a data set of this server.
"""


def create_app(settings: Settings | None = None) -> OpenAPI:
    """Return the application. It opens no store before the first request or `ServedDatasets.warm`.

    Raises ConfigError if a setting, the data sets file or AUTH_URL is invalid.
    """
    settings = settings or load_settings()
    datasets = ServedDatasets(read_datasets(settings.datasets), settings)
    names = [served.name for served in datasets.all()]
    topic = topic_path(settings.exchange, settings.project)
    missing = MissingIds(
        topic, interval_s=settings.publish_interval_s, on_failure=metrics.PUBLISH_FAILURES.inc
    )
    app = _new_app()
    observe(app, names)
    register_errors(app, settings.retry_after_s, f"{settings.api_prefix}/docs/")
    check_hosts(app, settings.trusted_hosts.split())

    @app.after_request
    def finish(response: Response) -> Response:
        """Read the rest of the request's body, and set default headers.

        The headers keep browsers from guessing the type, and shared caches from storing the response.
        """
        discard_rest(this_request(), settings.max_body_bytes)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Cache-Control", NOT_KEPT)
        return response

    service = AppResources(
        settings, datasets, missing, wait_limiter(settings), VersionReads(settings, len(names))
    )
    dashboards = Dashboards(app, settings, datasets)
    open_endpoints = register_contract(app, service, dashboards.landing)
    open_endpoints |= register_dashboards(app, settings, dashboards)
    register_neurons(app, service)
    register_regions(app, settings, datasets)
    register_pictures(app, service)
    register_versions(app, service)
    open_endpoints |= register_operations(app, settings, datasets)
    open_endpoints |= register_viewer(app, settings, datasets)
    register_document(app, service, None if auth_disabled() else open_endpoints, dashboards)
    protect(
        app,
        open_endpoints=open_endpoints,
        deadline_s=settings.auth_timeout_s,
        retry_after_s=settings.retry_after_s,
    )
    log_who_may_ask()
    CORS(app, expose_headers=["WWW-Authenticate"])
    app.extensions["l2cache"] = service
    return app


def _new_app() -> OpenAPI:
    app = OpenAPI(
        __name__,
        info=Info(title="L2 feature cache", version=__version__, description=DESCRIPTION),
        doc_ui=False,
        static_folder=None,
        template_folder="pages",
        validation_error_callback=validation_error,
        validation_error_model=ErrorBody,
        # Every route documents a 200, so the library adds no response of its own.
        validation_error_status=200,
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]
    return app
