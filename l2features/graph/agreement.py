"""What a graph says of its segmentation against the segmentation itself, compared when that is opened.

A graph's ids belong to the voxels of one scale of one layer. Features of other voxels would be wrong without
any other sign, so a contradiction is an error before a row is written. What is unknown is not compared.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.errors import ConfigError
from ..core.geometry import Geometry
from ..core.graphene_path import SCHEME as GRAPHENE
from .info import Bounds, GraphInfo, read_graph_info
from .server import check_api, graph_of
from .table import SCHEME as BIGTABLE

if TYPE_CHECKING:
    from ..config.datasets import Dataset
    from ..volume import Volume

FILE, WEB = "file", "http"
_SPELLINGS = (
    (re.compile(r"https?://storage\.(?:googleapis|cloud\.google)\.com/"), "gs://"),
    (re.compile(r"https?://([^/.]+)\.storage\.googleapis\.com(?=/|$)"), r"gs://\1"),
    (re.compile(r"https?://s3(?:[.-][\w-]+)?\.amazonaws\.com/"), "s3://"),
    (re.compile(r"https?://([^/]+?)\.s3(?:[.-][\w-]+)?\.amazonaws\.com(?=/|$)"), r"s3://\1"),
    (re.compile(r"https?://"), f"{WEB}://"),
)
"""Other spellings of a bucket, and of a web server."""


class Source(NamedTuple):
    """A graph's table or server, by name, and what it says."""

    name: str
    info: GraphInfo


def graph_table(dataset: Dataset) -> GraphInfo | None:
    """Return what the table of a data set's graph says, where it is named. Raises GraphError."""
    return read_graph_info(dataset.graph) if dataset.graph.startswith(BIGTABLE) else None


def match_graph(dataset: Dataset, volume: Volume, table: GraphInfo | None) -> None:
    """Compare an open segmentation with its graph; ``table`` is what `graph_table` returned.

    Raises ConfigError that names both sides of a contradiction.
    """
    sources = _sources(dataset, volume, table)
    for source in sources:
        _refuse_ocdbt(dataset, source)
    if dataset.graph == "graphene":
        check_api(volume.cv, dataset.cv_path)
    for source in sources:
        if source.info.mip not in (None, volume.mip):
            raise ConfigError(
                f"data set {dataset.name!r}: mip {volume.mip} of {dataset.cv_path} is read, "
                f"but {source.name} was made of mip {source.info.mip}"
            )
    chunk_sizes = [("the data sets file", dataset.chunk_size)] if dataset.chunk_size else []
    if sources:
        _same(dataset, "chunk_size", chunk_sizes + [(s.name, s.info.chunk_size) for s in sources])
    own = volume.info()
    bounds = [(dataset.cv_path, Bounds(own.resolution, own.voxel_offset, own.voxel_size))]
    named = [(s.name, s.info.scales[volume.mip]) for s in sources if volume.mip < len(s.info.scales)]
    _same(dataset, "bounds", bounds + named)
    _same_watershed(dataset, sources)


def check_geometry(dataset: Dataset, volume: Volume, geometry: Geometry) -> None:
    """Raise ConfigError where a table's geometry is not that of the segmentation which is open."""
    own = volume.info()
    table = Bounds(geometry.resolution, geometry.voxel_offset, geometry.voxel_size)
    segmentation = Bounds(own.resolution, own.voxel_offset, own.voxel_size)
    _same(dataset, "bounds", [(f"table {dataset.l2cache_id}", table), (dataset.cv_path, segmentation)])


def _sources(dataset: Dataset, volume: Volume, table: GraphInfo | None) -> list[Source]:
    sources = []
    if dataset.cv_path.startswith(GRAPHENE):
        sources.append(Source(dataset.cv_path, graph_of(volume.cv, dataset.cv_path)))
    if table is not None:
        sources.append(Source(dataset.graph, table))
    return sources


def _refuse_ocdbt(dataset: Dataset, source: Source) -> None:
    if source.info.ocdbt:
        raise ConfigError(
            f"data set {dataset.name!r}: {source.name} keeps its supervoxels in an OCDBT fork, which is not "
            f"supported: the layer at {source.info.watershed} lacks the supervoxels that were split"
        )


def _same(dataset: Dataset, what: str, values: Sequence[tuple[str, Any]]) -> None:
    """Raise ConfigError where two of the values differ."""
    for (name, value), (other_name, other) in pairwise(values):
        if value != other:
            raise ConfigError(
                f"data set {dataset.name!r}: {what}: {name} has {_shown(value)}, "
                f"but {other_name} has {_shown(other)}"
            )


def _shown(value: Any) -> str:
    return str(list(value)) if type(value) is tuple else str(value)


def _same_watershed(dataset: Dataset, sources: Sequence[Source]) -> None:
    """Raise ConfigError where a graph was made of the layer at another path than is read.

    A data set whose layer is a copy says with ``watershed`` which path its graph names.
    """
    served = dataset.cv_path.startswith(GRAPHENE)
    read = sources[0].info.watershed if served else dataset.cv_path
    known = [path for path in (read, dataset.watershed) if path]
    for source in sources:
        named = source.info.watershed
        if named and known and all(differ(named, path) for path in known):
            raise ConfigError(
                f"data set {dataset.name!r}: {known[-1]} is read, but {source.name} was made of {named}: "
                f"if the one is a copy of the other, add 'watershed: {named}'"
            )


def differ(path: str, other: str) -> bool:
    """Return whether two paths of layers are surely not the same place.

    Paths in different kinds of storage are not compared, and files only where both folders exist here: others
    may be those of another machine.

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
    """Kind of storage of a layer, and its place there."""
    plain = path.strip().split("|", 1)[0].removeprefix("precomputed://")
    for spelling, standard in _SPELLINGS:
        plain = spelling.sub(standard, plain, count=1) if spelling.match(plain) else plain
    scheme, found, rest = plain.partition("://")
    if not found:
        return FILE, plain
    parts = [part for part in rest.split("/") if part not in {"", "."}]
    return scheme.lower(), ("/" if scheme == FILE else "") + "/".join(parts)
