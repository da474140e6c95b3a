"""Models of requests for pictures, and their responses in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from l2features.core.ids import AN_ID, Ids, as_ids, parse_id
from l2features.pictures.node_layers import NODE_LAYERS

from .body import BINARY
from .neuron_schemas import EXAMPLE_ROOT, INVALID_PARAMETER, TOO_MANY_NODES, ChunkPath, RootPath
from .problems import errors
from .response_bodies import JSON
from .schemas import EXAMPLE_ID, DatasetPath, Query, plain_response

FOLDERS = {
    **dict.fromkeys(NODE_LAYERS, "annotations"),
    "skeletons": "skeletons",
    "segment_properties": "segment properties",
}
"""The folders of a data set's layers, and what each folder holds."""
HTML = "text/html"
NOT_MODIFIED = {"description": "The client has the current content, whose ETag is in `If-None-Match`."}
_ID_PATTERN = "(0|[1-9][0-9]{0,18}|1[0-7][0-9]{18})"
LIST_PATTERN = f"{_ID_PATTERN}(,{_ID_PATTERN})*"
ROOTS = "Root ids, separated by commas."


def parse_roots(text: str) -> Ids:
    """Return the ids in a comma-separated list, shape (n,). Raises ValueError for anything else."""
    return as_ids([parse_id(part) for part in text.split(",") if text])


def check_roots(text: str) -> str:
    """Return ``text`` unchanged. Raises ValueError unless it is a comma-separated list of root ids."""
    try:
        parse_roots(text)
    except ValueError as error:
        raise ValueError(
            f"{AN_ID}, or several with commas between them"
        ) from error  # pydantic adds the value
    return text


class LayerPath(DatasetPath):
    layer: str = Field(description="A layer of nodes.", json_schema_extra={"enum": list(NODE_LAYERS)})


class FolderPath(DatasetPath):
    folder: str = Field(description="The folder of a layer.", json_schema_extra={"enum": list(FOLDERS)})


class LayerNodePath(LayerPath):
    node_id: Annotated[int, BeforeValidator(parse_id)] = Field(
        ge=0, le=(1 << 64) - 1, description="An L2 id.", json_schema_extra={"example": int(EXAMPLE_ID)}
    )


class LayerRootPath(LayerPath, RootPath):
    pass


class LayerChunkPath(LayerPath, ChunkPath):
    pass


class SegmentsPath(DatasetPath):
    roots: Annotated[str, AfterValidator(check_roots)] = Field(
        description=ROOTS,
        json_schema_extra={"pattern": f"^{LIST_PATTERN}$", "format": "roots", "example": EXAMPLE_ROOT},
    )


class SegmentsQuery(Query):
    """Parameters of a list of segments."""

    roots: Annotated[str, AfterValidator(check_roots)] = Field(
        "",
        description=ROOTS,
        json_schema_extra={"pattern": f"^({LIST_PATTERN})?$", "example": EXAMPLE_ROOT},
    )


def page_responses() -> dict[int, dict[str, Any]]:
    """Return the responses to a request for a page that lists a folder, for the OpenAPI document."""
    return {
        **plain_response(HTML, {"type": "string"}, "A page with links to the entries of the folder."),
        **errors(404),
    }


def info_responses(*statuses: int) -> dict[int, dict[str, Any]]:
    """Return the responses to a request for an info file, for the OpenAPI document."""
    schema = {"type": "object", "required": ["@type"]}
    examples = {422: INVALID_PARAMETER} if 422 in statuses else {}
    return {
        **plain_response(JSON, schema, "The info file, in the format that Neuroglancer specifies."),
        304: NOT_MODIFIED,
        **errors(404, 503, *statuses, examples=examples),
    }


def picture_responses() -> dict[int, dict[str, Any]]:
    """Return the responses to a request for annotations or a skeleton, for the OpenAPI document."""
    schema = {"type": "string", "format": "binary"}
    return {
        **plain_response(
            BINARY, schema, "The annotations or the skeleton, in the format that Neuroglancer specifies."
        ),
        304: NOT_MODIFIED,
        **errors(404, 413, 422, 429, 503, examples={413: TOO_MANY_NODES, 422: INVALID_PARAMETER}),
    }
