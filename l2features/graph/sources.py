"""The registry of graph sources, by URL scheme."""

from __future__ import annotations

from ..core.errors import ConfigError
from .base import Graph, OpenTable
from .bigtable import BigtableGraph
from .flat import FlatGraph
from .graphene import GrapheneGraph

SOURCES: dict[str, type[Graph]] = {
    "flat": FlatGraph,
    "graphene": GrapheneGraph,
    "bigtable": BigtableGraph,
}
"""Classes of graphs by URL scheme. ``SOURCES["scheme"] = MyGraph`` registers a further class."""


def source_of(url: str) -> type[Graph]:
    """Return the class of the graph at a URL. Raises ConfigError for an unknown scheme."""
    source = SOURCES.get(url.partition("://")[0])
    if source is None:
        raise ConfigError(f"graph {url!r}: expected {expected_urls()}")
    return source


def is_graph_url(url: str) -> bool:
    """Return whether ``url`` is a valid value of a data set's key ``graph``."""
    source = SOURCES.get(url.partition("://")[0])
    return source is not None and source.pattern.fullmatch(url) is not None


def expected_urls() -> str:
    """Return the valid values of a data set's key ``graph``, as text for messages."""
    *others, last = (source.expected for source in SOURCES.values())
    return f"{', '.join(others)} or {last}"


def open_graph(url: str, open_table: OpenTable) -> Graph:
    """Open the graph at a URL.

    Raises ConfigError for an invalid URL, GraphError if the graph cannot be opened, and VolumeError if a
    graphene server cannot be opened.
    """
    return source_of(url)(url, open_table)
