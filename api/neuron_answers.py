"""Responses with summaries, graphs and skeletons of roots."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import orjson
import pyarrow as pa
from flask import Response, g

from l2features.core.ids import Ids
from l2features.graph.base import Pairs, RootHistory
from l2features.neurons.root_answers import STATUS_NAMES, root_objects, root_table
from l2features.neurons.root_summaries import Summaries
from l2features.neurons.skeleton import Skeleton
from l2features.neurons.skeleton_files import skeleton_file
from l2features.query.answers import arrow_stream, parquet
from l2features.query.provenance import provenance

from . import metrics
from .neuron_schemas import SKELETON_FORMS, GraphQuery, RootQuery, SkeletonQuery
from .response_bodies import ARROW, JSON, body_response
from .schemas import is_true
from .served_datasets import ServedDataset

JSON_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY


def summaries_response(
    served: ServedDataset,
    found: Summaries,
    histories: Mapping[int, RootHistory] | None,
    query: RootQuery,
    mimetype: str,
) -> Response:
    """Return the response with the summaries of roots; count the roots by status in the metrics.

    ``histories`` maps roots to their histories. It is None for a version, which does not record histories.
    """
    for code, count in zip(*np.unique(found.status, return_counts=True), strict=True):
        metrics.ROOTS.labels(served.name, STATUS_NAMES[code]).inc(int(count))
    g.ids = len(found.roots)
    if mimetype == JSON:
        objects = root_objects(found, histories, int64_as_str=is_true(query.int64_as_str))
        return body_response([orjson.dumps(objects, option=JSON_OPTIONS)], JSON)
    table = root_table(found, histories or {})
    return body_response([arrow_stream(table) if mimetype == ARROW else parquet(table)], mimetype)


def graph_response(root: int, nodes: Ids, edges: Pairs, query: GraphQuery, mimetype: str) -> Response:
    """Return the response with a root's node ids (n,) and its edges as pairs of node ids (m, 2)."""
    if mimetype == ARROW:
        listed = pa.FixedSizeListArray.from_arrays(pa.array(edges.ravel()), 2)
        row = {
            "root_id": pa.array([root], pa.uint64()),
            "node_ids": pa.ListArray.from_arrays([0, len(nodes)], pa.array(nodes)),
            "edges": pa.ListArray.from_arrays([0, len(edges)], listed),
        }
        return body_response([arrow_stream(pa.table(row))], ARROW)
    as_str = is_true(query.int64_as_str)
    content = {
        "root_id": str(root) if as_str else root,
        "node_ids": nodes.astype(str).tolist() if as_str else np.ascontiguousarray(nodes),
        "edges": edges.astype(str).tolist() if as_str else np.ascontiguousarray(edges),
    }
    return body_response([orjson.dumps(content, option=JSON_OPTIONS)], JSON)


def skeleton_response(served: ServedDataset, skeleton: Skeleton, query: SkeletonQuery) -> Response:
    """Return the response with a skeleton and its provenance, in the requested format."""
    about, as_str = provenance(served.entry, served.opened().meta), is_true(query.int64_as_str)
    body = skeleton_file(skeleton, query.format, about, int64_as_str=as_str)
    return body_response([body], SKELETON_FORMS[query.format])
