"""A small server of proofread graphs, asked as PyChunkedGraph is, in threads of this process.

It serves what `FailingGraphServer.put` stores, and answers 500 to everything while ``failing`` is set.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from ..core.geometry import Geometry
from ..core.ids import L2
from .graph_server import GraphServer, ServedGraph
from .synthetic import Cell


class FailingGraphServer(GraphServer):
    """The running server; ``failing`` is set while it answers 500, and ``failures`` counts such answers."""

    def __init__(self) -> None:
        super().__init__({})
        self.failing = threading.Event()
        self.failures = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, name="graph server", daemon=True).start()

    def add(self, table: str, geometry: Geometry, watershed: str, layers: int) -> str:
        """Serve a graph over the segmentation at ``watershed``; yields its path for cloud-volume."""
        self.graphs[table] = ServedGraph(graph_info(geometry, watershed, layers))
        return f"graphene://http://127.0.0.1:{self.server_port}/segmentation/table/{table}"

    def put(self, table: str, cells: Iterable[Cell]) -> None:
        """Set the content of the graph's table."""
        with self.lock:
            for cell in cells:
                self.graphs[table].put(cell)

    def answer(self, path: str, arguments: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        with self.lock:
            if self.failing.is_set():
                self.failures += 1
                return 500, b'{"code":500,"message":"told to fail"}'
            return super().answer(path, arguments, body)

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


def graph_info(geometry: Geometry, watershed: str, layers: int) -> dict[str, Any]:
    """Return the info of a graph over a precomputed segmentation of raw files, one per chunk."""
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
        "bounding_box": [n * (1 << geometry.layout.axis_bits(L2)[0]) for n in geometry.chunk_size],
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
