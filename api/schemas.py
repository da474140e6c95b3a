"""What requests and answers look like: the models behind the OpenAPI document."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

from flask_openapi3 import Tag
from pydantic import BaseModel, ConfigDict, Field, model_validator

from l2features.core.schema import ATTRIBUTES, NAMES, SIZE, Attribute
from l2features.query.reader import Status
from l2features.store.notes import LastAudit
from l2features.updates.freshness import Updates

from .answers import ARROW, FORMS, JSON, PARQUET
from .body import BINARY, FIELD
from .config import Settings
from .errors import ApiError
from .problems import errors

READS, OPERATIONS = Tag(name="reads"), Tag(name="operations")
EXAMPLE_ID = "144115188075855873"
MISSPELLINGS = {
    "attributes": "attribute_names",
    "attribute": "attribute_names",
    "attribute_name": "attribute_names",
    "with-status": "with_status",
}
"""Parameters that do not exist, and those that are meant. Others are ignored: old clients may send them."""
_NAME = f"[ ]*({'|'.join(NAMES)})[ ]*"


class DatasetPath(BaseModel):
    dataset: str = Field(description="A data set, as table_mapping names it.")


class AttributesQuery(BaseModel):
    """Parameters of a read. Unknown ones are ignored, as in PCGL2Cache, except frequent misspellings."""

    model_config = ConfigDict(extra="ignore")

    attribute_names: list[Annotated[str, Field(pattern=f"^{_NAME}(,{_NAME})*$")]] | None = Field(
        None,
        description="Attributes, separated by commas or in repeated parameters. All, unless given.",
        json_schema_extra={"example": ["rep_coord_nm,size_nm3"]},
    )
    int64_as_str: str = Field("false", description="`true`, `yes` or `1`: size_nm3 is a string.")
    update_cache: str = Field(
        "true", description="`false`, `no` or `0`: missing ids are not published for computation."
    )
    with_status: str = Field(
        "false", description="`true`, `yes` or `1`: each id has its status and, where known, the reason."
    )
    wait: float = Field(0.0, ge=0, description="Seconds to wait until missing ids have been computed.")

    @model_validator(mode="before")
    @classmethod
    def check_spelling(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters as they are. Raises ApiError for a frequent misspelling."""
        for name, value in given.items():
            if name in MISSPELLINGS:
                message = f"{name!r} is not a parameter: expected {MISSPELLINGS[name]!r}"
                raise ApiError(422, "unknown_parameter", message, field=name, value=value)
        return given

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
        return tuple(sorted({name.strip(" ") for name in ",".join(self.attribute_names).split(",")}))

    @property
    def flags(self) -> tuple[bool, bool, bool]:
        """int64_as_str, update_cache and with_status."""
        return is_true(self.int64_as_str), not is_false(self.update_cache), is_true(self.with_status)


def is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "yes", "1")


def is_false(text: str) -> bool:
    return text.strip().lower() in ("false", "no", "0")


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
    timestamp: str | None = Field(
        description="Time of the graph that was ingested (UTC, ISO 8601). Null without a graph."
    )
    ingested_at: str | None = Field(
        description="When the ingest of a data set without a graph began (UTC, ISO 8601). Else null."
    )
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


NOT_READY = {
    "description": "A store cannot be reached, no data set is ready, or the server is draining.",
    "content": {
        JSON: {
            "schema": {"$ref": "#/components/schemas/Health"},
            "example": {"status": "not ready", "datasets": {"minnie65": "its table is missing"}},
        }
    },
}


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
    "description": "A node id: 64 bits, with the layer in the top 8 bits, which is not 0. Never a float.",
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
        **errors(400, 404, 406, 413, 415, 422, 429, 503, forms=FORMS),
    }


def plain_response(mimetype: str, schema: dict[str, Any], description: str) -> dict[int, Any]:
    """An answer that is no model, for the OpenAPI document."""
    return {200: {"description": description, "content": {mimetype: {"schema": schema}}}}
