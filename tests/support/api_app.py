"""The API as an application in this process: requests need no server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from flask_openapi3 import OpenAPI

from api.app import create_app
from api.config import Settings
from l2features.testing.small_table import DATASET

TABLE = f"/l2cache/api/v1/table/{DATASET}"


def app_of(config: Path, **settings: Any) -> OpenAPI:
    """Return the application of a data sets file."""
    return create_app(Settings(GRAPH_L2CACHE_CONFIG_PATH=str(config), **settings))


def client_of(config: Path, **settings: Any) -> FlaskClient:
    """Return a client of the application. It sends no token."""
    return app_of(config, **settings).test_client()


def need_no_token(patch: pytest.MonkeyPatch) -> None:
    """Make all applications in this process answer without a token, until ``patch`` is undone."""
    patch.setattr("middle_auth_client.decorators.AUTH_DISABLED", True)
