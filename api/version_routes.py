"""The routes of versions: the list, manifests and queries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pyarrow as pa
from flask import Response, request
from flask_openapi3 import OpenAPI

from l2features.query.answers import arrow_stream, parquet, with_metadata
from l2features.versions.lookup import FoundRows, VersionReader
from l2features.versions.manifest import Manifest

from .accept import accepted
from .body import ROOT_FIELD
from .response_bodies import ARROW, FORMS, JSON, body_response, json_response
from .schemas import VERSIONS, DatasetPath, is_true, new_routes
from .served_datasets import ServedDataset
from .service import AppResources
from .version_body import ROOTS, WantedRows, wanted_rows
from .version_schemas import (
    LIST_RESPONSES,
    MANIFEST_RESPONSES,
    FileInfo,
    LayerInfo,
    ManifestInfo,
    VersionList,
    VersionPath,
    VersionQuery,
    query_request,
    query_responses,
)

ROWS_PER_PART = 5_000


def register_versions(app: OpenAPI, service: AppResources) -> None:
    """Register the routes of versions."""
    settings, datasets, reads = service.settings, service.datasets, service.versions
    api = new_routes("versions", settings, VERSIONS)

    @api.get("/table/<dataset>/versions", summary="The versions of a data set", responses=LIST_RESPONSES)
    def versions(path: DatasetPath) -> Response:
        """Return the number, time, size, and counts of nodes and roots of each version, oldest first."""
        served = datasets[path.dataset]
        accepted(request.headers.get("Accept"), (JSON,))
        found = VersionList(dataset=served.name, versions=reads.summaries(served))
        return json_response(found.model_dump(mode="json"))

    @api.get(
        "/table/<dataset>/versions/<version>",
        summary="The manifest of a version",
        responses=MANIFEST_RESPONSES,
    )
    def version(path: VersionPath) -> Response:
        """Return the manifest: time, source, counts and files. Public files have a URL."""
        served = datasets[path.dataset]
        accepted(request.headers.get("Accept"), (JSON,))
        with reads.of_version(served, path.version, lambda reader, _: (reader.manifest, 0)) as manifest:
            info = manifest_info(manifest, settings.public_folder(served.name))
            return json_response(info.model_dump(mode="json"))

    @api.post(
        "/table/<dataset>/versions/<version>/query",
        summary="Rows of a version",
        responses=query_responses(),
        openapi_extensions={"requestBody": query_request(settings)},
    )
    def version_query(path: VersionPath, query: VersionQuery) -> Response:
        """Return the nodes of roots, nodes by their ids, or summaries of roots, from a version."""
        served, mimetype = datasets[path.dataset], accepted(request.headers.get("Accept"), FORMS)
        wanted = wanted_rows(request, settings)

        def read(reader: VersionReader, until: float) -> tuple[tuple[FoundRows, Manifest], int]:
            found = rows_of(reader, wanted, until)
            return (found, reader.manifest), found.row_groups

        with (
            reads.of_version(served, path.version, read, wanted.field) as (found, manifest),
            reads.holding(found) as table,
        ):
            return rows_response(served, table, manifest, query, mimetype)

    app.register_api(api)


def rows_of(reader: VersionReader, wanted: WantedRows, until: float) -> FoundRows:
    """Return the rows of a version that a query requests. Raises VersionTimeout after ``until``."""
    if wanted.field != ROOT_FIELD:
        return reader.nodes(wanted.ids, wanted.columns, wanted.limit, until)
    if wanted.part == ROOTS:
        return reader.roots(wanted.ids, wanted.columns, wanted.limit, until)
    return reader.nodes_of(wanted.ids, wanted.columns, wanted.limit, until)


def rows_response(
    served: ServedDataset, table: Any, manifest: Manifest, query: VersionQuery, mimetype: str
) -> Response:
    """Return a response with the rows as JSON, Arrow or Parquet, and with the number of the version."""
    if mimetype == JSON:
        return body_response(_json_parts(table, manifest.number, is_true(query.int64_as_str)), JSON)
    about = {
        "dataset": served.name,
        "version": str(manifest.number),
        "timestamp": manifest.timestamp.isoformat(),
        "software": manifest.software,
    }
    table = table.replace_schema_metadata(with_metadata(table.schema, about).metadata)
    return body_response([arrow_stream(table) if mimetype == ARROW else parquet(table)], mimetype)


def _json_parts(table: Any, version: int, as_str: bool) -> Iterator[bytes]:
    """Yield ``{"version": …, "rows": […]}`` in parts."""
    yield b'{"version":%d,"rows":[' % version
    for first in range(0, len(table), ROWS_PER_PART):
        part = table.slice(first, ROWS_PER_PART)
        if as_str:
            texts = [pa.string() if pa.types.is_integer(kind) else kind for kind in part.schema.types]
            part = part.cast(pa.schema(list(zip(part.column_names, texts, strict=True))))
        yield (b"," if first else b"") + orjson.dumps(part.to_pylist())[1:-1]
    yield b"]}\n"


def manifest_info(manifest: Manifest, folder: str | None) -> ManifestInfo:
    """Return a manifest whose files have URLs below the URL ``folder``, or no URLs if that is None."""
    layers = [
        LayerInfo(
            version=layer.version,
            files=tuple(
                FileInfo(**dict(file), url=None if folder is None else f"{folder}/{file.path}")
                for file in layer.files
            ),
        )
        for layer in manifest.layers
    ]
    return ManifestInfo(**{**dict(manifest), "layers": tuple(layers)})
