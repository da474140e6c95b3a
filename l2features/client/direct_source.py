"""The client's source that reads a data set's table and graph, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from os import PathLike, fspath
from typing import Any

from ..config.datasets import load_dataset
from ..config.reach import check_bigtable
from ..core.errors import ConfigError, GraphUnavailable, StoreError
from ..core.extras import naming_extras
from ..core.geometry import Chunk, Geometry, Triple
from ..core.ids import Ids
from ..core.schema import NAMES, check_names
from ..neurons.neuron_reader import NeuronReader
from ..neurons.root_answers import root_table
from ..query.answers import arrow_table
from ..query.box_lookup import FoundNodes, RegionReader, VoxelBox
from ..query.cache import RowCache
from ..query.provenance import provenance
from ..query.reader import Answer, Reader
from ..store.base import open_store
from ..versions.catalog import Catalog
from ..versions.lookup import VersionReader
from ..versions.places import versions_folder
from ..versions.sql import Files
from .client import Names
from .frozen import Columns, Kind, VersionSource
from .result_tables import graph_tables, stamped, version_table

CACHED_ROWS = 100_000
MOST_NODES = 10_000_000
"""Maximum number of nodes of a chunk or box, and of rows of a version, that one call returns."""
MOST_GROUPS = 20_000
"""Maximum number of row groups of a version that one call reads."""


class DirectSource:
    """A `ClientSource` for a data set in a data sets file: reads its table and graph, and writes nothing."""

    def __init__(self, file: str | PathLike[str], dataset: str) -> None:
        self.where = fspath(file)
        self._entry = load_dataset(dataset, file)
        self._opened = ExitStack()
        check_bigtable(self._entry.store)
        self._store = open_store(self._entry.store, self._entry.l2cache_id)
        self._opened.callback(self._store.close)
        self._reader = Reader(self._store, self._geometry(), RowCache(CACHED_ROWS))

    def close(self) -> None:
        self._opened.close()

    # ------------------------------------------------------------------ nodes
    def features(self, ids: Ids, names: Names) -> Any:
        return self._table(self._reader.read(ids, _checked(names), with_reasons=True), names)

    def wait(self, ids: Ids, names: Names, seconds: float) -> Any:
        wanted = _checked(names)
        answer = self._reader.read(ids, wanted, with_reasons=True)
        return self._table(self._reader.wait(answer, wanted, seconds, with_reasons=True), names)

    def chunk(self, chunk: Triple, names: Names, partial: bool) -> Any:
        place = Chunk(*chunk)
        self._reader.geometry.check_in_grid(place)
        return self._found(self._region.chunk(place, _checked(names)), names, partial)

    def nodes_in(self, box: VoxelBox, names: Names, partial: bool) -> Any:
        return self._found(self._region.box(box, _checked(names)), names, partial)

    # ------------------------------------------------------------------ roots
    def summaries(self, roots: Ids, with_graph: bool) -> Any:
        with naming_extras():
            found = self._neurons.summaries(roots, with_graph=with_graph)
        return self._stamped(root_table(found, self._neurons.histories_of(found)))

    def root_nodes(self, root: int, names: Names) -> Any:
        return self._table(self._neurons.nodes(root, _checked(names), with_reasons=True), names)

    def root_graph(self, root: int) -> tuple[Any, Any]:
        with naming_extras():
            nodes, edges = graph_tables(*self._neurons.edges(root))
        return self._stamped(nodes), self._stamped(edges)

    def skeleton(self, root: int, form: str, parameters: dict[str, Any]) -> bytes:
        with naming_extras():
            from ..neurons.skeleton_files import skeleton_file

            try:
                skeleton = self._neurons.skeleton(root, **parameters)
            except ValueError as error:
                raise ConfigError(str(error)) from error
        return skeleton_file(skeleton, form, self._provenance)

    # ------------------------------------------------------------------ versions
    def versions(self) -> Any:
        return version_table(self._catalog.list())

    def version(self, number: int | None) -> VersionSource:
        return _DirectVersion(self._catalog.reader(number))

    @cached_property
    def _catalog(self) -> Catalog:
        folder = versions_folder(self._entry, self._store)
        return Catalog(folder, most_rows=MOST_NODES, most_groups=MOST_GROUPS)

    # ------------------------------------------------------------------ opened on first use
    @cached_property
    def _neurons(self) -> NeuronReader:
        from ..graph.sources import open_graph

        url = self._entry.graph_url
        check_bigtable(url, GraphUnavailable)
        with naming_extras():
            graph = open_graph(url, lambda: self._store)
        self._opened.callback(graph.close)
        return NeuronReader(self._reader, graph)

    @cached_property
    def _provenance(self) -> dict[str, str]:
        return provenance(self._entry, self._store.meta())

    @property
    def _region(self) -> RegionReader:
        return RegionReader(self._store, self._entry, self._reader.geometry, MOST_NODES)

    def _geometry(self) -> Geometry:
        """Return the geometry stored in the table; if it has none, the segmentation's geometry."""
        if geometry := self._store.geometry():
            return geometry
        from ..ingest.compute import read_geometry

        return read_geometry(self._entry)

    # ------------------------------------------------------------------ tables
    def _found(self, found: FoundNodes, names: Names, partial: bool) -> Any:
        if found.count > MOST_NODES:
            raise ConfigError(
                f"found {found.count} nodes, expected {MOST_NODES} at most: pass a smaller box to nodes_in"
            )
        if found.problems and not partial:
            raise StoreError(f"{found.problem}: partial=True returns the nodes that exist")
        return self._table(found.answer, names)

    def _table(self, answer: Answer, names: Names) -> Any:
        wanted, geometry = _checked(names), self._reader.geometry
        return self._stamped(arrow_table(answer.rows, geometry, wanted, answer.status, answer.reasons))

    def _stamped(self, table: Any) -> Any:
        return stamped(table, self._provenance)


class _DirectVersion:
    """A `VersionSource` that reads the version's files itself."""

    def __init__(self, reader: VersionReader) -> None:
        self._reader, self.manifest = reader, reader.manifest

    def rows(self, kind: Kind, ids: Ids, columns: Columns) -> Any:
        find = {"nodes_of": self._reader.nodes_of, "nodes": self._reader.nodes, "roots": self._reader.roots}
        return find[kind](ids, columns).table

    def files(self) -> Files:
        return self._reader.files.folder


def _checked(names: Names) -> Sequence[str]:
    """Return the names, or all attribute names for None. Raises ConfigError for an unknown name."""
    check_names(names or ())
    return NAMES if names is None else names
