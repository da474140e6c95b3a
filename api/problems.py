"""Error responses in the OpenAPI document, each with an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from .accept import not_acceptable
from .body import FIELD, NO_FLOAT
from .error_responses import EXAMPLE
from .response_bodies import JSON

NO_EXAMPLES: Mapping[int, dict[str, Any]] = MappingProxyType({})
FLOAT_ID = "1.4411518807585587e+17"


class Problem(NamedTuple):
    """The meaning of an error's HTTP status, and an example of the response's body."""

    meaning: str
    example: dict[str, Any]


def example_error(code: str, message: str, **rest: Any) -> dict[str, Any]:
    """Return the body of an error, for the OpenAPI document."""
    return {"code": code, "message": message, **rest, "request_id": EXAMPLE["request_id"]}


def _problem(meaning: str, code: str, message: str, **rest: Any) -> Problem:
    return Problem(meaning, example_error(code, message, **rest))


PROBLEMS = {
    400: _problem(
        "The request cannot be read.",
        "not_json",
        "the body is not JSON: NaN is neither a JSON number nor an id: leave it out",
        field="body",
    ),
    404: Problem("The data set, or the requested part of it, does not exist.", EXAMPLE),
    406: Problem("The client accepts none of the available media types.", {}),
    413: _problem(
        "The request exceeds a limit.",
        "too_many_ids",
        "250001 ids in one request: expected at most 250000",
        field=FIELD,
        value="250001",
        limit=250_000,
    ),
    415: _problem(
        "The body's type or encoding is not supported.",
        "unsupported_encoding",
        "Content-Encoding 'br': expected gzip or none",
        field="Content-Encoding",
        value="br",
    ),
    422: _problem(
        "A parameter or an id is invalid.",
        "not_an_id",
        f"{FLOAT_ID} is not an id: {NO_FLOAT}",
        field=FIELD,
        value=FLOAT_ID,
    ),
    429: _problem(
        "The server is at its limit: retry later.",
        "too_many_requests",
        "this server works on at most 24 requests at a time: try again later",
        limit=24,
    ),
    503: _problem(
        "The store, the graph or the authentication service does not answer: retry later.",
        "store_unavailable",
        "the store cannot answer at the moment: try again later",
    ),
}
AUTH_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}, "message": {"type": "string"}, "data": {}},
    "description": "An authentication error.",
}
AUTH_PROBLEMS = {
    400: Problem(
        "The request, or its token, cannot be read.",
        {"error": "bad_auth_header", "message": "Authorization header must begin with 'Bearer'"},
    ),
    401: Problem(
        "The token is missing or invalid.",
        {"error": "invalid_token", "message": "Unauthorized - Token is Invalid or Expired"},
    ),
    403: Problem(
        "The token does not permit this.",
        {
            "error": "missing_permission",
            "message": "Missing permission: view for dataset minnie65",
            "data": {"required_permission": "view", "auth_dataset": "minnie65"},
        },
    ),
}


def errors(
    *statuses: int, forms: Sequence[str] = (JSON,), examples: Mapping[int, dict[str, Any]] = NO_EXAMPLES
) -> dict[int, Any]:
    """Return error responses for the OpenAPI document.

    ``forms`` are the media types of a successful response. ``examples`` maps statuses to bodies that replace
    the examples in `PROBLEMS`.
    """
    problems = {status: PROBLEMS[status] for status in statuses}
    problems |= {status: Problem(problems[status].meaning, body) for status, body in examples.items()}
    return {status: _response(status, problem, forms) for status, problem in problems.items()}


def _response(status: int, problem: Problem, forms: Sequence[str]) -> dict[str, Any]:
    example = problem.example
    if status == 406:
        body = not_acceptable("text/csv", forms).body.model_dump(exclude_none=True)
        example = {**body, "request_id": EXAMPLE["request_id"]}
    schema = {"$ref": "#/components/schemas/ErrorBody"}
    return {"description": problem.meaning, "content": {JSON: {"schema": schema, "example": example}}}
