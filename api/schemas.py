"""Models of requests and responses, for validation and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any

import numpy as np
from flask_openapi3 import APIBlueprint, Tag
from pydantic import BaseModel, ConfigDict, Field, model_validator

from l2features.core.schema import ATTRIBUTES, INT64, NAMES, SIZE
from l2features.query.reader import Status
from l2features.store.notes import LastAudit
from l2features.updates.freshness import Updates

from .body import BINARY
from .config import Settings
from .error_responses import ApiError
from .problems import NO_EXAMPLES, errors
from .response_bodies import FORMS, JSON

READS, NEURONS, OPERATIONS = Tag(name="reads"), Tag(name="neurons"), Tag(name="operations")
PICTURES = Tag(name="pictures", description="Layers for Neuroglancer.")
VERSIONS = Tag(name="versions")
EXAMPLE_ID = "144115188075855873"
NODES = {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/Node"}}
NODES_EXAMPLE = {EXAMPLE_ID: {"rep_coord_nm": [17056.0, 8464.0, 1760.0], SIZE: 367534080}}
OF_BODY = (400, 404, 406, 413, 415, 422, 429, 503)
"""Error statuses of a read whose ids are in the request's body."""
MISSPELLINGS = {
    "attributes": "attribute_names",
    "attribute": "attribute_names",
    "attribute_name": "attribute_names",
    "with-status": "with_status",
}
"""Frequent misspellings of parameters. Other unknown parameters are ignored: old clients may send them."""
_NAME = f"[ ]*({'|'.join(NAMES)})[ ]*"


def new_routes(name: str, settings: Settings, tag: Tag) -> APIBlueprint:
    """Return a group of routes below the API's prefix; a route's operation id is its function's name."""
    ids = {"operation_id_callback": lambda *, name, **_: name}
    return APIBlueprint(name, __name__, url_prefix=settings.api_prefix, abp_tags=[tag], **ids)


class DatasetPath(BaseModel):
    dataset: str = Field(description="A data set, by its name in `/table_mapping`.")


class Query(BaseModel):
    """Parameters of a read. As in PCGL2Cache, unknown names are ignored, except for frequent misspellings."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def check_spelling(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters unchanged. Raises ApiError for a frequent misspelling."""
        for name, value in given.items():
            if name in MISSPELLINGS:
                message = f"{name!r} is not a parameter: expected {MISSPELLINGS[name]!r}"
                raise ApiError(422, "unknown_parameter", message, field=name, value=value)
        return given

    @classmethod
    @cache
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return pydantic's schema from a cache, because every request needs it."""
        return super().model_json_schema(*args, **kwargs)


class FeaturesQuery(Query):
    """Parameters of a read that returns features of nodes."""

    attribute_names: list[Annotated[str, Field(pattern=f"^{_NAME}(,{_NAME})*$")]] | None = Field(
        None,
        description="Attributes, separated by commas or in repeated parameters. Default: all.",
        json_schema_extra={"example": ["rep_coord_nm,size_nm3"]},
    )
    int64_as_str: str = Field("false", description=f"`true`, `yes` or `1`: {', '.join(INT64)} is a string.")
    with_status: str = Field(
        "false", description="`true`, `yes` or `1`: add the status of each id and, if known, the reason."
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Requested attributes in alphabetical order."""
        if self.attribute_names is None:
            return tuple(sorted(NAMES))
        return tuple(sorted({name.strip(" ") for name in ",".join(self.attribute_names).split(",")}))


class MissingQuery(Query):
    """Parameters of a read that publishes missing ids for computation."""

    update_cache: str = Field(
        "true", description="`false`, `no` or `0`: do not publish missing ids for computation."
    )
    wait: float = Field(
        0.0, ge=0, description="Maximum seconds to wait until missing ids have been computed."
    )


class AttributesQuery(FeaturesQuery, MissingQuery):
    """Parameters of a read of nodes by id."""


def is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "yes", "1")


def is_false(text: str) -> bool:
    return text.strip().lower() in ("false", "no", "0")


def validation_error(error: Any) -> Any:
    """Raise ApiError 422 for the first invalid parameter of a query."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "query"
    if name == "attribute_names":
        given = [part.strip(" ") for part in str(first["input"]).split(",")]
        bad = next((part for part in given if part not in NAMES), first["input"])
        message = f"{bad!r:.200} is not an attribute: expected one or more of {', '.join(NAMES)}"
        raise ApiError(422, "unknown_attribute", message, field=name, value=bad)
    if first["type"] == "missing":
        raise ApiError(422, "missing_parameter", f"the parameter {name!r} is missing", field=name)
    message = f"{name}={first['input']!r:.200}: {first['msg'].removeprefix('Value error, ')}"
    raise ApiError(422, "invalid_parameter", message, field=name, value=first["input"])


class AttributeInfo(BaseModel):
    """One attribute of nodes, with the unit and shape in responses."""

    name: str
    unit: str
    shape: list[int]
    optional: bool = Field(description="Whether a computed node may lack the attribute.")
    meaning: str


class CoverageInfo(BaseModel):
    """Progress of the ingest."""

    done: int = Field(description="Chunks whose nodes are all computed.")
    failed: int = Field(description="Chunks that could not be computed.")
    total: int = Field(description="Chunks in the grid.")
    as_of: str = Field(description="When this was counted (UTC, ISO 8601).")


class UpdatesInfo(Updates):
    """Freshness of the table, as reported by its updaters."""

    as_of: str = Field(description="When this was read (UTC, ISO 8601).")


class TableInfo(BaseModel):
    """Description and state of a data set."""

    dataset: str
    l2cache_id: str
    graph_id: str | None = Field(description="Id of the graph whose nodes the table has, if recorded.")
    timestamp: str | None = Field(
        description="Time of the ingested graph (UTC, ISO 8601). Null without a graph."
    )
    ingested_at: str | None = Field(
        description="Start of the ingest of a data set without a graph (UTC, ISO 8601). Otherwise null."
    )
    newest_update: str | None = Field(description="When a chunk was last written (UTC, ISO 8601).")
    resolution: list[float] = Field(description="nm per voxel along x, y and z.")
    voxel_offset: list[int]
    voxel_size: list[int] = Field(description="Size of the segmentation in voxels.")
    chunk_size: list[int] = Field(description="Size of a chunk in voxels.")
    grid: list[int] = Field(description="Number of chunks along x, y and z.")
    attributes: list[AttributeInfo]
    coverage: CoverageInfo | None = Field(
        description="State of the chunks; null until they have been counted."
    )
    updates: UpdatesInfo | None = Field(
        description="State of the updates; null until an updater has written to the table."
    )
    audit: LastAudit | None = Field(description="Last audit of the whole table; null before the first.")
    limits: dict[str, int | float] = Field(description="Limits of one request.")
    provenance: dict[str, str] = Field(
        description="Data set, segmentation, graph, time of the ingest, and version of the software."
    )


class AuthInfo(BaseModel):
    login_url: str = Field(
        description="URL of the authentication service; append `/api/v1/authorize` to log in."
    )


class Health(BaseModel):
    status: str
    datasets: dict[str, str] = Field(default_factory=dict, description="`ready` or the problem, by data set.")


NOT_READY = {
    "description": "A store cannot be reached, no data set is ready, or the server is draining.",
    "content": {
        JSON: {
            "schema": {"$ref": "#/components/schemas/Health"},
            "example": {"status": "not ready", "datasets": {"minnie65": "its table is missing"}},
        }
    },
}


def node_schema() -> dict[str, Any]:
    """Return the JSON schema of the served features of one node."""
    properties = {
        a.name: number_schema(a.served_dtype, a.shape, f"{a.meaning} ({a.served_unit})") for a in ATTRIBUTES
    }
    properties["status"] = {"type": "string", "enum": [s.name.lower() for s in Status]}
    properties["reason"] = {"type": "string", "description": "Why the node has no features."}
    return {
        "type": "object",
        "properties": dict(sorted(properties.items())),
        "additionalProperties": False,
        "description": "Features of one node; empty for an id without features.",
    }


def number_schema(
    dtype: np.dtype[Any], shape: Sequence[int], description: str, nullable: bool = False
) -> dict[str, Any]:
    """Return the JSON schema of a value of this dtype and shape; 64-bit integers may be strings."""
    value: dict[str, Any] = {"type": "number"}
    if dtype.kind == "u":
        value = {"type": "integer", "minimum": 0}
        if dtype.itemsize == 8:
            value = {"anyOf": [value, {"type": "string", "pattern": "^[0-9]+$"}]}
    for length in reversed(shape):
        value = {"type": "array", "items": value, "minItems": length, "maxItems": length}
    if nullable:
        value = {"anyOf": [value, {"type": "null"}]}
    return {**value, "description": description}


ID: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 1 << 56, "maximum": (1 << 64) - 1},
        {
            "type": "integer",
            "minimum": -(1 << 63),
            "maximum": -1,
            "description": "The uint64 with the same bits.",
        },
        {
            "type": "string",
            "pattern": "^ *(-[1-9][0-9]{0,17}|[89][0-9]{16}|[1-9][0-9]{17,18}|1[0-7][0-9]{18}) *$",
            "description": "In decimal, for clients without 64-bit integers, such as browsers.",
        },
    ],
    "description": "A 64-bit node id with a layer other than 0 in its top 8 bits. Never a float.",
    "examples": [int(EXAMPLE_ID), EXAMPLE_ID],
}


def ids_schema(one: str, most: int) -> dict[str, Any]:
    """Return the JSON schema of requested ids: one id, or a list or nested list of at most ``most`` ids.

    ``one`` is the name of the schema of one id, such as "Id".
    """
    listed = {"type": "array", "items": {"$ref": f"#/components/schemas/{one}s"}, "maxItems": most}
    return {
        "anyOf": [{"$ref": f"#/components/schemas/{one}"}, listed],
        "description": f"At most {most} ids, usually a list. Repeats are allowed.",
    }


def ids_request(field: str, schema: str, example: str, most: int, settings: Settings) -> dict[str, Any]:
    """Return a request body of at most ``most`` ids, for the OpenAPI document.

    ``field`` is the JSON key of the ids; ``schema`` is the name of their schema, such as "Ids".
    """
    ids = {"$ref": f"#/components/schemas/{schema}"}
    content = {"type": "object", "required": [field], "properties": {field: ids}}
    return {
        "required": True,
        "description": f"At most {settings.max_body_bytes} bytes, optionally with `Content-Encoding: gzip`.",
        "content": {
            JSON: {"schema": content, "example": {field: [example]}},
            BINARY: {
                "schema": {
                    "type": "string",
                    "format": "binary",
                    "maxLength": min(8 * most, settings.max_body_bytes),
                    "description": "The ids as a buffer of little-endian uint64.",
                }
            },
        },
    }


def read_responses(
    what: str,
    schema: dict[str, Any],
    example: Any,
    forms: Sequence[str] = FORMS,
    statuses: Sequence[int] = OF_BODY,
    examples: Mapping[int, dict[str, Any]] = NO_EXAMPLES,
) -> dict[int, dict[str, Any]]:
    """Return the responses to a read, for the OpenAPI document.

    ``what`` describes the successful response, and ``example`` is an example of its body. ``examples`` has
    example bodies of errors, by HTTP status.
    """
    binary = {"schema": {"type": "string", "format": "binary"}}
    content = {form: {"schema": schema, "example": example} if form == JSON else binary for form in forms}
    return {
        200: {"description": what, "content": content},
        **errors(*statuses, forms=forms, examples=examples),
    }


def plain_response(mimetype: str, schema: dict[str, Any], description: str) -> dict[int, Any]:
    """Return a response 200 with this schema, for the OpenAPI document."""
    return {200: {"description": description, "content": {mimetype: {"schema": schema}}}}
