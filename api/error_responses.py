"""The API's error responses, in one JSON form."""

from __future__ import annotations

import http
import logging
import reprlib
from typing import Any

from flask import Flask, Response, g, request
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from l2features.core.errors import GraphError, StoreError, TableNotFound, UnknownFormat
from l2features.core.transient import is_transient

from . import metrics
from .response_bodies import json_response

MAX_SHOWN = 200
EXAMPLE: dict[str, Any] = {
    "code": "unknown_dataset",
    "message": "data set 'minie65' is not served: expected a name from GET /table_mapping",
    "field": "dataset",
    "value": "minie65",
    "request_id": "0497aa3d38d049c3994f60ff1eef78fd",
}
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = MAX_SHOWN
log = logging.getLogger("l2features.api")


class ErrorBody(BaseModel):
    """The body of an error response."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    code: str = Field(description="Stable identifier of the error.")
    message: str = Field(description="What is wrong and what was expected.")
    field: str | None = Field(None, description="The invalid parameter, header or field of the body.")
    value: str | None = Field(None, description="The invalid value, shortened if long.")
    limit: int | float | None = Field(None, description="The limit that was exceeded.")
    request_id: str | None = Field(None, description="Identifies the request in the server's log.")


class ApiError(Exception):
    """An error response. ``retry_after`` is in seconds."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        value: Any = None,
        limit: int | float | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after
        self.body = ErrorBody(
            code=code,
            message=message,
            field=field,
            value=None if value is None else shown(value),
            limit=limit,
        )


def shown(value: Any) -> str:
    """Return a value as text for an error message, shortened to `MAX_SHOWN` characters."""
    text = value if isinstance(value, str) else _REPR.repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def shown_repr(value: Any) -> str:
    """Return a value's repr, shortened to `MAX_SHOWN` characters; takes bounded time for large values."""
    return shown(_REPR.repr(value))


def register_errors(app: Flask, retry_after_s: int, routes: str) -> None:
    """Answer failed requests with an `ErrorBody`. A message for an unknown path names the page ``routes``."""

    @app.errorhandler(ApiError)
    def api_error(error: ApiError) -> Response:
        return _response(error)

    @app.errorhandler(StoreError)
    def store_error(error: StoreError) -> Response:
        log.warning("store error", extra={"error": str(error)})
        code, message = "store_unavailable", "the store cannot answer at the moment: try again later"
        if isinstance(error, TableNotFound):
            code, message = (
                "table_not_found",
                "the table of this data set does not exist: ingest the data set",
            )
        if isinstance(error, UnknownFormat):
            name = (request.view_args or {}).get("dataset", "")
            code = "unknown_format"
            message = f"the table of data set {name!r:.120} is of a newer format than this server reads"
        return _response(ApiError(503, code, message, retry_after=retry_after_s))

    @app.errorhandler(GraphError)
    def graph_error(error: GraphError) -> Response:
        log.warning("graph error", extra={"error": str(error)})
        code, message = "graph_error", "the graph of this data set cannot be read: see the server's log"
        if is_transient(error):
            code = "graph_unavailable"
            message = "the graph of this data set cannot answer at the moment: try again later"
        return _response(ApiError(503, code, message, retry_after=retry_after_s))

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        code = http.HTTPStatus(status).name.lower()
        message = str(error.description)
        if isinstance(error, NotFound):
            message = f"unknown path: see {routes} for the routes"
        if isinstance(error, MethodNotAllowed):
            allowed = ", ".join(sorted(error.valid_methods or ()))
            message = f"{request.method:.20} is not allowed here: expected {allowed}"
        response = _response(ApiError(status, code, message))
        for name, value in error.get_headers():
            if name not in ("Content-Type", "Content-Length"):
                response.headers[name] = value
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        log.exception("unexpected error")
        return _response(ApiError(500, "internal_error", "unexpected error: see the server's log"))


def _response(error: ApiError) -> Response:
    metrics.REFUSED.labels(error.body.code).inc()
    body = error.body.model_copy(update={"request_id": g.get("request_id")})
    response = json_response(body.model_dump(exclude_none=True), error.status)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response
