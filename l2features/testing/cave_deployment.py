"""A fake CAVE deployment: the services that clients use besides the L2 cache.

One address serves all, like the ingress of a deployment: requests for ``/l2cache/`` are forwarded to the
tested server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import requests

FOREVER = "2099-01-01T00:00:00.000000"


class CaveDeployment:
    """The services of one data stack, on a free port of loopback. Use `stop` at the end.

    ``neurons`` maps roots to the L2 ids that the graph server returns as their leaves.
    With neurons, the data stack's ``local_server`` is this deployment. Without neurons, it is ``l2cache``,
    the URL of the tested server.
    """

    def __init__(
        self,
        datastack: str,
        l2cache: str,
        cv_path: str,
        resolution: Sequence[int],
        neurons: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        self.datastack, self.l2cache, self.neurons = datastack, l2cache, dict(neurons or {})
        self.table = cv_path.rsplit("/", 1)[-1]
        self.asked: list[str] = []
        """Requested paths that exist."""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        x, y, z = resolution
        self.info = {
            "aligned_volume": {"name": "volume", "image_source": "precomputed://none", "id": 1},
            "segmentation_source": cv_path,
            "local_server": self.url if neurons else l2cache,
            "viewer_resolution_x": x,
            "viewer_resolution_y": y,
            "viewer_resolution_z": z,
            "synapse_table": "synapses",
            "soma_table": None,
        }
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str) -> Any:
        """Return a path's JSON; None if the path does not exist."""
        match path.strip("/").split("/"):
            case ["info", "api", "v2", "datastack", "full", self.datastack]:
                return self.info
            case ["materialize", "api", _, "datastack", self.datastack, "metadata"]:
                return [{"id": 1, "version": 1, "time_stamp": FOREVER, "expires_on": FOREVER}]
            case ["segmentation", "api", "v1", "table", self.table, "node", root, "leaves"]:
                return {"leaf_ids": list(self.neurons[int(root)])}
            case ["segmentation", "api", "v1", "table", self.table, "node", root, "lvl2_graph"]:
                nodes = self.neurons[int(root)]
                return {"edge_graph": list(pairwise(nodes))}
        return None

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _handler(deployment: CaveDeployment) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/l2cache/"):
                self._forward()
                return
            path = self.path.split("?")[0]
            value = deployment.answer(path)
            if value is not None:
                deployment.asked.append(path)
            self._send(404 if value is None else 200, json.dumps(value or {}).encode())

        do_POST = do_GET

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kept = {name: value for name, value in self.headers.items() if name != "Host"}
            answer = requests.request(
                self.command, deployment.l2cache + self.path, data=body, headers=kept, timeout=60
            )
            self._send(answer.status_code, answer.content)

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    return Handler
