"""Skeletons as files: SWC, JSON, Arrow, Neuroglancer's precomputed bytes; and as a NetworkX graph.

Positions and radii are in nm everywhere. ``provenance`` is what the caller knows of the source: data set,
cv_path, timestamp, software version.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order

from .forest import Indices, lengths
from .skeleton import Skeleton

UNDEFINED, SOMA = 0, 1
"""SWC types of vertices: https://neuroinformatics.nl/swcPlus"""
PRECOMPUTED_ATTRIBUTES = ("radius", "segment_radius", "interpolated", "component")
VERTEX_COLUMNS = {
    "vertex": ("", "index of the vertex"),
    "parent": ("", "next vertex on the way to the root; null at the root of a component"),
    "l2_id": ("", "id of the L2 node; null for a collapsed soma"),
    "position_nm": ("nm", "position of the vertex"),
    "radius_nm": ("nm", "max_dt_nm of the node; null where absent or saturated"),
    "segment_radius_nm": ("nm", "sqrt(V / (pi L)) of the unbranched segment of volume V and length L"),
    "component": ("", "component of the L2 graph, 0 is the largest"),
    "interpolated": ("", "whether the node has no representative coordinate"),
    "gap": ("", "whether the edge to the parent joins two components"),
}


def skeleton_file(
    skeleton: Skeleton, form: str, provenance: Mapping[str, Any], *, int64_as_str: bool = False
) -> bytes:
    """Return a skeleton as a file: ``swc``, ``json``, ``arrow`` or ``precomputed``."""
    from ..query.answers import arrow_stream

    files: dict[str, Callable[[], bytes]] = {
        "swc": lambda: swc(skeleton, provenance),
        "json": lambda: skeleton_json(skeleton, provenance, int64_as_str=int64_as_str),
        "arrow": lambda: arrow_stream(vertex_table(skeleton, provenance)),
        "precomputed": lambda: precomputed(skeleton),
    }
    return files[form]()


def swc(skeleton: Skeleton, provenance: Mapping[str, Any] | None = None) -> bytes:
    """Return an SWC file in nm: ids start at 1, parents precede children, an unknown radius is 0.

    The header has two lines of JSON. ``# Meta: {…}`` has the provenance, and is read by navis.
    ``# Skeleton: {…}`` has the parameters of `skeletonize`, the path length, and numbers of components and
    gaps. A collapsed soma has type 1, other vertices 0 (undefined).
    """
    order = _parents_first(skeleton)
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(1, len(order) + 1)
    parents = skeleton.parents[order]
    radius = np.nan_to_num(skeleton.radius_nm[order])
    columns = (
        number[order],
        np.where(skeleton.l2_ids[order] == 0, SOMA, UNDEFINED),
        *skeleton.vertices[order].T,
        radius,
        np.where(parents < 0, -1, number[parents]),
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    meta = {"id": str(skeleton.root_id), "units": "1 nanometer", **(provenance or {})}
    lines = [
        f"# Root {skeleton.root_id}, in nm; a radius of 0 is unknown",
        f"# Meta: {json.dumps(meta)}",
        f"# Skeleton: {json.dumps(_about(skeleton))}",
        "# id type x y z radius parent",
        *(f"{n} {kind} {x:.10g} {y:.10g} {z:.10g} {r:.6g} {parent}" for n, kind, x, y, z, r, parent in rows),
    ]
    return "\n".join([*lines, ""]).encode()


def _parents_first(skeleton: Skeleton) -> Indices:
    """Return the vertices in an order in which each parent comes before its children, (v,)."""
    n = len(skeleton)
    parents = np.where(skeleton.parents < 0, n, skeleton.parents)
    ones = np.ones(n, dtype=np.int8)
    tree = csr_array((ones, (parents, np.arange(n))), shape=(n + 1, n + 1))
    return np.asarray(breadth_first_order(tree, n, return_predecessors=False)[1:], dtype=np.int64)


def _about(skeleton: Skeleton) -> dict[str, Any]:
    return {
        **skeleton.parameters,
        "n_components": skeleton.n_components,
        "n_gaps": int(skeleton.gaps.sum()),
        "path_length_nm": skeleton.path_length_nm,
    }


def skeleton_json(
    skeleton: Skeleton, provenance: Mapping[str, Any] | None = None, *, int64_as_str: bool = False
) -> bytes:
    """Return a JSON object; its vertices, edges, root and radius are named as in MeshParty and caveclient.

    ``l2_ids`` is 0 for a collapsed soma; unknown radii are null. With ``int64_as_str``, ids are strings.
    """
    ids = {
        "root_id": np.array([skeleton.root_id], np.uint64),
        "l2_ids": skeleton.l2_ids,
        "node_ids": skeleton.node_ids,
    }
    arrays: dict[str, Any] = {
        name: values.astype(str).tolist() if int64_as_str else np.ascontiguousarray(values)
        for name, values in ids.items()
    }
    arrays |= {
        "root_id": arrays["root_id"][0],
        "vertices": np.ascontiguousarray(skeleton.vertices),
        "edges": skeleton.edges,
        "root": skeleton.root,
        "radius": skeleton.radius_nm,
        "segment_radius": skeleton.segment_radius_nm,
        "component": skeleton.component,
        "interpolated": skeleton.interpolated,
        "gaps": skeleton.gaps,
        "mesh_to_skel_map": skeleton.vertex_of_node,
        "meta": {"units": "nm", **_about(skeleton), **(provenance or {})},
    }
    return orjson.dumps(arrays, option=orjson.OPT_SERIALIZE_NUMPY)


def vertex_table(skeleton: Skeleton, provenance: Mapping[str, Any] | None = None) -> Any:
    """Return the vertices as an Arrow table, with each vertex's parent."""
    import pyarrow as pa

    from ..query.answers import arrow_array

    every = np.ones(len(skeleton), dtype=bool)
    columns: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "vertex": (np.arange(len(skeleton), dtype=np.int32), every),
        "parent": (skeleton.parents.astype(np.int32), skeleton.parents >= 0),
        "l2_id": (skeleton.l2_ids, skeleton.l2_ids != 0),
        "position_nm": (skeleton.vertices, every),
        "radius_nm": (skeleton.radius_nm, ~np.isnan(skeleton.radius_nm)),
        "segment_radius_nm": (skeleton.segment_radius_nm, ~np.isnan(skeleton.segment_radius_nm)),
        "component": (skeleton.component.astype(np.int32), every),
        "interpolated": (skeleton.interpolated, every),
        "gap": (skeleton.gaps, every),
    }
    arrays = [arrow_array(*columns[name]) for name in VERTEX_COLUMNS]
    fields = [
        pa.field(name, array.type, metadata={"unit": unit, "description": meaning})
        for (name, (unit, meaning)), array in zip(VERTEX_COLUMNS.items(), arrays, strict=True)
    ]
    about = {"root_id": str(skeleton.root_id), **_about(skeleton), **(provenance or {})}
    metadata = {key: json.dumps(value) for key, value in about.items()}
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))


def node_table(skeleton: Skeleton) -> Any:
    """Return an Arrow table with a row per L2 node: its id, and the index of its vertex in the skeleton."""
    import pyarrow as pa

    return pa.table({"l2_id": skeleton.node_ids, "vertex": skeleton.vertex_of_node.astype(np.int32)})


def precomputed_info(attributes: Sequence[str] = PRECOMPUTED_ATTRIBUTES) -> dict[str, Any]:
    """Return Neuroglancer's ``info`` file for skeletons in nm, with these float32 attributes per vertex."""
    described = [{"id": name, "data_type": "float32", "num_components": 1} for name in attributes]
    transform = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
    return {"@type": "neuroglancer_skeletons", "transform": transform, "vertex_attributes": described}


def precomputed(skeleton: Skeleton) -> bytes:
    """Return a skeleton in Neuroglancer's format, with the attributes of `precomputed_info`."""
    attributes = skeleton.radius_nm, skeleton.segment_radius_nm, skeleton.interpolated, skeleton.component
    return precomputed_bytes(skeleton, attributes)


def precomputed_bytes(skeleton: Skeleton, attributes: Sequence[np.ndarray]) -> bytes:
    """Return a skeleton in Neuroglancer's format; attributes have one value per vertex, and NaN becomes 0.

    Source: Neuroglancer's specification of ``neuroglancer_skeletons``.
    """
    edges = skeleton.edges
    parts = [
        np.array([len(skeleton), len(edges)], dtype="<u4"),
        skeleton.vertices.astype("<f4"),
        edges.astype("<u4"),
        *(np.nan_to_num(values.astype("<f4")) for values in attributes),
    ]
    return b"".join(part.tobytes() for part in parts)


def networkx_graph(skeleton: Skeleton) -> Any:
    """Return a directed NetworkX graph, edges from vertex to parent, as in navis."""
    import networkx as nx

    graph = nx.DiGraph(root_id=skeleton.root_id, root=skeleton.root, units="nm")
    rows = zip(
        *skeleton.vertices.T.tolist(), skeleton.radius_nm.tolist(), skeleton.l2_ids.tolist(), strict=True
    )
    for vertex, (x, y, z, radius, l2_id) in enumerate(rows):
        graph.add_node(vertex, x=x, y=y, z=z, radius=radius, l2_id=l2_id)
    edges = skeleton.edges
    weights = lengths(skeleton.vertices, edges).tolist()
    graph.add_weighted_edges_from(zip(*edges.T.tolist(), weights, strict=True))
    return graph
