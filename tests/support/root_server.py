"""A fake graph server that answers from the recorded roots."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from l2features.core.ids import as_ids, from_bytes, to_bytes
from tests.support.jobs import Recordings

API = "/segmentation/api/v1/table/fixture_v2/"
Answer = tuple[int, bytes]


class RootServer(ThreadingHTTPServer):
    """A fake graph server. ``asked`` lists the requested routes; ``fail`` may replace a route's answer."""

    request_queue_size = 128

    def __init__(self, recordings: Recordings) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        recording = recordings.json("roots.json")
        self.roots = {int(root): entry for root, entry in recording["roots"].items()}
        self.times = {when: recording[f"{when}_ms"] / 1000 for when in ("t0", "tm", "t1")}
        self.l2_to_root = recording["l2_to_root"]
        exchanges = {e["name"]: e for e in recordings.json("pcg_http.json")["exchanges"]}
        self.info = exchanges["info"]["response"]["body"].encode()
        self.asked: list[str] = []
        self.fail: Callable[[str], Answer | None] = lambda route: None

    @property
    def url(self) -> str:
        return f"graphene://http://127.0.0.1:{self.server_port}/segmentation/table/fixture_v2"

    def answer(self, path: str, arguments: dict[str, str], body: bytes) -> Answer:
        if not path.startswith(API):
            return 200, self.info
        route = path.removeprefix(API)
        self.asked.append(route)
        seconds = float(arguments.get("timestamp", 1e10))
        match route.split("/"):
            case _ if failure := self.fail(route):
                return failure
            case ["node", "leaves_many"]:
                return _json({str(root): self.leaves(root) for root in _ids(body)})
            case ["node", root, "leaves"]:
                return _json({"leaf_ids": self.leaves(int(root))})
            case ["node", root, "lvl2_graph"]:
                return _json(
                    {"edge_graph": self.roots[int(root)]["l2_edges"] if int(root) in self.roots else []}
                )
            case ["node", root, "children"]:
                return _json({"children_ids": self.leaves(int(root))[:1]})
            case ["roots_binary"]:
                return 200, to_bytes(as_ids(self.above(from_bytes(body).tolist(), seconds)))
            case ["is_latest_roots"]:
                return _json({"is_latest": [self.latest(root, seconds) for root in _ids(body)]})
            case ["root_timestamps"]:
                return _json({"timestamp": [self.roots[root]["created_ms"] / 1000 for root in _ids(body)]})
            case ["lineage_graph_multiple"]:
                return _json(self.lineage(json.loads(body)["root_ids"], float(arguments["timestamp_past"])))
        return 404, b""

    def leaves(self, root: int) -> list[int]:
        return list(reversed(self.roots[root]["l2_ids"])) if root in self.roots else []

    def above(self, ids: list[int], seconds: float) -> list[int]:
        """Return each L2 id's newest root as of ``seconds``, even if retired, as the genuine server does."""
        found: dict[int, int] = {}
        for root, entry in sorted(self.roots.items(), key=lambda item: item[1]["created_ms"]):
            if entry["created_ms"] <= seconds * 1000 + 0.5:
                found |= dict.fromkeys(entry["l2_ids"], root)
        return [found.get(i, 0) for i in ids] if found else ids

    def latest(self, root: int, seconds: float) -> bool:
        entry, ms = self.roots.get(root), seconds * 1000 - 0.5
        if entry is None or entry["created_ms"] >= ms:
            return False
        return entry["retired_ms"] is None or entry["retired_ms"] >= ms

    def lineage(self, roots: list[int], past: float) -> dict[str, Any]:
        links, before, after, seen = set(), set(roots), set(roots), set(roots)
        while before or after:
            old = {
                (i, root)
                for root in before
                if self.made(root) >= past
                for i in self.roots[root]["predecessors"]
            }
            new = {(root, i) for root in after for i in self.roots[root]["successors"]}
            links |= old | new
            before, after = {a for a, _ in old} - seen, {b for _, b in new} - seen
            seen |= before | after
        nodes = [{"id": root, "timestamp": self.made(root)} for root in sorted(seen)]
        return {"nodes": nodes, "links": [{"source": a, "target": b} for a, b in sorted(links)]}

    def made(self, root: int) -> float:
        return float(self.roots[root]["created_ms"] / 1000)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RootServer

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        status, content = self.server.answer(url.path, dict(parse_qsl(url.query)), body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


def _ids(body: bytes) -> list[int]:
    return list(json.loads(body)["node_ids"])


def _json(content: Any) -> Answer:
    return 200, json.dumps(content).encode()


@contextmanager
def serve_roots(recordings: Recordings) -> Iterator[RootServer]:
    server = RootServer(recordings)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
