"""The routes of roots: summaries, nodes, graphs and skeletons of neurons."""

from __future__ import annotations

from flask import Response, request
from flask_openapi3 import OpenAPI

from l2features.core.ids import Ids, as_ids
from l2features.neurons.neuron_reader import NeuronReader
from l2features.neurons.skeleton import skeletonize
from l2features.versions.version_roots import version_summaries

from .accept import accepted
from .body import ROOT_FIELD, requested_roots
from .feature_reads import features_response
from .neuron_answers import graph_response, skeleton_response, summaries_response
from .neuron_schemas import (
    EXAMPLE_ROOT,
    GRAPH_RESPONSES,
    ROOT_NODES_RESPONSES,
    SUMMARY_RESPONSES,
    GraphQuery,
    RootPath,
    SkeletonQuery,
    SummaryQuery,
    skeleton_responses,
)
from .response_bodies import ARROW, FORMS, JSON
from .root_reads import RootAnswer, RootReads
from .schemas import NEURONS, AttributesQuery, DatasetPath, MissingQuery, ids_request, is_true, new_routes
from .served_datasets import ServedDataset
from .service import AppResources


def register_neurons(app: OpenAPI, service: AppResources) -> None:
    """Register the routes of roots."""
    settings, datasets = service.settings, service.datasets
    api, reads = new_routes("neurons", settings, NEURONS), RootReads(service)

    @api.post(
        "/table/<dataset>/roots/summary",
        summary="Summaries of many roots",
        responses=SUMMARY_RESPONSES,
        openapi_extensions={
            "requestBody": ids_request(ROOT_FIELD, "RootIds", EXAMPLE_ROOT, settings.max_roots, settings)
        },
    )
    def root_summaries(path: DatasetPath, query: SummaryQuery) -> Response:
        """Return status and summary of each root in the body. Missing nodes are published for computation."""
        return answer(datasets[path.dataset], query, requested_roots(request, settings))

    @api.get("/table/<dataset>/root/<root_id>", summary="Summary of a root", responses=SUMMARY_RESPONSES)
    def root(path: RootPath, query: SummaryQuery) -> Response:
        """Return status and summary of one root, in the same form as the route for many roots."""
        return answer(datasets[path.dataset], query, as_ids([path.root_id]))

    def answer(served: ServedDataset, query: SummaryQuery, roots: Ids) -> Response:
        mimetype = accepted(request.headers.get("Accept"), FORMS)
        if query.version is not None:
            with service.versions.of_version(
                served,
                query.version,
                lambda reader, until: version_summaries(reader, roots, until),
                ROOT_FIELD,
            ) as found:
                return summaries_response(served, found, None, query, mimetype)

        def read(neurons: NeuronReader, _: Ids) -> RootAnswer:
            found = neurons.summaries(roots, with_graph=is_true(query.graph))
            histories = neurons.histories_of(found)
            return RootAnswer(
                found.missing, lambda: summaries_response(served, found, histories, query, mimetype)
            )

        return reads.answer(served, query, read)

    @api.get(
        "/table/<dataset>/root/<root_id>/nodes",
        summary="Features of a root's nodes",
        responses=ROOT_NODES_RESPONSES,
    )
    def root_nodes(path: RootPath, query: AttributesQuery) -> Response:
        """Return the features of all L2 nodes of a root. Missing nodes are published for computation."""
        served, mimetype = datasets[path.dataset], accepted(request.headers.get("Accept"), FORMS)
        with_reasons = is_true(query.with_status) or mimetype != JSON

        def read(neurons: NeuronReader, ids: Ids) -> RootAnswer:
            found = neurons.nodes(path.root_id, query.names, with_reasons, ids=ids)
            return RootAnswer(found.missing, lambda: features_response(served, found, query, mimetype))

        return reads.answer(served, query, read, path.root_id)

    @api.get("/table/<dataset>/root/<root_id>/graph", summary="L2 graph of a root", responses=GRAPH_RESPONSES)
    def root_graph(path: RootPath, query: GraphQuery) -> Response:
        """Return the L2 nodes of a root and the edges between them."""
        served, mimetype = datasets[path.dataset], accepted(request.headers.get("Accept"), (JSON, ARROW))

        def read(neurons: NeuronReader, ids: Ids) -> RootAnswer:
            nodes, edges = neurons.edges(path.root_id, ids=ids)
            return RootAnswer(as_ids([]), lambda: graph_response(path.root_id, nodes, edges, query, mimetype))

        return reads.answer(served, MissingQuery(), read, path.root_id)

    @api.get(
        "/table/<dataset>/root/<root_id>/skeleton",
        summary="Skeleton of a root",
        responses=skeleton_responses(),
    )
    def root_skeleton(path: RootPath, query: SkeletonQuery) -> Response:
        """Return the skeleton of a root's L2 graph, in nm. Missing nodes are published for computation."""
        served = datasets[path.dataset]

        def read(neurons: NeuronReader, ids: Ids) -> RootAnswer:
            graph = neurons.graph(path.root_id, ids=ids)
            skeleton = skeletonize(graph, **query.parameters)
            return RootAnswer(graph.missing, lambda: skeleton_response(served, skeleton, query))

        return reads.answer(served, query, read, path.root_id)

    app.register_api(api)
