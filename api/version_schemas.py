"""Models of requests for versions, and of their responses."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from l2features.core.schema import BY_NAME
from l2features.neurons.neuron_summary import SUMMARIES
from l2features.versions.catalog import VersionSummary
from l2features.versions.columns import L2_ID, NODE_COLUMNS, ROOT_COLUMNS, ROOT_ID
from l2features.versions.manifest import Layer, Manifest, VersionFile

from .body import ROOT_FIELD
from .config import Settings
from .neuron_schemas import EXAMPLE_ROOT
from .problems import errors, example_error
from .response_bodies import JSON
from .schemas import EXAMPLE_ID, DatasetPath, Query, read_responses

LATEST = "latest"
VERSION_PATTERN = f"^({LATEST}|[0-9]{{1,6}})$"
UNKNOWN_VERSION = example_error(
    "unknown_version",
    "version 9 of data set 'minnie65' does not exist: expected one of 6, 7",
    field="version",
    value="9",
)
TOO_MANY_ROW_GROUPS = example_error(
    "too_many_row_groups",
    "600 row groups in one lookup: expected at most 512, ask for fewer ids",
    field=ROOT_FIELD,
    value="600",
    limit=512,
)
UNKNOWN_COLUMN = example_error(
    "unknown_column", f"'sise' is not a column: expected one or more of {ROOT_ID}, …", field="columns"
)
DAMAGED = example_error(
    "version_damaged", "version 7 cannot be read: 000007/by_root/part-00000.parquet is missing"
)
PARTS = {
    "nodes": "One row per node: all nodes of `root_ids`, or those with `node_ids`.",
    "roots": "One row per root of `root_ids`, with its measures.",
}
"""The values of a query's ``part``, and what each returns."""


class VersionPath(DatasetPath):
    version: str = Field(
        pattern=VERSION_PATTERN,
        description=f"The number of a version, or `{LATEST}`.",
        json_schema_extra={"format": "version", "example": LATEST},
    )


class VersionQuery(Query):
    """Parameters of a query of a version."""

    int64_as_str: str = Field(
        "false", description="`true`, `yes` or `1`: ids and other 64-bit integers are strings."
    )


class VersionList(BaseModel):
    """The versions of a data set, oldest first."""

    dataset: str
    versions: list[VersionSummary]


class FileInfo(VersionFile):
    """One Parquet file of a version."""

    url: str | None = Field(
        None, description="URL of the file, if the operator publishes it; supports range requests."
    )


class LayerInfo(Layer):
    """The files that were written for one version. Newer versions can use these files, too."""

    files: tuple[FileInfo, ...]


class ManifestInfo(Manifest):
    """The content of a version, and its files."""

    layers: tuple[LayerInfo, ...]


# ------------------------------------------------------------------ the document
def row_schema() -> dict[str, Any]:
    """Return the JSON schema of one row of a version."""
    integer = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^-?[0-9]+$"}]}
    return {
        "type": "object",
        "properties": dict.fromkeys((ROOT_ID, L2_ID), integer),
        "additionalProperties": {
            "anyOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}, {"type": "null"}]
        },
        "description": "One value per column; vectors have a column per component, such as `rep_coord_nm_x`.",
    }


def query_request(settings: Settings) -> dict[str, Any]:
    """Return the request body of a query, for the OpenAPI document."""
    limit = {
        "type": "integer",
        "minimum": 1,
        "maximum": settings.max_ids,
        "description": "Maximum number of rows; further rows are left out.",
    }
    names = {
        "nodes": sorted({*NODE_COLUMNS, *BY_NAME}),
        "roots": sorted({*ROOT_COLUMNS, *(SUMMARIES.names or ())}),
    }
    of_roots = {"root_ids": {"$ref": "#/components/schemas/RootIds"}}
    of_nodes = {"node_ids": {"$ref": "#/components/schemas/Ids"}}
    kinds = [("nodes", of_roots), ("nodes", of_nodes), ("roots", of_roots)]
    schema = {"oneOf": [_query_schema(part, ids, names[part], limit) for part, ids in kinds]}
    example = {ROOT_FIELD: [EXAMPLE_ROOT], "columns": ["size_nm3", "rep_coord_nm"]}
    return {
        "required": True,
        "description": f"At most {settings.max_body_bytes} bytes, optionally with `Content-Encoding: gzip`.",
        "content": {JSON: {"schema": schema, "example": example}},
    }


def _query_schema(part: str, ids: dict[str, Any], names: list[str], limit: dict[str, Any]) -> dict[str, Any]:
    column = {"type": "string", "enum": names}
    properties: dict[str, Any] = {
        **ids,
        "part": {"const": part, "description": PARTS[part]},
        "columns": {
            "type": "array",
            "items": column,
            "maxItems": 200,
            "description": "Names of columns, or of attributes for all their columns. Default: all columns. "
            "Ids are always returned.",
        },
        "limit": limit,
    }
    required = [*ids, *(["part"] if part == "roots" else [])]
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def query_responses() -> dict[int, dict[str, Any]]:
    """Return the responses to a query, for the OpenAPI document."""
    rows = {"type": "array", "items": {"$ref": "#/components/schemas/VersionRow"}}
    schema = {
        "type": "object",
        "required": ["version", "rows"],
        "properties": {"version": {"type": "integer", "minimum": 1}, "rows": rows},
        "additionalProperties": False,
    }
    row = {ROOT_ID: int(EXAMPLE_ROOT), L2_ID: int(EXAMPLE_ID), "size_nm3": 367534080}
    examples = {404: UNKNOWN_VERSION, 413: TOO_MANY_ROW_GROUPS, 422: UNKNOWN_COLUMN, 503: DAMAGED}
    what = (
        "Rows, sorted by root, then node; rows of `node_ids` by node. Ids that are not in the version have "
        "no row."
    )
    return read_responses(what, schema, {"version": 7, "rows": [row]}, examples=examples)


LIST_RESPONSES: dict[int, Any] = {200: VersionList, **errors(404, 406, 429, 503)}
MANIFEST_RESPONSES: dict[int, Any] = {
    200: ManifestInfo,
    **errors(404, 406, 422, 429, 503, examples={404: UNKNOWN_VERSION, 503: DAMAGED}),
}
