"""The client: one interface over a server of features and over a table that is read directly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..core.errors import ConfigError, L2FeaturesError
from ..core.extras import naming_extras

if TYPE_CHECKING:
    from ..core.geometry import Triple
    from ..core.ids import Ids
    from ..query.box_lookup import VoxelBox
    from .frozen import Version, VersionSource

_SERVER = re.compile(r"https?://", re.I)
_NO_SCHEME = re.compile(r"[\w.-]+:\d+(/|$)")
SKELETON_FILES = {".swc": "swc", ".json": "json", ".arrow": "arrow"}
"""Formats of skeletons by the suffix of their file."""
Names = Sequence[str] | None
"""Names of attributes; None for all attributes."""


class L2Graph(NamedTuple):
    """The L2 graph of a root: ``nodes`` has the column ``id``; ``edges`` has ``id`` and ``other_id``."""

    nodes: Any
    edges: Any

    def to_networkx(self) -> Any:
        """Return an undirected NetworkX graph of L2 ids."""
        import networkx as nx  # type: ignore[import-untyped]

        graph = nx.Graph()
        graph.add_nodes_from(self.nodes["id"].to_pylist())
        graph.add_edges_from(zip(*(column.to_pylist() for column in self.edges.columns), strict=True))
        return graph


class ClientSource(Protocol):
    """A source from which a client reads a data set. Arrow tables have their provenance as metadata."""

    where: str

    def features(self, ids: Ids, names: Names) -> Any:
        """Return the features of ids: one row per id, in the order of the ids."""

    def wait(self, ids: Ids, names: Names, seconds: float) -> Any:
        """Wait at most ``seconds`` until missing nodes are computed; return the same table as `features`."""

    def chunk(self, chunk: Triple, names: Names, partial: bool) -> Any:
        """Return the features of a chunk's nodes, sorted by id."""

    def nodes_in(self, box: VoxelBox, names: Names, partial: bool) -> Any:
        """Return the features of the nodes whose representative coordinate lies in a box, sorted by id."""

    def summaries(self, roots: Ids, with_graph: bool) -> Any:
        """Return the summaries of roots: one row per root, in the order of the roots."""

    def root_nodes(self, root: int, names: Names) -> Any:
        """Return the features of a root's nodes, sorted by id."""

    def root_graph(self, root: int) -> tuple[Any, Any]:
        """Return a tuple of tables: the nodes of a root; the edges between them."""

    def skeleton(self, root: int, form: str, parameters: dict[str, Any]) -> bytes:
        """Return the skeleton of a root: the bytes of a file in the format ``form``."""

    def versions(self) -> Any:
        """Return the versions of the data set: one row per version, oldest first."""

    def version(self, number: int | None) -> VersionSource:
        """Return the source of a version; None means the newest."""

    def close(self) -> None:
        """Close connections."""


class Client:
    """Reads the features of L2 nodes and neurons of one data set.

    Results are pyarrow tables, in nm: ``.to_pandas()`` makes a DataFrame. Their metadata name the data set,
    its segmentation, the timestamp of the ingest and the software version.

        client = Client("https://l2cache.example.org", "minnie65")
        client.neuron(864691136040432126).summary.to_pandas()

    Args:
        where: a server's URL, or the path of a data sets file (see README.md) to read without a server.
            Such reads need the extra ``bigtable`` for Bigtable, and ``skeletons`` for skeletons.
        dataset: the name of the data set.
        token: a token for the server; by default, the one in caveclient's secret files.
        timeout_s: seconds to wait for a server's response.

    Raises ConfigError for a malformed file or name, and if an extra is missing. All methods raise subclasses
    of `L2FeaturesError`: `ServiceError` for a server, `StoreError` for a table, `GraphError` for a graph.
    """

    def __init__(
        self,
        where: str | PathLike[str],
        dataset: str,
        token: str | None = None,
        *,
        timeout_s: float = 120.0,
    ) -> None:
        self.dataset = dataset
        if isinstance(where, str) and _SERVER.match(where):
            from .http_source import HttpSource

            self._source: ClientSource = HttpSource(where, dataset, token, timeout_s)
            return
        if token is not None:
            raise ConfigError(
                f"got a token, but {where} is not a server's URL: expected https://host or no token"
            )
        if isinstance(where, str) and _NO_SCHEME.match(where):
            raise ConfigError(
                f"{where!r}: expected a data sets file, or a server's URL such as http://{where}"
            )
        from .direct_source import DirectSource

        with naming_extras():
            self._source = DirectSource(where, dataset)

    def __repr__(self) -> str:
        return f"Client({self._source.where!r}, {self.dataset!r})"

    def features(self, ids: Any, attributes: Names = None) -> Any:
        """Return the features of L2 nodes: one row per id, in the order of the ids.

        A node without features has nulls. The column ``status`` has one of ``ready``, ``missing``,
        ``failed``, ``empty`` and ``not_l2``. The column ``reason`` explains the status, if known.

        Args:
            ids: L2 ids: a sequence, an array, or a column of a table.
            attributes: names of attributes, by default all.
        """
        return self._source.features(node_ids(ids), attribute_names(attributes))

    def wait(self, ids: Any, seconds: float = 60.0, attributes: Names = None) -> Any:
        """Wait at most ``seconds`` until missing nodes are computed; return the same table as `features`."""
        return self._source.wait(node_ids(ids), attribute_names(attributes), seconds)

    def chunk(self, x: int, y: int, z: int, attributes: Names = None, *, partial: bool = False) -> Any:
        """Return the features of a chunk's nodes, including nodes that edits have superseded.

        Raises an error for a chunk that failed or is not ingested. With ``partial``, returns the computed
        nodes of such a chunk.
        """
        try:
            chunk = index(x), index(y), index(z)
        except TypeError as error:
            raise ConfigError(f"chunk {x!r}, {y!r}, {z!r}: expected three integers") from error
        return self._source.chunk(chunk, attribute_names(attributes), partial)

    def nodes_in(self, bounds: Any, attributes: Names = None, *, partial: bool = False) -> Any:
        """Return the features of the nodes whose representative coordinate lies in bounds.

        Args:
            bounds: in voxels at the data set's resolution: ``"x0-x1_y0-y1_z0-z1"`` as in PyChunkedGraph, or
                an array [[x0, x1], [y0, y1], [z0, z1]] as in caveclient.
            attributes: names of attributes, by default all.
            partial: return the computed nodes even if a chunk in bounds failed or is not ingested. By
                default, such a chunk raises an error.
        """
        return self._source.nodes_in(voxel_box(bounds), attribute_names(attributes), partial)

    def neuron(self, root_id: int, *, graph: bool = False) -> Neuron:
        """Return a neuron, read lazily; ``graph`` adds the measures of the L2 graph to its summary."""
        (root,) = node_ids([root_id]).tolist()
        return Neuron(root, graph, self._source)

    def neurons(self, root_ids: Any, *, graph: bool = False) -> Any:
        """Return the summaries of roots: one row per root, in the order of ``root_ids``.

        ``status`` is ``ready``, ``incomplete`` (sums lack the features of ``n_missing`` nodes), ``unknown``,
        ``not_a_root`` or ``too_large``; the last three have no summary. ``retired_at`` and ``successors`` are
        set if an edit has retired the root.

        Args:
            root_ids: root ids; for a data set without a graph, segments.
            graph: add measures of the L2 graphs, such as the cable length.
        """
        return self._source.summaries(node_ids(root_ids), graph)

    def versions(self) -> Any:
        """Return one row per version, oldest first.

        The column ``base`` is the number of an older version, or null. A version with a base stores only the
        changes since its base.
        """
        return self._source.versions()

    def version(self, number: int | None = None) -> Version:
        """Return a version (the data set frozen at one time) by its number; by default, the newest.

        client.version(7).roots([864691136040432126]).to_pandas()
        """
        from .frozen import Version

        if number is not None and (type(number) is not int or number < 1):
            raise ConfigError(f"version {number!r}: expected a number from 1 on, or none for the newest")
        return Version(self._source.version(number))

    def close(self) -> None:
        """Close connections."""
        self._source.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Neuron:
    """A neuron of a data set, read lazily. All reads raise `RootError` for an unknown or too large root."""

    root_id: int
    _graph: bool
    _source: ClientSource

    def __repr__(self) -> str:
        return f"Neuron({self.root_id})"

    @cached_property
    def summary(self) -> Any:
        """The root's summary: a table of one row, as from `Client.neurons`. It is read once and cached.

        ``n_missing`` counts the nodes that have no features yet.
        """
        from ..neurons.root_summaries import SUMMARIZED, UNKNOWN, RootError, RootStatus

        table = self._source.summaries(node_ids([self.root_id]), self._graph)
        (row,) = table.select(["status", "reason", "n_nodes"]).to_pylist()
        status = RootStatus[row["status"].upper()]
        if status not in SUMMARIZED:
            raise RootError(self.root_id, status, row["reason"] or UNKNOWN, row["n_nodes"] or 0)
        return table

    def nodes(self, attributes: Names = None) -> Any:
        """Return the features of the root's L2 nodes, sorted by id; see `Client.features`."""
        return self._source.root_nodes(self.root_id, attribute_names(attributes))

    def graph(self) -> L2Graph:
        """Return the root's L2 graph."""
        return L2Graph(*self._source.root_graph(self.root_id))

    def skeleton(
        self,
        *,
        invalidation_nm: float = 7500.0,
        root_point: Sequence[float] | None = None,
        collapse_nm: float | None = None,
        join: bool = False,
    ) -> Any:
        """Return the root's skeleton: a row per vertex, with its parent, position, radii and L2 id.

        Args:
            invalidation_nm: a path of the skeleton represents all nodes within this distance of the path,
                measured along the graph.
            root_point: (3,) position in nm; the vertex nearest to it becomes the skeleton's root.
            collapse_nm: radius of a sphere around ``root_point``, such as a soma's. Edges with an end in the
                sphere are followed from the vertex nearest to ``root_point``. This vertex and all vertices
                reached become one vertex at ``root_point``.
            join: join components at their nearest vertices.
        """
        import pyarrow as pa

        given = _parameters(invalidation_nm, root_point, collapse_nm, join)
        return pa.ipc.open_stream(self._source.skeleton(self.root_id, "arrow", given)).read_all()

    def save_skeleton(
        self,
        path: str | PathLike[str],
        *,
        invalidation_nm: float = 7500.0,
        root_point: Sequence[float] | None = None,
        collapse_nm: float | None = None,
        join: bool = False,
    ) -> None:
        """Write the root's skeleton to a file, ``.swc``, ``.json`` or ``.arrow``, in nm; see `skeleton`."""
        file = Path(path)
        if file.suffix not in SKELETON_FILES:
            raise ConfigError(
                f"skeleton file {path}: expected one of the suffixes {', '.join(SKELETON_FILES)}"
            )
        if not file.parent.is_dir():
            raise ConfigError(f"skeleton file {path}: folder does not exist")
        given = _parameters(invalidation_nm, root_point, collapse_nm, join)
        content = self._source.skeleton(self.root_id, SKELETON_FILES[file.suffix], given)
        try:
            file.write_bytes(content)
        except OSError as error:
            raise L2FeaturesError(f"cannot write {path}: {error.strerror or error}") from error


def _parameters(
    invalidation_nm: float, root_point: Sequence[float] | None, collapse_nm: float | None, join: bool
) -> dict[str, Any]:
    try:
        point = None if root_point is None else [float(value) for value in root_point]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"root_point {root_point!r}: expected x, y and z in nm") from error
    return {
        "invalidation_nm": invalidation_nm,
        "root_point": point,
        "collapse_nm": collapse_nm,
        "join": join,
    }


def attribute_names(names: Names) -> Names:
    """Return the names unchanged. Raises ConfigError for a single string."""
    if isinstance(names, str):
        raise ConfigError(f"attributes {names!r}: expected a list of names, such as [{names!r}]")
    return names


def node_ids(values: Any) -> Ids:
    """Return ids as a flat uint64 array. Raises ConfigError for anything but integers from 0 to 2^64 - 1."""
    import numpy as np

    from ..core.ids import as_ids

    if isinstance(values, int):
        values = [values]
    try:
        return as_ids(np.asarray(values) if hasattr(values, "__array__") else values).ravel()
    except ValueError as error:
        raise ConfigError(str(error)) from error


def voxel_box(bounds: Any) -> VoxelBox:
    """Return bounds as a box of voxels. Raises ConfigError for malformed or empty bounds."""
    import numpy as np

    from ..query.box_lookup import VoxelBox

    try:
        if not isinstance(bounds, str):
            array = np.asarray(bounds)
            if array.shape != (3, 2) or array.dtype.kind not in "iu":
                raise ValueError(
                    f"{bounds!r}: expected integers [[x0, x1], [y0, y1], [z0, z1]] or 'x0-x1_y0-y1_z0-z1'"
                )
            bounds = "_".join(f"{low}-{high}" for low, high in array.tolist())
        return VoxelBox.parse(bounds)
    except ValueError as error:
        raise ConfigError(f"bounds {error}") from error
