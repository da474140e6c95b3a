"""The API with CAVE's graph server and info service on the same origin, for `l2features serve --cave`."""

from __future__ import annotations

from flask_openapi3 import OpenAPI
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from l2features.config.datasets import read_datasets
from l2features.core.errors import ConfigError
from l2features.local.cave.cave_apps import cave_apps

from . import app as api
from .auth import auth_disabled
from .config import load_settings


def create_app() -> OpenAPI:
    """Return the API's application with CAVE's services. It opens no store before the first request.

    Raises ConfigError if authentication is enabled, or if a setting or the data sets file is invalid.
    """
    if not auth_disabled():
        raise ConfigError(
            "this server's graph and info services for CAVE cannot check tokens: expected AUTH_DISABLED=true"
        )
    settings = load_settings()
    app = api.create_app(settings)
    services = cave_apps(read_datasets(settings.datasets).usable.values())
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, dict(services))  # type: ignore[method-assign]
    return app
