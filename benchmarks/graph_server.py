"""A small server of proofread graphs, asked as PyChunkedGraph is, in threads of this process.

It knows what it is told (`GraphServer.put`), and answers 500 to everything while it is told to fail.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import zstandard

from l2features.geometry import Geometry
from l2features.ids import L2, as_ids

from .synthetic import CHILDREN, Cell

INFO = "/segmentation/table/"
API = "/segmentation/api/v1/table/"


class ServedGraph:
    """The children of every node ever made, and the parents of every supervoxel with their times."""

    def __init__(self, info: Mapping[str, Any], geometry: Geometry) -> None:
        self.info, self.geometry = dict(info), geometry
        self.children: dict[int, list[int]] = {}
        self.parents: dict[int, list[tuple[int, int]]] = {}
        self.nodes: dict[int, list[int]] = {}
        """The nodes of each chunk."""

    def put(self, cell: Cell) -> None:
        value = cell.value if cell.column != CHILDREN else zstandard.decompress(cell.value)
        ids = np.frombuffer(value, "<u8").astype(np.uint64).tolist()
        if cell.column == CHILDREN:
            chunk_id = int(self.geometry.layout.chunk_ids(as_ids([cell.node]))[0])
            self.nodes.setdefault(chunk_id, []).append(cell.node)
            self.children[cell.node] = ids
        else:
            self.parents.setdefault(cell.node, []).append((cell.ms, ids[0]))

    def leaves(self, node: int) -> list[int]:
        """The supervoxels of a node; none of one that is not known."""
        return self.children.get(node, [])

    def l2_ids(self, supervoxels: list[int], ms: float) -> list[int]:
        """The node of each supervoxel at a time, 0 where it had none; themselves where none had any."""
        then = ([pair for pair in self.parents.get(i, ()) if pair[0] <= ms] for i in supervoxels)
        found = [max(pairs)[1] if pairs else 0 for pairs in then]
        return found if any(found) else supervoxels

    def pairs(self, chunk_id: int) -> list[int]:
        """All nodes of a chunk with each of their supervoxels, flat."""
        return [
            i for node in self.nodes.get(chunk_id, ()) for leaf in self.children[node] for i in (node, leaf)
        ]


class GraphServer(ThreadingHTTPServer):
    """The running server; ``failing`` is set while it answers 500, and ``failures`` counts such answers."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.graphs: dict[str, ServedGraph] = {}
        self.failing = threading.Event()
        self.failures = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, name="graph server", daemon=True).start()

    def add(self, table: str, geometry: Geometry, watershed: str, layers: int) -> str:
        """Serve a graph over the segmentation at ``watershed``; gives its path for cloud-volume."""
        self.graphs[table] = ServedGraph(graph_info(geometry, watershed, layers), geometry)
        return f"graphene://http://127.0.0.1:{self.server_port}{INFO}{table}"

    def put(self, table: str, cells: Iterable[Cell]) -> None:
        """What the graph's table holds from now on."""
        with self.lock:
            for cell in cells:
                self.graphs[table].put(cell)

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    server: GraphServer

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def _answer(self, body: bytes) -> None:
        url = urlsplit(self.path)
        with self.server.lock:
            if self.server.failing.is_set():
                self.server.failures += 1
                self._send(500, b'{"code":500,"message":"told to fail"}')
                return
            content = self._content(url.path, parse_qs(url.query), body)
        self._send(404 if content is None else 200, content or b"")

    def _content(self, path: str, query: dict[str, list[str]], body: bytes) -> bytes | None:
        if path.startswith(INFO) and path.endswith("/info"):
            graph = self.server.graphs.get(path.removeprefix(INFO).removesuffix("/info"))
            return json.dumps(graph.info).encode() if graph else None
        table, *rest = path.removeprefix(API).split("/")
        graph = self.server.graphs.get(table)
        if graph is None:
            return None
        match rest:
            case ["roots_binary"] if query.get("stop_layer") == [str(L2)]:
                seconds = float(query.get("timestamp", [str(time.time())])[0])
                supervoxels = np.frombuffer(body, "<u8").astype(np.uint64).tolist()
                return _raw(graph.l2_ids(supervoxels, seconds * 1000))
            case ["node", node, "leaves"] if node.isdigit():
                return json.dumps({"leaf_ids": graph.leaves(int(node))}).encode()
            case ["l2_chunk_children_binary", chunk_id] if chunk_id.isdigit():
                return _raw(graph.pairs(int(chunk_id)))
        return None

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def graph_info(geometry: Geometry, watershed: str, layers: int) -> dict[str, Any]:
    """What a graph's server says of a graph over a precomputed segmentation of raw files, a chunk each."""
    resolution = [int(n) for n in geometry.resolution]
    scale = {
        "chunk_sizes": [list(geometry.chunk_size)],
        "encoding": "raw",
        "key": "_".join(map(str, resolution)),
        "resolution": resolution,
        "size": list(geometry.voxel_size),
        "voxel_offset": list(geometry.voxel_offset),
    }
    bits = geometry.layout.spatial_bits
    upper = {layer: max(1, layers - layer) for layer in range(L2 + 1, layers + 1)}
    graph = {
        "bounding_box": [n * (1 << bits[L2]) for n in geometry.chunk_size],
        "chunk_size": list(geometry.chunk_size),
        "cv_mip": 0,
        "n_bits_for_layer_id": geometry.layout.layer_bits,
        "n_layers": layers,
        "spatial_bit_masks": {str(layer): n for layer, n in (dict(bits) | upper).items()},
    }
    return {
        "app": {"supported_api_versions": [0, 1]},
        "chunks_start_at_voxel_offset": True,
        "data_dir": watershed.removeprefix("precomputed://"),
        "data_type": "uint64",
        "graph": graph,
        "num_channels": 1,
        "scales": [scale],
        "sharded_mesh": True,
        "type": "segmentation",
        "verify_mesh": False,
    }


def _raw(ids: list[int]) -> bytes:
    return as_ids(ids).astype("<u8").tobytes()
