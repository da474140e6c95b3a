"""A server of a recorded graph, as PyChunkedGraph is for cloud-volume, without a table: a process of its own.

    python -m tests.graph_server PORT LAYER_FOLDER graph_v2.json.gz watershed_v2.npz

It holds the cells of the recorded table with their times. Only what cloud-volume and `l2features` ask is
answered, of layer 2; all else is an error 404.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import sys
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import zstandard
from cloudvolume import CloudVolume

from l2features.ids import L2, IdLayout, as_ids


def write_layer(watershed: Path, folder: Path) -> dict[str, Any]:
    """Write the recorded supervoxels as a precomputed layer; gives the info that is served for it."""
    recorded = np.load(watershed)
    info: dict[str, Any] = json.loads(str(recorded["graphene_info"]))
    own = {key: info[key] for key in ("type", "data_type", "num_channels", "scales")}
    volume = CloudVolume(f"precomputed://file://{folder}", info=own, progress=False)
    volume.commit_info()
    volume[volume.bounds] = recorded["ws"][..., np.newaxis]
    return info | {"data_dir": f"file://{folder}"}


class RecordedGraph:
    """The cells of a graph's table: parents of supervoxels with their times, and children of L2 nodes."""

    def __init__(self, dump: Path, info: dict[str, Any]) -> None:
        content = json.loads(gzip.decompress(dump.read_bytes()))
        self.table, self.info = content["table"], info
        graph = info["graph"]
        bits = {int(layer): int(n) for layer, n in graph["spatial_bit_masks"].items()}
        layout = IdLayout(bits, int(graph["n_bits_for_layer_id"]))
        self.parents: dict[int, list[tuple[int, int]]] = {}
        self.children: dict[int, list[int]] = {}
        self.nodes: dict[int, list[int]] = defaultdict(list)
        for key, cells in content["rows"]:
            if not base64.b64decode(key).isdigit():
                continue
            node = int(base64.b64decode(key))
            columns: dict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
            for _, name, value, ms in cells:
                columns[base64.b64decode(name)].append((ms, base64.b64decode(value)))
            layer = layout.layers(as_ids([node]))[0]
            if layer == 1:
                self.parents[node] = [(ms, int.from_bytes(v, "little")) for ms, v in columns[b"parents"]]
            elif layer == L2 and columns[b"children"]:
                children = zstandard.decompress(max(columns[b"children"])[1])
                self.children[node] = np.frombuffer(children, "<u8").tolist()
                self.nodes[int(layout.chunk_ids(as_ids([node]))[0])].append(node)

    def roots(self, supervoxels: list[int], ms: float) -> list[int]:
        """L2 ids at a time: 0 for those that have none, but themselves where none of them has one."""
        then = [[cell for cell in self.parents.get(node, ()) if cell[0] <= ms] for node in supervoxels]
        return [max(cells)[1] if cells else 0 for cells in then] if any(then) else supervoxels

    def pairs(self, chunk_id: int) -> list[int]:
        """All nodes of a chunk, each with each of its supervoxels."""
        nodes = self.nodes.get(chunk_id, [])
        return [one for node in nodes for child in self.children[node] for one in (node, child)]

    def answer(self, path: str, arguments: dict[str, str], body: bytes) -> bytes | None:
        """What is answered to a request; None where there is no such route."""
        if path == f"/segmentation/table/{self.table}/info":
            return json.dumps(self.info).encode()
        route = path.removeprefix(f"/segmentation/api/v1/table/{self.table}/")
        if route == "roots_binary" and arguments.get("stop_layer") == str(L2):
            seconds = float(arguments.get("timestamp", time.time()))
            return _raw(self.roots(np.frombuffer(body, "<u8").tolist(), 1_000 * seconds))
        if match := re.fullmatch("node/([0-9]+)/leaves", route):
            return json.dumps({"leaf_ids": self.children.get(int(match[1]), [])}).encode()
        if match := re.fullmatch("l2_chunk_children_binary/([0-9]+)", route):
            return _raw(self.pairs(int(match[1])))
        return None


def _raw(ids: list[int]) -> bytes:
    return as_ids(ids).astype("<u8").tobytes()


class Handler(BaseHTTPRequestHandler):
    """Answers from `RecordedGraph`, over connections that stay open."""

    protocol_version = "HTTP/1.1"
    graph: RecordedGraph

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        url = urlsplit(self.path)
        arguments = {name: values[-1] for name, values in parse_qs(url.query).items()}
        answer = self.graph.answer(url.path, arguments, body)
        self.send_response(404 if answer is None else 200)
        self.send_header("Content-Length", str(len(answer or b"")))
        self.end_headers()
        self.wfile.write(answer or b"")

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def main(port: str, folder: str, dump: str, watershed: str) -> None:
    """Serve until the process is ended."""
    Handler.graph = RecordedGraph(Path(dump), write_layer(Path(watershed), Path(folder)))
    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
