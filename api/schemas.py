"""What requests and answers look like: the models behind the OpenAPI document."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from l2features.reader import Status
from l2features.schema import ATTRIBUTES, NAMES, SIZE, Attribute

from .answers import ARROW, JSON, PARQUET
from .body import BINARY, FIELD
from .config import Settings
from .errors import ApiError, ErrorBody

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
    limits: dict[str, int | float] = Field(description="What one request may ask for.")


class Health(BaseModel):
    status: str
    datasets: dict[str, str] = Field(default_factory=dict, description="Data set: `ready`, or what it lacks.")


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
    whole = attribute.dtype.kind == "u" and attribute.unit == attribute.served_unit
    schema: dict[str, Any] = {"type": "integer" if whole else "number"}
    if attribute.name == SIZE:
        schema = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[0-9]+$"}]}
    for length in reversed(attribute.shape):
        schema = {"type": "array", "items": schema, "minItems": length, "maxItems": length}
    return {**schema, "description": f"{attribute.meaning} ({attribute.served_unit})"}


def attributes_request(settings: Settings) -> dict[str, Any]:
    """The request body of a read, for the OpenAPI document."""
    integer = {"type": "integer", "minimum": 1 << 56, "maximum": (1 << 64) - 1}
    ids = {"type": "array", "items": integer, "maxItems": settings.max_ids}
    content = {"type": "object", "required": [FIELD], "properties": {FIELD: ids}}
    return {
        "required": True,
        "content": {
            JSON: {"schema": content, "example": {FIELD: [int(EXAMPLE_ID)]}},
            BINARY: {
                "schema": {
                    "type": "string",
                    "format": "binary",
                    "description": "The ids as a buffer of little-endian uint64.",
                }
            },
        },
    }


def attributes_responses() -> dict[int, dict[str, Any]]:
    """The answers to a read, for the OpenAPI document."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    features = {"type": "object", "additionalProperties": node_schema()}
    example = {EXAMPLE_ID: {"rep_coord_nm": [17056.0, 8464.0, 1760.0], SIZE: 367534080}}
    return {
        200: {
            "description": "Features of every id asked for, by id.",
            "content": {JSON: {"schema": features, "example": example}, ARROW: binary, PARQUET: binary},
        },
        **errors(400, 408, 413, 415, 429),
    }


def errors(*statuses: int) -> dict[int, Any]:
    """Answers in the error form, for the OpenAPI document."""
    return dict.fromkeys((*statuses, 401, 403, 404, 422, 503), ErrorBody)
