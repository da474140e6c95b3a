"""A straightforward server of the same reads, to compare with: an object per cell, a loop per id.

It works as the older service does, with kvdbclient's ``read_nodes`` and ``flask.json``, and is spared what
that one does besides: it asks no graph server for metadata, opens its client once, and computes positions in
plain integers. It checks nothing.

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
from kvdbclient.attributes import _Attribute
from kvdbclient.bigtable import BigTableConfig
from kvdbclient.serializers import NumPyArray, NumPyValue

from l2features.core.geometry import Geometry
from l2features.core.schema import ATTRIBUTES

GZIP_LEVEL = 9
"""That of the older service, which has this library too."""


def registered_attributes() -> dict[str, Any]:
    """The attributes as kvdbclient wants them declared, by name."""
    registered = {}
    for a in ATTRIBUTES:
        shape = (-1, 3) if len(a.shape) == 2 else None
        serializer = NumPyArray(dtype=a.dtype, shape=shape) if a.shape else NumPyValue(dtype=a.dtype)
        registered[a.name] = _Attribute(key=a.key, family_id="0", serializer=serializer)
    return registered


def create_app(project: str, instance: str, table: str, geometry_file: str) -> Flask:
    """The app, over one Bigtable table; the geometry is that of `Geometry.to_json`."""
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


def served(node: int, cells: dict[Any, Any], geometry: Geometry) -> dict[str, Any]:
    """What a client sees of one row."""
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
    """A voxel index within a node's chunk as a position in nm."""
    shift = 64 - geometry.layout.layer_bits
    nm = []
    for axis, bits in enumerate(geometry.layout.axis_bits(2)):
        shift -= bits
        chunk = node >> shift & (1 << bits) - 1
        voxel = geometry.voxel_offset[axis] + chunk * geometry.chunk_size[axis] + index[axis]
        nm.append(float(voxel * geometry.resolution[axis]))
    return nm
