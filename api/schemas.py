"""What requests and answers look like: the models behind the OpenAPI document."""

from __future__ import annotations

from functools import cache
from typing import Any

from flask_openapi3 import Tag
from pydantic import BaseModel, ConfigDict, Field

from l2features.freshness import Updates
from l2features.notes import LastAudit
from l2features.reading.reader import Status
from l2features.schema import ATTRIBUTES, NAMES, SIZE, Attribute

from .answers import ARROW, JSON, PARQUET
from .body import BINARY, FIELD
from .config import Settings
from .errors import ApiError

READS, OPERATIONS = Tag(name="reads"), Tag(name="operations")
EXAMPLE_ID = "144115188075855873"
_NAME = f"[ ]*({'|'.join(NAMES)})[ ]*"


class DatasetPath(BaseModel):
    dataset: str = Field(description="A data set, as table_mapping names it.")


class AttributesQuery(BaseModel):
    """Parameters of a read. Unknown ones are passed over, as in the older service."""

    model_config = ConfigDict(extra="ignore")

    attribute_names: str | None = Field(
        None,
        pattern=f"^{_NAME}(,{_NAME})*$",
        description="Attributes, separated by commas. All, unless given.",
        json_schema_extra={"example": "rep_coord_nm,size_nm3"},
    )
    int64_as_str: str = Field("false", description="`true`, `True` or `1`: size_nm3 is a string.")
    update_cache: str = Field("true", description="`false`: missing ids are not published for computation.")
    with_status: str = Field(
        "false", description="`true`: each id says its status and, where it has no features, why."
    )
    wait: float = Field(0.0, ge=0, description="Seconds to wait until missing ids have been computed.")

    @classmethod
    @cache
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """As of pydantic; kept, since it is asked for at every request."""
        return super().model_json_schema(*args, **kwargs)

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes asked for, in alphabetical order."""
        if self.attribute_names is None:
            return tuple(sorted(NAMES))
        return tuple(sorted({name.strip(" ") for name in self.attribute_names.split(",")}))

    @property
    def flags(self) -> tuple[bool, bool, bool]:
        """int64_as_str, update_cache and with_status."""
        return is_true(self.int64_as_str), not is_false(self.update_cache), is_true(self.with_status)


def is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1")


def is_false(text: str) -> bool:
    return text.strip().lower() in ("false", "0")


def validation_error(error: Any) -> Any:
    """The answer to a query that is not as documented."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "query"
    if name == "attribute_names":
        given = [part.strip(" ") for part in str(first["input"]).split(",")]
        bad = next((part for part in given if part not in NAMES), first["input"])
        message = f"{bad!r:.200} is not an attribute: expected one or more of {', '.join(NAMES)}"
        raise ApiError(422, "unknown_attribute", message, field=name, value=bad)
    message = f"{name}={first['input']!r:.200}: {first['msg']}"
    raise ApiError(422, "invalid_parameter", message, field=name, value=first["input"])


class AttributeInfo(BaseModel):
    """One attribute as it is served."""

    name: str
    unit: str
    shape: list[int]
    optional: bool = Field(description="Whether small nodes have none.")
    meaning: str


class CoverageInfo(BaseModel):
    """How much of the grid has been computed."""

    done: int = Field(description="Chunks whose nodes are all there.")
    failed: int = Field(description="Chunks that could not be computed.")
    total: int = Field(description="Chunks of the grid.")
    as_of: str = Field(description="When this was counted (UTC, ISO 8601).")


class UpdatesInfo(Updates):
    """How fresh the table is, by the updaters that write it."""

    as_of: str = Field(description="When this was read (UTC, ISO 8601).")


class TableInfo(BaseModel):
    """What a data set is, and what there is of it."""

    dataset: str
    l2cache_id: str
    graph_id: str | None = Field(description="Graph that the features are of, where the table says it.")
    timestamp: str | None = Field(description="Time of the graph at the ingest (UTC, ISO 8601).")
    newest_update: str | None = Field(description="When a chunk was last written (UTC, ISO 8601).")
    resolution: list[float] = Field(description="nm per voxel.")
    voxel_offset: list[int]
    voxel_size: list[int] = Field(description="Size of the segmentation in voxels.")
    chunk_size: list[int] = Field(description="Voxels of a chunk.")
    grid: list[int] = Field(description="Chunks along each axis.")
    attributes: list[AttributeInfo]
    coverage: CoverageInfo | None = Field(description="Null while it is counted for the first time.")
    updates: UpdatesInfo | None = Field(description="Null where no updater has written to the table.")
    audit: LastAudit | None = Field(description="Null where the table was never audited as a whole.")
    limits: dict[str, int | float] = Field(description="What one request may ask for.")


class Health(BaseModel):
    status: str
    datasets: dict[str, str] = Field(default_factory=dict, description="Data set: `ready`, or what it lacks.")


def components(settings: Settings) -> dict[str, Any]:
    """Schemas that are no models: nodes, and ids as they may be sent."""
    return {"Node": node_schema(), "Id": ID, "Ids": ids_schema(settings)}


def node_schema() -> dict[str, Any]:
    """JSON schema of the features of one node, as they are served."""
    properties = {a.name: _served_schema(a) for a in ATTRIBUTES}
    properties["status"] = {"type": "string", "enum": [s.name.lower() for s in Status]}
    properties["reason"] = {"type": "string", "description": "Why the node has no features."}
    return {
        "type": "object",
        "properties": dict(sorted(properties.items())),
        "additionalProperties": False,
        "description": "Empty for an id without features.",
    }


def _served_schema(attribute: Attribute) -> dict[str, Any]:
    number: dict[str, Any] = {"type": "number"}
    if attribute.served_dtype.kind == "u":
        number = {"type": "integer", "minimum": 0}
    if attribute.name == SIZE:
        number = {"anyOf": [number, {"type": "string", "pattern": "^[0-9]+$"}]}
    for length in reversed(attribute.shape):
        number = {"type": "array", "items": number, "minItems": length, "maxItems": length}
    return {**number, "description": f"{attribute.meaning} ({attribute.served_unit})"}


ID: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 1 << 56, "maximum": (1 << 64) - 1},
        {
            "type": "integer",
            "minimum": -(1 << 63),
            "maximum": -1,
            "description": "The uint64 of the same bits.",
        },
        {
            "type": "string",
            "pattern": "^ *(-[1-9][0-9]{0,17}|[89][0-9]{16}|[1-9][0-9]{17,18}|1[0-7][0-9]{18}) *$",
            "description": "In decimal, for clients whose numbers have no 64 bits, as in a browser.",
        },
    ],
    "description": "A node id: 64 bits, with the layer in the top 8 bits, which is not 0.",
    "examples": [int(EXAMPLE_ID), EXAMPLE_ID],
}


def ids_schema(settings: Settings) -> dict[str, Any]:
    """Ids of a request: a list, a nested list or a single one."""
    return {
        "anyOf": [
            {"$ref": "#/components/schemas/Id"},
            {
                "type": "array",
                "items": {"$ref": "#/components/schemas/Ids"},
                "maxItems": settings.max_ids,
            },
        ],
        "description": f"Ids, {settings.max_ids} at most; usually a list. Repeats are allowed.",
    }


def attributes_request(settings: Settings) -> dict[str, Any]:
    """The request body of a read, for the OpenAPI document."""
    ids = {"$ref": "#/components/schemas/Ids"}
    content = {"type": "object", "required": [FIELD], "properties": {FIELD: ids}}
    return {
        "required": True,
        "description": f"{settings.max_body_bytes} bytes at most. `Content-Encoding: gzip` is possible.",
        "content": {
            JSON: {"schema": content, "example": {FIELD: [EXAMPLE_ID]}},
            BINARY: {
                "schema": {
                    "type": "string",
                    "format": "binary",
                    "maxLength": min(8 * settings.max_ids, settings.max_body_bytes),
                    "description": "The ids as a buffer of little-endian uint64.",
                }
            },
        },
    }


def attributes_responses() -> dict[int, dict[str, Any]]:
    """The answers to a read, for the OpenAPI document."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    features = {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/Node"}}
    example = {EXAMPLE_ID: {"rep_coord_nm": [17056.0, 8464.0, 1760.0], SIZE: 367534080}}
    return {
        200: {
            "description": "Features of every id asked for, by id; one row for each in the columnar forms.",
            "content": {JSON: {"schema": features, "example": example}, ARROW: binary, PARQUET: binary},
        },
        **errors(400, 404, 408, 413, 415, 422, 429, 503),
    }


ERRORS = {
    400: "The request cannot be read.",
    404: "There is no such data set.",
    408: "The body came too slowly.",
    413: "The request asks for too much.",
    415: "The body is of a kind that is not read.",
    422: "A parameter or an id is not as documented.",
    429: "The server has enough to do: try again later.",
    503: "The store, the graph or the authentication does not answer: try again later.",
}


def errors(*statuses: int) -> dict[int, Any]:
    """Answers in the error form, for the OpenAPI document."""
    content = {JSON: {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    return {status: {"description": ERRORS[status], "content": content} for status in statuses}


def plain_response(mimetype: str, schema: dict[str, Any], description: str) -> dict[int, Any]:
    """An answer that is no model, for the OpenAPI document."""
    return {200: {"description": description, "content": {mimetype: {"schema": schema}}}}
