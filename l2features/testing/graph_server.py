"""A PyChunkedGraph server for cloud-volume that keeps its graph in memory, without Bigtable.

    python -m l2features.testing.graph_server PORT LAYER_FOLDER graph_v2.json.gz watershed_v2.npz

serves a recorded graph. It answers only the requests of cloud-volume and `l2features` about layer 2; all
others are 404.
"""

from __future__ import annotations

import base64
import gzip
import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import zstandard

from ..core.ids import L2, IdLayout, as_ids
from ..local.sample.graph_cells import CHILDREN, PARENTS, Cell


class ServedGraph:
    """A graph: the parents of supervoxels with their times, and the children of all L2 nodes ever made."""

    def __init__(self, info: dict[str, Any]) -> None:
        graph = info["graph"]
        bits = {int(layer): int(n) for layer, n in graph["spatial_bit_masks"].items()}
        self.info, self.layout = info, IdLayout(bits, int(graph["n_bits_for_layer_id"]))
        self.parents: dict[int, list[tuple[int, int]]] = {}
        self.children: dict[int, list[int]] = {}
        self.nodes: dict[int, list[int]] = defaultdict(list)
        """The nodes of each chunk."""

    def put(self, cell: Cell) -> None:
        """Add a cell of the graph's table; new children of a node replace earlier ones."""
        node = as_ids([cell.node])
        layer = self.layout.layers(node)[0]
        if layer == 1 and cell.column == PARENTS:
            self.parents.setdefault(cell.node, []).append((cell.ms, int.from_bytes(cell.value, "little")))
        elif layer == L2 and cell.column == CHILDREN:
            if cell.node not in self.children:
                self.nodes[int(self.layout.chunk_ids(node)[0])].append(cell.node)
            self.children[cell.node] = np.frombuffer(zstandard.decompress(cell.value), "<u8").tolist()

    def roots(self, supervoxels: list[int], ms: float) -> list[int]:
        """Return the L2 ids of supervoxels at ``ms``; 0 for a supervoxel without a parent.

        If no supervoxel has a parent, return the supervoxels.
        """
        then = [[cell for cell in self.parents.get(node, ()) if cell[0] <= ms] for node in supervoxels]
        return [max(cells)[1] if cells else 0 for cells in then] if any(then) else supervoxels

    def pairs(self, chunk_id: int) -> list[int]:
        """Return node, supervoxel, node, supervoxel, … for all supervoxels of a chunk's nodes."""
        nodes = self.nodes.get(chunk_id, [])
        return [one for node in nodes for child in self.children[node] for one in (node, child)]

    def answer(self, route: Sequence[str], arguments: Mapping[str, str], body: bytes) -> bytes | None:
        """Return the response to a request; None for an unknown route."""
        match route:
            case ["roots_binary"] if arguments.get("stop_layer") == str(L2):
                seconds = float(arguments.get("timestamp", time.time()))
                return _raw(self.roots(np.frombuffer(body, "<u8").tolist(), 1_000 * seconds))
            case ["node", node, "leaves"] if node.isdigit():
                return json.dumps({"leaf_ids": self.children.get(int(node), [])}).encode()
            case ["l2_chunk_children_binary", chunk_id] if chunk_id.isdigit():
                return _raw(self.pairs(int(chunk_id)))
        return None


def _raw(ids: list[int]) -> bytes:
    return as_ids(ids).astype("<u8").tobytes()


class GraphServer(ThreadingHTTPServer):
    """Serves ``graphs``, by table name, on a port of loopback; port 0 means a free one."""

    request_queue_size = 128

    def __init__(self, graphs: dict[str, ServedGraph], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.graphs = graphs

    def answer(self, path: str, arguments: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """Return a response's status and content."""
        content = None
        match path.split("/"):
            case ["", "segmentation", "table", table, "info"] if table in self.graphs:
                content = json.dumps(self.graphs[table].info).encode()
            case ["", "segmentation", "api", "v1", "table", table, *route] if table in self.graphs:
                content = self.graphs[table].answer(route, arguments, body)
        return (404, b"") if content is None else (200, content)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore disconnected clients."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Passes requests to the server; connections are kept alive."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    server: GraphServer

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        url = urlsplit(self.path)
        arguments = {name: values[-1] for name, values in parse_qs(url.query).items()}
        status, content = self.server.answer(url.path, arguments, body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def write_layer(watershed: Path, folder: Path) -> dict[str, Any]:
    """Write the recorded supervoxels as a precomputed layer; return the info of a graph over this layer."""
    from cloudvolume import CloudVolume

    recorded = np.load(watershed)
    info: dict[str, Any] = json.loads(str(recorded["graphene_info"]))
    own = {key: info[key] for key in ("type", "data_type", "num_channels", "scales")}
    volume = CloudVolume(f"precomputed://file://{folder}", info=own, progress=False)
    volume.commit_info()
    volume[volume.bounds] = recorded["ws"][..., np.newaxis]
    return info | {"data_dir": f"file://{folder}"}


def read_recorded(dump: Path, info: dict[str, Any]) -> dict[str, ServedGraph]:
    """Return the recorded graph, by table name."""
    content = json.loads(gzip.decompress(dump.read_bytes()))
    graph = ServedGraph(info)
    for key, cells in content["rows"]:
        if not base64.b64decode(key).isdigit():
            continue
        node = int(base64.b64decode(key))
        for _, name, value, ms in sorted(cells, key=lambda cell: cell[3]):
            graph.put(Cell(node, base64.b64decode(name).decode(), base64.b64decode(value), ms))
    return {content["table"]: graph}


def main(port: str, folder: str, dump: str, watershed: str) -> None:
    """Serve until the process is stopped."""
    graphs = read_recorded(Path(dump), write_layer(Path(watershed), Path(folder)))
    GraphServer(graphs, int(port)).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
