"""The routes of pictures: annotations, skeletons and lists of roots in Neuroglancer's precomputed format."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from flask import Response
from flask_openapi3 import APIBlueprint, OpenAPI

from l2features.core.geometry import Chunk
from l2features.core.ids import Ids, as_ids, sorted_unique
from l2features.neurons.neuron_reader import NeuronReader
from l2features.pictures.annotations import OVERVIEW, annotation_list
from l2features.pictures.node_layers import NODE_LAYERS, ROOT, NodeLayer
from l2features.pictures.picture_reader import Picture, PictureReader
from l2features.pictures.segment_list import segment_list
from l2features.pictures.skeleton_layer import skeleton_info

from .body import BINARY
from .config import Settings
from .error_responses import ApiError
from .largest_lists import LargestLists, add_list_route
from .neuron_schemas import RootPath
from .picture_answers import A_DAY, A_MINUTE, NOT_KEPT, info_response, listing, picture_response
from .picture_schemas import (
    FOLDERS,
    FolderPath,
    LayerChunkPath,
    LayerNodePath,
    LayerPath,
    LayerRootPath,
    SegmentsPath,
    SegmentsQuery,
    info_responses,
    page_responses,
    parse_roots,
    picture_responses,
)
from .region_routes import check_in_grid
from .root_reads import RootAnswer, RootReads
from .schemas import PICTURES, DatasetPath, MissingQuery, new_routes
from .served_datasets import ServedDataset, ServedDatasets
from .service import AppResources
from .view_routes import add_view_routes

PLACE = "/table/<dataset>/precomputed"
CONTENTS = {
    **dict.fromkeys(NODE_LAYERS, "and the annotations by_id/NODE, rel_root/ROOT and chunks/X_Y_Z"),
    "skeletons": "and the skeleton of each root, ROOT",
    "segment_properties": "and lists of roots: ROOT,ROOT/info, or version-N/info for its largest roots",
}
QUEUED = 3
"""Maximum number of waiting requests per running request: cloud-volume reads 20 cells at a time."""
Read = Callable[[PictureReader, Ids], Picture]


def register_pictures(app: OpenAPI, service: AppResources) -> None:
    """Register the routes of pictures."""
    settings, datasets = service.settings, service.datasets
    api, reads = new_routes("pictures", settings, PICTURES), RootReads(service, queued(settings))
    _listing_routes(api, datasets)
    _node_routes(api, datasets, reads)
    _neuron_routes(api, settings, datasets, reads)
    lists = LargestLists()
    add_list_route(api, PLACE, service, lists)
    add_view_routes(api, service, reads, lists)
    app.register_api(api)


def queued(settings: Settings) -> int:
    """Return how many requests may wait per running one: `QUEUED`, or fewer to keep half the threads free."""
    return max(0, min(QUEUED, settings.threads // (2 * settings.max_root_requests) - 1))


def _listing_routes(api: APIBlueprint, datasets: ServedDatasets) -> None:
    @api.get(f"{PLACE}/", summary="Layers", responses=page_responses())
    def layers(path: DatasetPath) -> Response:
        """Return links to the layers of a data set."""
        name = datasets[path.dataset].name
        return listing(f"{name}: layers", {f"{folder}/": what for folder, what in FOLDERS.items()})

    @api.get(f"{PLACE}/<folder>/", summary="Files of a layer", responses=page_responses())
    def layer(path: FolderPath) -> Response:
        """Return a link to the info file of a layer."""
        name = datasets[path.dataset].name
        if path.folder not in FOLDERS:
            raise _unknown_layer(path.folder, "folder")
        return listing(f"{name}: {path.folder}", {"info": CONTENTS[path.folder]})


def _node_routes(api: APIBlueprint, datasets: ServedDatasets, reads: RootReads) -> None:
    place = f"{PLACE}/<layer>"

    @api.get(f"{place}/info", summary="Description of a layer of nodes", responses=info_responses())
    def layer_info(path: LayerPath) -> Response:
        """Return the properties and bounds of a layer, and its spatial index with a cell per chunk."""
        served, layer = datasets[path.dataset], _layer(path)
        geometry = served.opened().reader.geometry
        return info_response(layer.annotations.info(geometry, [ROOT], served.largest.get() or 1))

    @api.get(f"{place}/by_id/<node_id>", summary="A node as an annotation", responses=picture_responses())
    def layer_node(path: LayerNodePath) -> Response:
        """Return a node and its current root; 404 if the layer has nothing to draw for the node."""
        served, layer = datasets[path.dataset], _layer(path)

        def read(pictures: PictureReader, _: Ids) -> Picture:
            if picture := pictures.node(layer, path.node_id):
                return picture
            message = f"node {path.node_id} has no features, or nothing to draw in layer {path.layer!r}"
            raise ApiError(404, "nothing_to_draw", message, field="node_id", value=path.node_id)

        return _answer(reads, served, read, changes=A_MINUTE)

    @api.get(
        f"{place}/rel_root/<root_id>",
        summary="The nodes of a root as annotations",
        responses=picture_responses(),
    )
    def layer_root(path: LayerRootPath) -> Response:
        """Return the nodes of a root that have features. Missing nodes are published for computation."""
        served, layer, root = datasets[path.dataset], _layer(path), path.root_id
        return _answer(reads, served, lambda p, ids: p.nodes_of_root(layer, root, ids), root)

    @api.get(
        f"{place}/chunks/<chunk>",
        summary="The nodes of a chunk as annotations",
        responses=picture_responses(),
    )
    def layer_chunk(path: LayerChunkPath) -> Response:
        """Return the nodes of a chunk that have features, without superseded nodes."""
        served, layer = datasets[path.dataset], _layer(path)
        chunk = Chunk(*map(int, path.chunk.split("_")))
        check_in_grid(served.opened().reader.geometry, chunk)
        return _answer(reads, served, lambda p, _: p.nodes_of_chunk(layer, chunk), changes=A_MINUTE)

    @api.get(f"{place}/{OVERVIEW}/0_0_0", summary="Empty overview of a layer", responses=picture_responses())
    def layer_overview(path: LayerPath) -> Response:
        """Return an empty list of annotations. The viewer reads it while too many chunks are in view."""
        _ = datasets[path.dataset], _layer(path)
        return picture_response(annotation_list(np.empty(0), as_ids([])), A_DAY, BINARY)


def _neuron_routes(api: APIBlueprint, settings: Settings, datasets: ServedDatasets, reads: RootReads) -> None:
    @api.get(f"{PLACE}/skeletons/info", summary="Description of the skeletons", responses=info_responses())
    def skeletons_info(path: DatasetPath) -> Response:
        """Return the attributes of the skeletons' vertices."""
        _ = datasets[path.dataset]
        return info_response(skeleton_info())

    @api.get(
        f"{PLACE}/skeletons/<root_id>",
        summary="Skeleton of a root for the viewer",
        responses=picture_responses(),
    )
    def skeletons_root(path: RootPath) -> Response:
        """Return a root's skeleton with default parameters. Missing nodes are published for computation."""
        root, served = path.root_id, datasets[path.dataset]
        return _answer(
            reads, served, lambda p, ids: p.skeleton(root, ids), root, kept=lambda p: p.kept_skeleton(root)
        )

    @api.get(
        f"{PLACE}/segment_properties/info",
        summary="Segments with their measures",
        responses=info_responses(413, 422, 429),
    )
    def segment_properties(path: DatasetPath, query: SegmentsQuery) -> Response:
        """Return volume, area, cable length and node count of roots, to sort and filter the viewer's list."""
        return answer(datasets[path.dataset], query.roots)

    @api.get(
        f"{PLACE}/segment_properties/<roots>/info",
        summary="Segments with their measures, for the viewer",
        responses=info_responses(413, 422, 429),
    )
    def segments(path: SegmentsPath) -> Response:
        """Return volume, area, cable length and node count of the roots that the path lists.

        This route is for the viewer, which sends no query parameters.
        """
        return answer(datasets[path.dataset], path.roots)

    def answer(served: ServedDataset, listed: str) -> Response:
        roots = sorted_unique(parse_roots(listed))
        if len(roots) > settings.max_roots:
            message = f"{len(roots)} roots in one request: expected at most {settings.max_roots}"
            raise ApiError(413, "too_many_ids", message, field="roots", limit=settings.max_roots)

        def read(neurons: NeuronReader, _: Ids) -> RootAnswer:
            found = neurons.summaries(roots, with_graph=True)
            known = found.summarized
            info = segment_list(found.roots[known], found.summary[known])
            return RootAnswer(found.missing, lambda: info_response(info))

        return reads.answer(served, MissingQuery(), read)


def _answer(
    reads: RootReads,
    served: ServedDataset,
    read: Read,
    root: int | None = None,
    *,
    changes: str = NOT_KEPT,
    kept: Callable[[PictureReader], Picture | None] | None = None,
) -> Response:
    """Return a response with a picture: the stored one, if ``kept`` returns it, else the one from ``read``.

    ``changes`` is the Cache-Control header of a picture that may change (`Picture.lasting` is false).
    """

    def found(picture: Picture) -> RootAnswer:
        cache = A_DAY if picture.lasting else changes
        return RootAnswer(picture.missing, lambda: picture_response(picture.body, cache, BINARY))

    def find_kept(neurons: NeuronReader) -> RootAnswer | None:
        picture = kept(PictureReader(neurons)) if kept else None
        return picture and found(picture)

    def find(neurons: NeuronReader, ids: Ids) -> RootAnswer:
        return found(read(PictureReader(neurons), ids))

    return reads.answer(served, MissingQuery(), find, root, find_kept)


def _layer(path: LayerPath) -> NodeLayer:
    if path.layer not in NODE_LAYERS:
        raise _unknown_layer(path.layer, "layer")
    return NODE_LAYERS[path.layer]


def _unknown_layer(name: str, field: str) -> ApiError:
    message = f"layer {name!r:.120} does not exist: expected one of {', '.join(FOLDERS)}"
    return ApiError(404, "unknown_layer", message, field=field, value=name)
