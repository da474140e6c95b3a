"""Contradictions between a data set's graph and its segmentation.

A graph is made from one scale of one segmentation. Features of another scale or segmentation would be wrong,
and nothing would show it. So a contradiction is an error, raised before any row is written. What the graph
does not describe is not compared.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ..config.datasets import Dataset
from ..core.errors import ConfigError
from ..core.geometry import Geometry
from ..graph.base import Graph, GraphInfo
from ..volume import Volume

FILE, WEB = "file", "http"
_SPELLINGS = (
    (re.compile(r"https?://storage\.(?:googleapis|cloud\.google)\.com/"), "gs://"),
    (re.compile(r"https?://([^/.]+)\.storage\.googleapis\.com(?=/|$)"), r"gs://\1"),
    (re.compile(r"https?://s3(?:[.-][\w-]+)?\.amazonaws\.com/"), "s3://"),
    (re.compile(r"https?://([^/]+?)\.s3(?:[.-][\w-]+)?\.amazonaws\.com(?=/|$)"), r"s3://\1"),
    (re.compile(r"https?://"), f"{WEB}://"),
)
"""Spellings of the URLs of buckets and web servers, each with its standard form."""


class Described(NamedTuple):
    """Name and description of a graph's table or server."""

    name: str
    info: GraphInfo


def check_agreement(dataset: Dataset, volume: Volume, graph: Graph, described: Sequence[Described]) -> None:
    """Raise ConfigError if segmentation and graph contradict each other; the message names both sides.

    Also raises ConfigError if the supervoxels are in an OCDBT fork. Raises GraphError or ConfigError if the
    graph cannot be read. ``described`` has the description of each table or server of the graph.
    """
    for name, info in described:
        if info.ocdbt:
            raise ConfigError(
                f"data set {dataset.name!r}: {name} keeps its supervoxels in an OCDBT fork, but forks are "
                f"not supported: the layer at {info.watershed} lacks the supervoxels created by splits"
            )
    graph.check()
    advice = ": leave out 'mip' and 'scale'" if dataset.mip is not None or dataset.scale else ""
    for name, info in described:
        if info.mip not in (None, volume.mip):
            raise ConfigError(
                f"data set {dataset.name!r}: mip {volume.mip} of {dataset.cv_path} is read, "
                f"but {name} was made from mip {info.mip}{advice}"
            )
    chunk_sizes = [("the data sets file", dataset.chunk_size)] if dataset.chunk_size else []
    _same(dataset, "chunk_size", chunk_sizes + [(name, info.chunk_size) for name, info in described])
    known = [(name, info.scales[volume.mip]) for name, info in described if volume.mip < len(info.scales)]
    _same(dataset, "bounds", [(dataset.cv_path, volume.bounds), *known])
    _same_watershed(dataset, described)


def check_geometry(dataset: Dataset, volume: Volume, geometry: Geometry) -> None:
    """Raise ConfigError if the bounds in a table's metadata differ from the open segmentation's bounds."""
    sides = [(f"table {dataset.l2cache_id}", geometry.bounds), (dataset.cv_path, volume.bounds)]
    _same(dataset, "bounds", sides)


def _same(dataset: Dataset, what: str, values: Sequence[tuple[str, Any]]) -> None:
    for (name, value), (other_name, other) in pairwise(values):
        if value != other:
            raise ConfigError(
                f"data set {dataset.name!r}: {what}: {name} has {_shown(value)}, "
                f"but {other_name} has {_shown(other)}"
            )


def _shown(value: Any) -> str:
    return str(list(value)) if type(value) is tuple else str(value)


def _same_watershed(dataset: Dataset, described: Sequence[Described]) -> None:
    """Raise ConfigError if the graph was made from another segmentation than the data set's.

    If the data set reads a copy of the segmentation, its key ``watershed`` has the path of the original.
    """
    read = described[0].info.watershed if described and dataset.served else dataset.cv_path
    known = [path for path in (read, dataset.watershed) if path]
    for name, info in described:
        named = info.watershed
        if named and known and all(differ(named, path) for path in known):
            raise ConfigError(
                f"data set {dataset.name!r} reads the segmentation {known[-1]}, but {name} was made from "
                f"{named}: if the first is a copy of the second, set 'watershed: {named}'"
            )


def differ(path: str, other: str) -> bool:
    """Return whether two paths certainly lead to different layers.

    Returns False for paths in different kinds of storage, such as a bucket and a folder. Also returns False
    for two folders, unless both exist on this machine.

    >>> differ("gs://bucket/ws/", "precomputed://https://storage.googleapis.com/bucket/ws")
    False
    >>> differ("gs://bucket/ws", "gs://bucket/ws2")
    True
    """
    (kind, place), (other_kind, other_place) = _place(path), _place(other)
    if kind != other_kind:
        return False
    if kind == FILE:
        here = [Path(p) for p in (place, other_place)]
        return all(p.is_dir() for p in here) and not here[0].samefile(here[1])
    return place != other_place


def _place(path: str) -> tuple[str, str]:
    """Return the kind of storage that a layer's path names, and the layer's path in that storage."""
    plain = path.strip().split("|", 1)[0].removeprefix("precomputed://")
    for spelling, standard in _SPELLINGS:
        plain = spelling.sub(standard, plain, count=1) if spelling.match(plain) else plain
    scheme, found, rest = plain.partition("://")
    if not found:
        return FILE, plain
    parts = [part for part in rest.split("/") if part not in {"", "."}]
    return scheme.lower(), ("/" if scheme == FILE else "") + "/".join(parts)
