"""The routes of chunks and bounds: the nodes in a part of the volume."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response, g, request
from flask_openapi3 import OpenAPI

from l2features.core.geometry import Chunk, Geometry
from l2features.query.box_lookup import FoundNodes, RegionReader, VoxelBox

from .accept import accepted
from .config import Settings
from .error_responses import ApiError
from .feature_reads import features_response
from .long_reads import LongRead, LongReads
from .neuron_schemas import REGION_RESPONSES, BoundsQuery, ChunkPath, RegionQuery
from .response_bodies import FORMS
from .schemas import READS, DatasetPath, is_true, new_routes
from .served_datasets import ServedDataset, ServedDatasets


class RegionReads:
    """Reads the nodes in a chunk or in bounds. Has separate limits: slow reads delay only such reads."""

    def __init__(self, settings: Settings, data_sets: int) -> None:
        self.most = settings.max_ids
        self.long = LongReads(settings, data_sets)

    def answer(
        self,
        served: ServedDataset,
        query: RegionQuery,
        field: str,
        find: Callable[[RegionReader, LongRead], FoundNodes],
    ) -> Response:
        """Return the response with the nodes that ``find`` returns.

        ``field`` is the name of the request's parameter that gives the region; errors name it. Raises
        ApiError 404 if a chunk is not computed and ``query.partial`` is false, 413 for too many nodes, 429 at
        a concurrency limit, and 503 at the deadline.
        """
        mimetype = accepted(request.headers.get("Accept"), FORMS)
        reader = RegionReader(served.store, served.entry, served.opened().reader.geometry, self.most)
        with self.long.request(served.name) as read:
            found = read.run(lambda: find(reader, read))
            if found.count > self.most:
                raise _too_many("nodes", field, found.count, self.most)
            if found.problems and not is_true(query.partial):
                message = f"{found.problem}: partial=true returns the nodes that exist"
                raise ApiError(404, "chunk_not_computed", message, field="partial")
            g.ids = found.count
            with self.long.limiter.ids(found.count):
                return features_response(served, found.answer, query, mimetype)


def register_regions(app: OpenAPI, settings: Settings, datasets: ServedDatasets) -> None:
    """Register the routes of chunks and bounds."""
    api = new_routes("regions", settings, READS)
    reads = RegionReads(settings, len(datasets.all()))

    @api.get(
        "/table/<dataset>/chunk/<chunk>/nodes",
        summary="Features of a chunk's nodes",
        responses=REGION_RESPONSES,
    )
    def chunk_nodes(path: ChunkPath, query: RegionQuery) -> Response:
        """Return the features of all computed nodes of a chunk, including superseded nodes."""
        served = datasets[path.dataset]
        chunk = Chunk(*map(int, path.chunk.split("_")))
        check_in_grid(served.opened().reader.geometry, chunk)
        return reads.answer(served, query, "chunk", lambda reader, _: reader.chunk(chunk, query.names))

    @api.get("/table/<dataset>/nodes", summary="Features of the nodes in bounds", responses=REGION_RESPONSES)
    def nodes(path: DatasetPath, query: BoundsQuery) -> Response:
        """Return the features of the nodes whose representative coordinate lies in the bounds."""
        served = datasets[path.dataset]
        box = VoxelBox.parse(query.bounds)
        overlapped = len(box.chunks(served.opened().reader.geometry))
        if overlapped > settings.max_chunks:
            raise _too_many("chunks", "bounds", overlapped, settings.max_chunks)
        return reads.answer(
            served, query, "bounds", lambda reader, read: reader.box(box, query.names, read.until)
        )

    app.register_api(api)


def check_in_grid(geometry: Geometry, chunk: Chunk) -> None:
    """Raise ApiError 404 for a chunk outside the grid."""
    if not geometry.in_grid([chunk])[0]:
        message = f"chunk {chunk} does not exist: expected coordinates below {Chunk(*geometry.grid)}"
        raise ApiError(404, "unknown_chunk", message, field="chunk", value="_".join(map(str, chunk)))


def _too_many(what: str, field: str, count: int, limit: int) -> ApiError:
    message = f"{count} {what} in one request: expected at most {limit}"
    return ApiError(413, f"too_many_{what}", message, field=field, value=count, limit=limit)
