"""The graph server of `l2features.local.cave`, for tests. Its graphs are in a Bigtable emulator.

    python -m l2features.testing.pcg_server PORT LAYER_FOLDER graph_v2.json.gz watershed_v2.npz

serves a recorded graph. The graph is loaded into the emulator at $BIGTABLE_EMULATOR_HOST; without this
variable, the command starts an emulator. The graph's supervoxels are written as a precomputed layer to
LAYER_FOLDER/TABLE/ws. Each further pair of files is one more graph.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from werkzeug.exceptions import NotFound as NoSuchPath
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import WSGIRequestHandler, make_server

from ..local.cave.cave_graph import CaveGraph
from ..local.cave.graph_app import GraphApp
from ..local.cave.info_app import SERVER_PATH, InfoApp
from ..local.cave.pcg import NotFound, Pcg
from ..local.cave.served_info import served_info
from ..local.processes import ending_with_parent
from ..store.bigtable.calls import GRAPH_FAMILIES, create_table, open_table
from .emulators import Emulator

INSTANCE = "graph-server"
"""Project and instance of the tables."""
TIMEOUT_S = 60.0
ROWS = 500


class PcgServer:
    """Serves ``graphs``, by table name, on a port of loopback; port 0 means a free one."""

    def __init__(self, graphs: dict[str, Pcg], port: int = 0) -> None:
        self.graphs = graphs
        mounts: dict[str, Any] = {
            SERVER_PATH: GraphApp(self.graph),
            "/info": InfoApp(graphs, self.graph),
        }
        self.app = DispatcherMiddleware(NoSuchPath(), mounts)
        self._server = make_server("127.0.0.1", port, self.respond, threaded=True, request_handler=_Handler)
        self.port = self._server.port

    def graph(self, table: str) -> Pcg:
        """Return a graph. Raises NotFound."""
        if table not in self.graphs:
            raise NotFound(f"table {table!r} is not served")
        return self.graphs[table]

    def url(self, table: str) -> str:
        """Return a graph's path for cloud-volume."""
        return f"graphene://http://127.0.0.1:{self.port}{SERVER_PATH}/table/{table}"

    def respond(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Answer a request, as WSGI."""
        return self.app(environ, start_response)

    def serve(self) -> None:
        """Serve until `stop`."""
        self._server.serve_forever()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(WSGIRequestHandler):
    """Turns off Nagle's algorithm, which can delay the body of a response."""

    disable_nagle_algorithm = True

    def log(self, type: str, message: str, *args: Any) -> None:
        """Log nothing."""


class TiedEmulator(Emulator):
    """An emulator that exits when this process does."""

    preexec_fn = staticmethod(ending_with_parent(signal.SIGKILL))


def write_layer(watershed: Path, folder: Path) -> None:
    """Write the recorded supervoxels as a precomputed layer."""
    from cloudvolume import CloudVolume

    recorded = np.load(watershed)
    info: dict[str, Any] = json.loads(str(recorded["graphene_info"]))
    own = {key: info[key] for key in ("type", "data_type", "num_channels", "scales")}
    volume = CloudVolume(f"precomputed://file://{folder}", info=own, progress=False)
    volume.commit_info()
    volume[volume.bounds] = recorded["ws"][..., np.newaxis]


def load_recorded(dump: Path, watershed: Path, layers: Path) -> dict[str, Pcg]:
    """Load a recorded graph into the emulator; write its layer under ``layers``. Return {table: graph}."""
    from google.cloud.bigtable.data.mutations import RowMutationEntry, SetCell

    content = json.loads(gzip.decompress(dump.read_bytes()))
    name, decode = content["table"], base64.b64decode
    create_table(INSTANCE, INSTANCE, name, TIMEOUT_S, GRAPH_FAMILIES)
    table = open_table(INSTANCE, INSTANCE, name)
    entries = []
    for key, cells in content["rows"]:
        written = [SetCell(family, decode(q), decode(value), 1000 * ms) for family, q, value, ms in cells]
        entries.append(RowMutationEntry(decode(key), written))
    for first in range(0, len(entries), ROWS):
        table.bulk_mutate_rows(entries[first : first + ROWS])
    table.client.close()
    layer = layers / name / "ws"
    write_layer(watershed, layer)
    return {name: served_at(name, str(layer))}


def served_at(table: str, watershed: str) -> Pcg:
    """Return the graph in a table of the emulator, with the segmentation at the path ``watershed``."""
    graph = CaveGraph(f"bigtable://{INSTANCE}/{INSTANCE}/{table}")
    return Pcg(graph, served_info(graph, watershed))


def main(port: str, folder: str, *files: str) -> None:
    """Serve until the process is stopped. ``files`` are pairs: a graph's dump, and its watershed."""
    if Emulator.program.variable not in os.environ:
        os.environ[Emulator.program.variable] = TiedEmulator().host
    graphs: dict[str, Pcg] = {}
    for dump, watershed in zip(files[::2], files[1::2], strict=True):
        graphs |= load_recorded(Path(dump), Path(watershed), Path(folder))
    PcgServer(graphs, int(port)).serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
