"""Models of requests for roots, chunks and bounds, and of their responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from l2features.core.ids import parse_id
from l2features.neurons.neuron_summary import SUMMARY
from l2features.neurons.root_answers import REASON, RETIRED, STATUS_NAMES, SUCCESSORS
from l2features.query.box_lookup import EXPECTED, VoxelBox

from .error_responses import ApiError
from .problems import example_error
from .response_bodies import ARROW, FORMS, JSON
from .schemas import (
    EXAMPLE_ID,
    NODES,
    NODES_EXAMPLE,
    DatasetPath,
    FeaturesQuery,
    MissingQuery,
    Query,
    is_true,
    number_schema,
    read_responses,
)

EXAMPLE_ROOT = "864691136040432126"
TOO_MANY_NODES = example_error(
    "too_many_nodes",
    f"root {EXAMPLE_ROOT}: 300000 L2 nodes or more, expected 250000 at most",
    field="root_id",
    value="300000",
    limit=250_000,
)
TOO_MANY_CHUNKS = example_error(
    "too_many_chunks", "80 chunks in one request: expected at most 64", field="bounds", value="80", limit=64
)
INVALID_PARAMETER = example_error(
    "invalid_parameter", "wait='soon': Input should be a valid number", field="wait", value="soon"
)
SWC, BYTES = "text/plain", "application/octet-stream"
SKELETON_FORMS = {"swc": SWC, "json": JSON, "arrow": ARROW, "precomputed": BYTES}
"""Media types of skeletons by format."""


def _bounds(text: str) -> str:
    try:
        VoxelBox.parse(text)
    except ValueError as error:
        raise ValueError(f"expected {EXPECTED}") from error  # pydantic's error has the value
    return text


def _point(text: str) -> str:
    values = [float(part) for part in text.split(",")]
    if len(values) != 3 or not all(abs(value) < 1e12 for value in values):
        raise ValueError("expected x,y,z in nm, each below 1e12, such as 17056,8464,1760")
    return text


class RootPath(DatasetPath):
    root_id: Annotated[int, BeforeValidator(parse_id)] = Field(
        ge=0, le=(1 << 64) - 1, description="A root id; for a data set without a graph, a segment id."
    )


class ChunkPath(DatasetPath):
    chunk: str = Field(
        pattern="^[0-9]{1,9}_[0-9]{1,9}_[0-9]{1,9}$",
        description="A chunk's coordinates in the grid, x_y_z.",
        json_schema_extra={"format": "chunk", "example": "1_0_0"},
    )


class RegionQuery(FeaturesQuery):
    """Parameters of a request for the nodes in a chunk or in bounds."""

    partial: str = Field(
        "false",
        description="`true`, `yes` or `1`: if chunks failed or are not ingested, return the nodes that exist "
        "instead of 404.",
    )


class BoundsQuery(RegionQuery):
    """Parameters of a read of bounds."""

    bounds: Annotated[str, AfterValidator(_bounds)] = Field(
        description="x0-x1_y0-y1_z0-z1 in voxels at the data set's resolution; x1, y1 and z1 are excluded.",
        json_schema_extra={"format": "voxel-bounds", "example": "1024-1536_512-1024_20-84"},
    )


class RootQuery(MissingQuery):
    """Parameters of a read of roots."""

    int64_as_str: str = Field(
        "false", description="`true`, `yes` or `1`: ids and 64-bit integers are strings."
    )


class SummaryQuery(RootQuery):
    """Parameters of a request for the summaries of roots."""

    graph: str = Field("false", description="`true`, `yes` or `1`: add the measures of the L2 graph.")
    version: str | None = Field(
        None,
        pattern="^(latest|[0-9]{1,6})$",
        description="Read from this version, or `latest`, instead of the current graph and table.",
        json_schema_extra={"format": "version", "example": "latest"},
    )

    @model_validator(mode="after")
    def check_graph(self) -> Self:
        """Return the parameters unchanged. Raises ApiError 422 for a version together with ``graph=true``."""
        if self.version is not None and is_true(self.graph):
            message = (
                f"graph=true with version={self.version}: versions have no measures of the L2 graph, "
                "leave out one of these parameters"
            )
            raise ApiError(422, "invalid_parameter", message, field="graph")
        return self


class GraphQuery(Query):
    """Parameters of a read of a root's L2 graph."""

    int64_as_str: str = Field("false", description="`true`, `yes` or `1`: ids are strings.")


class SkeletonQuery(RootQuery):
    """Parameters of a read of a root's skeleton."""

    format: Literal["swc", "json", "arrow", "precomputed"] = Field(
        "json", description="Format of the skeleton."
    )
    invalidation_nm: float = Field(
        7500.0,
        gt=0,
        le=1e9,
        description="A path of the skeleton represents all nodes within this distance, in nm.",
    )
    root_point: Annotated[str, AfterValidator(_point)] | None = Field(
        None,
        description="x,y,z in nm; the vertex nearest to this point becomes the root.",
        json_schema_extra={"format": "point", "example": "17056,8464,1760"},
    )
    collapse_nm: float | None = Field(
        None,
        ge=0,
        le=1e9,
        description="Radius in nm of a sphere around `root_point`. An edge is near if it has an end in the "
        "sphere. The node nearest to `root_point`, and all nodes that paths of near edges connect to it, "
        "become one vertex.",
    )
    join: str = Field("false", description="`true`, `yes` or `1`: join components at their nearest vertices.")

    @model_validator(mode="after")
    def check_point(self) -> Self:
        """Return the parameters unchanged. Raises ApiError 422 for ``collapse_nm`` without ``root_point``."""
        if self.collapse_nm is not None and self.root_point is None:
            message = f"collapse_nm={self.collapse_nm:g} without root_point: expected both"
            raise ApiError(422, "missing_parameter", message, field="root_point")
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """The keyword arguments of `skeletonize`."""
        point = None if self.root_point is None else [float(part) for part in self.root_point.split(",")]
        return {
            "invalidation_nm": self.invalidation_nm,
            "root_point": point,
            "collapse_nm": self.collapse_nm,
            "join": is_true(self.join),
        }


# ------------------------------------------------------------------ the document
def summary_schema() -> dict[str, Any]:
    """Return the JSON schema of the summary of one root."""
    properties: dict[str, Any] = {
        "status": {"type": "string", "enum": STATUS_NAMES},
        "reason": {"type": "string", "description": REASON},
        "retired_at": {
            "anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}],
            "description": RETIRED,
        },
        "successors": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/AnyId"},
            "description": SUCCESSORS,
        },
    }
    for m in SUMMARY:
        about = f"{m.meaning} ({m.unit})"
        properties[m.name] = number_schema(m.dtype, m.shape, about, nullable=m.dtype.kind == "f")
    return {
        "type": "object",
        "required": ["status"],
        "properties": properties,
        "additionalProperties": False,
        "description": "`ready` and `incomplete` roots have measures; a `too_large` root has only `n_nodes`.",
    }


def graph_schema() -> dict[str, Any]:
    """Return the JSON schema of a root's L2 graph."""
    node = {"$ref": "#/components/schemas/AnyId"}
    edge = {"type": "array", "items": node, "minItems": 2, "maxItems": 2}
    return {
        "type": "object",
        "required": ["root_id", "node_ids", "edges"],
        "properties": {
            "root_id": node,
            "node_ids": {"type": "array", "items": node, "description": "L2 ids, sorted."},
            "edges": {"type": "array", "items": edge, "description": "Pairs of L2 ids."},
        },
        "additionalProperties": False,
    }


ANY_ID: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": (1 << 64) - 1},
        {"type": "string", "pattern": "^[0-9]{1,20}$"},
    ],
    "description": "An id; a string if the request has `int64_as_str=true`.",
}


ROOT_ID: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": -(1 << 63), "maximum": (1 << 64) - 1},
        {"type": "string", "pattern": "^ *(0|[1-9][0-9]{0,18}|1[0-7][0-9]{18}) *$"},
    ],
    "description": "A 64-bit id, never a float. A negative integer is the uint64 with the same bits.",
}


# ------------------------------------------------------------------ responses
def _of_path(
    what: str,
    schema: dict[str, Any],
    example: Any,
    forms: Sequence[str] = FORMS,
    too_many: dict[str, Any] = TOO_MANY_NODES,
) -> dict[int, dict[str, Any]]:
    """Return the responses of a route whose requests have no body, for the OpenAPI document.

    ``what``, ``schema`` and ``example`` describe status 200; ``too_many`` is the example body of status 413.
    """
    examples = {413: too_many, 422: INVALID_PARAMETER}
    return read_responses(what, schema, example, forms, (404, 406, 413, 422, 429, 503), examples)


SUMMARY_RESPONSES = read_responses(
    "Summary by root; one row per root in Arrow and Parquet.",
    {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/RootSummary"}},
    {EXAMPLE_ROOT: {"status": "unknown"}},
)
ROOT_NODES_RESPONSES = _of_path("Features by L2 id.", NODES, NODES_EXAMPLE)
REGION_RESPONSES = _of_path(
    "Features by L2 id, in numeric order.", NODES, NODES_EXAMPLE, too_many=TOO_MANY_CHUNKS
)
GRAPH_RESPONSES = _of_path(
    "L2 nodes and edges of the root; one row in Arrow.",
    {"$ref": "#/components/schemas/RootGraph"},
    {"root_id": int(EXAMPLE_ROOT), "node_ids": [int(EXAMPLE_ID)], "edges": []},
    (JSON, ARROW),
)


def skeleton_responses() -> dict[int, dict[str, Any]]:
    """Return the responses to a request for a skeleton, for the OpenAPI document."""
    responses = _of_path("The skeleton.", {"type": "object"}, {}, (JSON, ARROW))
    del responses[406]
    content = responses[200]["content"]
    del content[JSON]["example"]
    content[SWC] = {"schema": {"type": "string"}}
    content[BYTES] = {"schema": {"type": "string", "format": "binary"}}
    return responses
