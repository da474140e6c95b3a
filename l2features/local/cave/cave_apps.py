"""CAVE's graph server and info service for graphs in Bigtable, each opened when it is first requested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Any

from ...config.datasets import Dataset
from .cave_graph import CaveGraph
from .graph_app import GraphApp
from .info_app import SERVER_PATH, InfoApp
from .pcg import NotFound, Pcg
from .served_info import served_info


def graph_tables(datasets: Iterable[Dataset]) -> dict[str, str]:
    """Map each data set whose graph is in Bigtable to the graph's URL."""
    return {d.name: d.graph for d in datasets if d.graph.startswith("bigtable://")}


class Graphs:
    """The graphs that are in Bigtable, by the names of their data sets; opened when first requested."""

    def __init__(self, datasets: Iterable[Dataset]) -> None:
        self.urls = graph_tables(datasets)
        self._open: dict[str, Pcg] = {}
        self._lock = Lock()

    def __getitem__(self, name: str) -> Pcg:
        """Return a data set's graph.

        Raises NotFound if the data set has no graph in Bigtable, GraphError if the graph cannot be read, and
        VolumeError if its segmentation cannot be read.
        """
        if name not in self.urls:
            raise NotFound(f"table {name!r} is not served; served tables: {', '.join(self.urls) or 'none'}")
        with self._lock:
            if name not in self._open:
                graph = CaveGraph(self.urls[name])
                self._open[name] = Pcg(graph, served_info(graph))
            return self._open[name]


def cave_apps(datasets: Iterable[Dataset]) -> Mapping[str, Any]:
    """Return the graph server and the info service as WSGI applications, by the URL path to mount them at."""
    graphs = Graphs(datasets)
    info = InfoApp(graphs.urls, graphs.__getitem__)
    return {SERVER_PATH: GraphApp(graphs.__getitem__), "/info": info}
