"""The OpenAPI document: flask-openapi3 derives it from the routes; this module adds limits and examples."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from copy import deepcopy
from typing import Any

from flask import Response
from flask_openapi3 import OpenAPI
from flask_openapi3.utils import parse_rule
from flask_openapi3_swagger.plugins import RegisterPlugin

from .config import Settings
from .dashboards import Dashboards
from .error_responses import ErrorBody
from .first_commands import Example
from .neuron_schemas import ANY_ID, ROOT_ID, graph_schema, summary_schema
from .observe import REQUEST_ID
from .problems import AUTH_ERROR, AUTH_PROBLEMS
from .response_bodies import JSON, json_response
from .schemas import ID, OPERATIONS, ids_schema, node_schema, plain_response
from .service import AppResources
from .version_schemas import row_schema

PLACE = "../openapi.json"
"""URL of the document, relative to the page that shows it."""
BOOLEAN = "boolean"
"""Format of parameters that the page shows as check boxes. Their type is string: ``1`` also means true."""
TOKEN = "token"
SECURITY_SCHEMES = {
    TOKEN: {"type": "http", "scheme": "bearer", "description": "A token of the authentication service."}
}
REDIRECT = {"description": "Browsers without a token are redirected to the login page."}
HEADERS = {
    REQUEST_ID: {"description": "Id of the request, also in the server's log.", "schema": {"type": "string"}},
    "Retry-After": {
        "description": "Seconds to wait before the next attempt.",
        "schema": {"type": "integer", "minimum": 1},
    },
}


def register_document(
    app: OpenAPI, service: AppResources, open_endpoints: Collection[str] | None, dashboards: Dashboards
) -> None:
    """Register the OpenAPI document, and a page that shows the document.

    ``open_endpoints`` need no token; None means that no endpoint needs a token. Example ids are from a data
    set that the visitor may view, if such ids are known.
    """
    settings, datasets = service.settings, [served.name for served in service.datasets.all()]
    prefix = settings.api_prefix
    kept: dict[tuple[str, Example] | None, dict[str, Any]] = {}

    def document() -> Response:
        """Return this OpenAPI 3.1 document."""
        example = dashboards.example()
        if None not in kept:
            kept[None] = openapi_document(app, settings, datasets, open_endpoints)
        if example not in kept:
            found = with_example(kept[None], *example) if example else kept[None]
            kept.update({example: found} if len(kept) <= len(datasets) else {})
            return json_response(found)
        return json_response(kept[example])

    for place, name in ((prefix, "openapi"), ("", "root_openapi")):
        app.get(
            f"{place}/openapi.json",
            endpoint=name,
            tags=[OPERATIONS],
            summary="The OpenAPI document",
            operation_id=name,
            responses=plain_response(JSON, {"type": "object", "required": ["openapi"]}, "OpenAPI 3.1."),
            doc_ui=place == prefix,
        )(document)
    app.register_blueprint(RegisterPlugin.register(doc_url=PLACE), url_prefix=f"{prefix}/docs")
    app.add_url_rule(f"{prefix}/docs/", "docs", dashboards.docs)


def openapi_document(
    app: OpenAPI, settings: Settings, datasets: Sequence[str], open_endpoints: Collection[str] | None
) -> dict[str, Any]:
    """Return the OpenAPI document of all routes.

    ``open_endpoints`` need no token; None means that no endpoint needs a token.
    """
    open_paths = [
        parse_rule(rule.rule) for rule in app.url_map.iter_rules() if rule.endpoint in (open_endpoints or ())
    ]
    document: dict[str, Any] = deepcopy(app.api_doc)
    schemas = document["components"]["schemas"]
    schemas |= {"Node": node_schema(), "Id": ID, "Ids": ids_schema("Id", settings.max_ids)}
    schemas |= {"RootId": ROOT_ID, "RootIds": ids_schema("RootId", settings.max_roots), "AnyId": ANY_ID}
    schemas |= {"RootSummary": summary_schema(), "RootGraph": graph_schema(), "VersionRow": row_schema()}
    schemas["ErrorBody"] = ErrorBody.model_json_schema()  # the library leaves out its example
    document["components"]["headers"] = HEADERS
    document["components"].pop("securitySchemes", None)
    for path, operation in _operations(document):
        _set_known_values(operation, settings, datasets)
        if open_endpoints is not None and path not in open_paths:
            _need_token(operation)
        for status, response in operation["responses"].items():
            response["headers"] = _headers(status)
    if open_endpoints is not None:
        document["components"]["securitySchemes"] = SECURITY_SCHEMES
        schemas["AuthError"] = AUTH_ERROR
    return document


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _set_known_values(operation: dict[str, Any], settings: Settings, datasets: Sequence[str]) -> None:
    for parameter in operation.get("parameters", ()):
        if parameter["name"] == "dataset":
            parameter["schema"]["enum"] = list(datasets)
        if parameter["name"] == "wait":
            parameter["schema"]["maximum"] = settings.max_wait_s
        if parameter["schema"].get("default") in ("true", "false"):
            parameter["schema"]["format"] = BOOLEAN


def with_example(document: dict[str, Any], dataset: str, example: Example) -> dict[str, Any]:
    """Return a copy of the document with ``dataset`` and ``example`` as examples in parameters and bodies."""
    found = deepcopy(document)
    parameters: dict[str, Any] = {"dataset": dataset, "node_id": example.node, "root_id": example.root}
    bodies: dict[str, Any] = {"l2_ids": example.node, "root_ids": example.root}
    for _, operation in _operations(found):
        for parameter in operation.get("parameters", ()):
            if (value := parameters.get(parameter["name"])) is not None:
                parameter["schema"].pop("example", None)
                parameter["example"] = str(value)  # JavaScript rounds larger numbers
        content = operation.get("requestBody", {}).get("content", {}).get(JSON, {})
        for field in bodies.keys() & content.get("example", {}).keys():
            if bodies[field] is not None:
                content["example"][field] = [str(bodies[field])]
    return found


def _need_token(operation: dict[str, Any]) -> None:
    operation["security"] = [{TOKEN: []}]
    responses = operation["responses"]
    responses["302"] = dict(REDIRECT)
    of_request = responses.get("400")
    for status, (meaning, example) in AUTH_PROBLEMS.items():
        content = {"schema": _ref("AuthError"), "example": example}
        responses[str(status)] = {"description": meaning, "content": {JSON: content}}
    content = responses["400"]["content"][JSON]
    content["schema"] = {"anyOf": [_ref("ErrorBody"), _ref("AuthError")]}
    if of_request:
        examples = {"request": of_request["content"][JSON]["example"], "token": content.pop("example")}
        content["examples"] = {name: {"value": example} for name, example in examples.items()}


def _headers(status: str) -> dict[str, Any]:
    names = [REQUEST_ID, "Retry-After"] if status in ("429", "503") else [REQUEST_ID]
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
