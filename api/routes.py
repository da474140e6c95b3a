"""The routes of PCGL2Cache: features of nodes, and descriptions of the data sets."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response, request
from flask_openapi3 import APIBlueprint, OpenAPI

from l2features.core.schema import ATTRIBUTES, NAMES
from l2features.core.times import iso_text
from l2features.query.provenance import provenance

from .accept import accepted
from .body import FIELD, requested_ids
from .config import Settings
from .dashboards import wants_page
from .feature_reads import Read, check_wait
from .limiter import read_limiter
from .observe import this_request
from .problems import errors
from .response_bodies import FORMS, JSON, json_response
from .schemas import (
    EXAMPLE_ID,
    NODES,
    NODES_EXAMPLE,
    OPERATIONS,
    READS,
    AttributeInfo,
    AttributesQuery,
    CoverageInfo,
    DatasetPath,
    TableInfo,
    UpdatesInfo,
    ids_request,
    new_routes,
    plain_response,
    read_responses,
)
from .served_datasets import ServedDataset, ServedDatasets
from .service import AppResources

VERSION = "PCGL2Cache v1.3.1"
"""Name and version of the service whose routes these are, as its index pages report them."""


def register_contract(app: OpenAPI, service: AppResources, landing: Callable[[], Response]) -> frozenset[str]:
    """Register the routes of PCGL2Cache; return the endpoints that need no token.

    ``landing`` returns the page at ``url_prefix/``, for clients whose Accept header names HTML.
    """

    def index() -> Response:
        """Return the name and version of PCGL2Cache; browsers receive a page."""
        return landing() if wants_page() else _index()

    settings = service.settings
    api = new_routes("api", settings, READS)
    _read_route(api, service)
    _description_routes(api, settings, service.datasets)
    app.register_api(api)
    roots = _index_routes(app, settings.url_prefix, "root", slash=index)
    _index_routes(app, settings.api_prefix, "api", shown="api_slash")
    return roots


def _read_route(api: APIBlueprint, service: AppResources) -> None:
    settings, datasets, missing, waits, _ = service
    reads = read_limiter(settings.max_requests, settings, len(datasets.all()))

    @api.post(
        "/table/<dataset>/attributes",
        summary="Features of L2 nodes",
        responses=read_responses(
            "Features by requested id; one row per id in Arrow and Parquet.", NODES, NODES_EXAMPLE
        ),
        openapi_extensions={"requestBody": ids_request(FIELD, "Ids", EXAMPLE_ID, settings.max_ids, settings)},
    )
    def attributes(path: DatasetPath, query: AttributesQuery) -> Response:
        """Return the features of each id in the body. Missing ids are published for computation."""
        served = datasets[path.dataset]
        check_wait(query.wait, settings.max_wait_s)
        given = this_request()
        mimetype = accepted(given.headers.get("Accept"), FORMS)
        with reads.request(served.name):
            ids = requested_ids(given, settings)
            read = Read(served, missing, query, mimetype)
            with reads.ids(len(ids)):
                answer = read.answer(ids)
                if not (query.wait and len(answer.missing)):
                    return read.response(answer)
            with waits.request(served.name):
                answer = read.waited(answer)
            with reads.ids(len(ids)):
                return read.response(answer)


def _description_routes(api: APIBlueprint, settings: Settings, datasets: ServedDatasets) -> None:
    @api.get(
        "/table/<dataset>",
        summary="Description of a data set",
        responses={200: TableInfo, **errors(404, 406, 503)},
    )
    def table(path: DatasetPath) -> Response:
        """Return a data set's resolution, chunks, attributes, units, ingest progress, updates and limits."""
        _check_accepts_json()
        return json_response(table_info(datasets[path.dataset], settings).model_dump(mode="json"))

    types = {"type": "object", "required": list(NAMES), "additionalProperties": {"type": "string"}}

    @api.get(
        "/attribute_metadata",
        summary="Types of the attributes",
        responses={**plain_response(JSON, types, "Types by attribute."), **errors(406)},
    )
    def attribute_metadata() -> Response:
        """Return the stored numpy type of each attribute."""
        _check_accepts_json()
        return json_response({a.name: f"{a.dtype.type}" for a in sorted(ATTRIBUTES, key=lambda a: a.name)})

    entries = {"type": "object", "additionalProperties": {"type": "object"}}

    @api.get(
        "/table_mapping",
        summary="The data sets",
        responses={**plain_response(JSON, entries, "Entries by data set."), **errors(406)},
    )
    def table_mapping() -> Response:
        """Return the data sets file as JSON."""
        _check_accepts_json()
        return json_response(datasets.mapping)


def _check_accepts_json() -> None:
    accepted(request.headers.get("Accept"), (JSON,))


def _index_routes(
    app: OpenAPI,
    prefix: str,
    name: str,
    shown: str | None = None,
    slash: Callable[[], Response] | None = None,
) -> frozenset[str]:
    """Register the index pages ``prefix/`` and ``prefix/index``; return their endpoints.

    Of these endpoints, the OpenAPI document shows only ``shown``, by default none. The function ``slash``
    answers requests for ``prefix/``; by default, both pages are the same.
    """
    for place in ("", "index"):
        endpoint = f"{name}_{place or 'slash'}"
        app.get(
            f"{prefix}/{place}",
            endpoint=endpoint,
            tags=[OPERATIONS],
            summary="Name and version of PCGL2Cache",
            operation_id=endpoint,
            responses=plain_response("text/html", {"const": VERSION}, "As PCGL2Cache reports it."),
            doc_ui=endpoint == shown,
        )((not place and slash) or _index)
    return frozenset({f"{name}_slash", f"{name}_index"})


def table_info(served: ServedDataset, settings: Settings) -> TableInfo:
    """Return the description and state of a data set.

    Raises StoreError if the table cannot be read, and ApiError 503 if the metadata cannot be read in time.
    """
    opened, counted, noted = served.opened(), served.counted.get(), served.noted.get()
    geometry, meta = opened.reader.geometry, opened.meta
    with_graph, time = served.entry.has_graph, iso_text(meta.time) if meta else None
    coverage, newest, updates = None, None, None
    if counted is not None:
        done, failed = counted.coverage.done, counted.coverage.failed
        coverage = CoverageInfo(
            done=done, failed=failed, total=geometry.n_chunks, as_of=iso_text(counted.time)
        )
        newest = counted.coverage.newest
    if noted is not None and noted.updates:
        updates = UpdatesInfo(**dict(noted.updates), as_of=iso_text(noted.time))
    return TableInfo(
        dataset=served.name,
        l2cache_id=served.entry.l2cache_id,
        graph_id=meta.graph_id if meta else None,
        timestamp=time if with_graph else None,
        ingested_at=None if with_graph else time,
        newest_update=iso_text(newest) if newest else None,
        resolution=list(geometry.resolution),
        voxel_offset=list(geometry.voxel_offset),
        voxel_size=list(geometry.voxel_size),
        chunk_size=list(geometry.chunk_size),
        grid=list(geometry.grid),
        attributes=[
            AttributeInfo(
                name=a.name, unit=a.served_unit, shape=list(a.shape), optional=a.optional, meaning=a.meaning
            )
            for a in ATTRIBUTES
        ],
        coverage=coverage,
        updates=updates,
        audit=noted.audit if noted else None,
        limits=settings.limits,
        provenance=provenance(served.entry, meta),
    )


def _index() -> Response:
    """Return the name and version of PCGL2Cache, because its clients expect them."""
    return Response(VERSION, mimetype="text/html")
