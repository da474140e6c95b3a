"""A graph server in threads of this process, over synthetic graphs in a Bigtable emulator.

It serves what `FailingGraphServer.put` stores, and answers 500 to everything while ``failing`` is set.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from werkzeug.exceptions import InternalServerError

from ..core.geometry import Geometry
from ..local.sample.graph_cells import graph_meta
from ..local.sample.graph_table import SampleTable
from .pcg_server import INSTANCE, PcgServer, served_at
from .synthetic import Cell


class FailingGraphServer(PcgServer):
    """A graph server that answers 500 while ``failing`` is set; ``failures`` counts these responses."""

    def __init__(self) -> None:
        super().__init__({})
        self.failing = threading.Event()
        self.failures = 0
        self.tables: dict[str, SampleTable] = {}
        threading.Thread(target=self.serve, name="graph server", daemon=True).start()

    def add(self, table: str, geometry: Geometry, watershed: str, layers: int) -> str:
        """Serve a graph over the segmentation at ``watershed``; return its path for cloud-volume."""
        self.tables[table] = SampleTable(f"bigtable://{INSTANCE}/{INSTANCE}/{table}")
        self.tables[table].create()
        self.tables[table].set(b"meta", b"meta", graph_meta(geometry, table, layers, watershed))
        self.graphs[table] = served_at(table, watershed)
        return self.url(table)

    def put(self, table: str, cells: Iterable[Cell]) -> None:
        """Add cells to a graph's table."""
        self.tables[table].put(cells)

    def respond(self, environ: dict[str, Any], start_response: Any) -> Any:
        if self.failing.is_set():
            self.failures += 1
            return InternalServerError("told to fail")(environ, start_response)
        return super().respond(environ, start_response)

    def stop(self) -> None:
        super().stop()
        for table in self.tables.values():
            table.close()
