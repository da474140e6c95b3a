"""A reference server of features, for benchmarks: loops over the ids, with Python objects for each cell.

Like PCGL2Cache, it uses kvdbclient's ``read_nodes`` and ``flask.json``. Unlike PCGL2Cache, it needs no graph
server for metadata, opens its client once, computes positions with Python integers, and validates nothing.
`leaves` reads a root's L2 ids as PyChunkedGraph does.

    gunicorn "benchmarks.plain_server:create_app('PROJECT', 'INSTANCE', 'TABLE', 'geometry.json')"
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import deflate
import numpy as np
from flask import Flask, Response, jsonify, request
from kvdbclient import BigTableClient
from kvdbclient.attributes import Hierarchy, _Attribute
from kvdbclient.bigtable import BigTableConfig
from kvdbclient.serializers import NumPyArray, NumPyValue

from l2features.core.geometry import Geometry
from l2features.core.ids import L2
from l2features.core.schema import ATTRIBUTES

GZIP_LEVEL = 9
"""Level of gzip compression; PCGL2Cache uses the same level and library (``deflate``)."""


def registered_attributes() -> dict[str, Any]:
    """Return declarations of the attributes for kvdbclient, by attribute name."""
    registered = {}
    for a in ATTRIBUTES:
        shape = (-1, 3) if len(a.shape) == 2 else None
        serializer = NumPyArray(dtype=a.dtype, shape=shape) if a.shape else NumPyValue(dtype=a.dtype)
        registered[a.name] = _Attribute(key=a.key, family_id="0", serializer=serializer)
    return registered


def create_app(project: str, instance: str, table: str, geometry_file: str) -> Flask:
    """Return the application for one Bigtable table; ``geometry_file`` has the JSON of `Geometry.to_json`."""
    app = Flask(__name__)
    client = BigTableClient(table, config=BigTableConfig(PROJECT=project, INSTANCE=instance))
    geometry = Geometry.from_json(Path(geometry_file).read_text())
    attributes = registered_attributes()

    @app.get("/live")
    def live() -> Response:
        return jsonify({"status": "ok"})

    @app.post("/l2cache/api/v1/table/<dataset>/attributes")
    def read(dataset: str) -> Response:
        ids = np.unique(np.array(json.loads(request.data)["l2_ids"], dtype=np.uint64))
        names = request.args.get("attribute_names")
        properties = [attributes[name.strip()] for name in names.split(",")] if names else None
        entries = client.read_nodes(node_ids=ids, properties=properties)
        return jsonify({str(node): served(int(node), entries.get(node, {}), geometry) for node in ids})

    @app.after_request
    def compress(response: Response) -> Response:
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            response.data = bytes(deflate.gzip_compress(response.data, GZIP_LEVEL))
            response.headers["Content-Encoding"] = "gzip"
        return response

    return app


def leaves(project: str, instance: str, graph: str, geometry: Geometry, root: int) -> list[int]:
    """Return the L2 ids of a root, read layer by layer through kvdbclient as PyChunkedGraph does."""
    client = BigTableClient(graph, config=BigTableConfig(PROJECT=project, INSTANCE=instance))
    nodes, found = np.array([root], dtype=np.uint64), list[int]()
    while len(nodes):
        rows = client.read_nodes(node_ids=nodes, properties=Hierarchy.Child)
        below = np.concatenate([cells[0].value for cells in rows.values()])
        is_l2 = geometry.layout.layers(below) == L2
        found += below[is_l2].tolist()
        nodes = below[~is_l2]
    return found


def served(node: int, cells: dict[Any, Any], geometry: Geometry) -> dict[str, Any]:
    """Return a node's features as JSON values, in nm, from the cells that kvdbclient has read."""
    features = {}
    for attribute, versions in cells.items():
        value = versions[0].value.tolist()
        if value != []:
            features[attribute.key.decode()] = value
    if "size_nm3" in features:
        features["size_nm3"] *= math.prod(int(step) for step in geometry.resolution)
    if "rep_coord_nm" in features:
        features["rep_coord_nm"] = position(node, features["rep_coord_nm"], geometry)
    return features


def position(node: int, index: list[int], geometry: Geometry) -> list[float]:
    """Convert a voxel index within a node's chunk to a position in nm."""
    shift = 64 - geometry.layout.layer_bits
    nm = []
    for axis, bits in enumerate(geometry.layout.axis_bits(2)):
        shift -= bits
        chunk = node >> shift & (1 << bits) - 1
        voxel = geometry.voxel_offset[axis] + chunk * geometry.chunk_size[axis] + index[axis]
        nm.append(float(voxel * geometry.resolution[axis]))
    return nm
