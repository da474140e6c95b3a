"""The graph protocol: the L2 nodes of supervoxels, the supervoxels of L2 nodes, and the nodes of a chunk."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.chunks import ChunkBox
from ..core.errors import GraphError
from ..core.geometry import Bounds, Chunk, Geometry, Triple
from ..core.ids import L2, IdLayout, Ids, as_ids, sorted_unique
from ..core.rows import Rows
from ..store.base import Store

SUPERVOXEL = 1
"""Layer of supervoxels."""
OpenTable = Callable[[], Store]
Pairs = npt.NDArray[np.uint64]
"""Edges (n, 2), sorted and unique; in each edge, the smaller id comes first."""


@dataclass(frozen=True)
class GraphInfo:
    """A graph's chunks and ids, and the segmentation from which the graph was made.

    Attributes:
        chunk_size: size of a chunk in voxels.
        layout: bit fields of the ids.
        mip: index of the scale from which the graph was made; None if unknown.
        watershed: path of the segmentation; None if unknown.
        scales: bounds of all scales that the graph lists.
        ocdbt: whether the supervoxels are in an OCDBT fork of the segmentation.
        layer: info of the segmentation, as the graph's server returns it; None for a graph without a server.
        n_layers: layer of the roots; if None, the grid and ``fan_out`` determine it.
        fan_out: number of chunks along each axis that one chunk of the next layer covers.
    """

    chunk_size: Triple
    layout: IdLayout
    mip: int | None = None
    watershed: str | None = None
    scales: tuple[Bounds, ...] = ()
    ocdbt: bool = False
    layer: Mapping[str, Any] | None = field(default=None, compare=False)
    n_layers: int | None = None
    fan_out: int = 2


@dataclass
class Children:
    """Supervoxels by L2 id, and error messages by L2 id. An id in neither is unknown to the graph."""

    supervoxels: dict[int, Ids] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)


@dataclass
class RootNodes:
    """L2 ids by root. A root in none of the three fields is unknown to the graph.

    ``l2_ids`` maps roots to sorted, unique ids. ``too_large`` maps roots with more L2 nodes than the limit to
    the number of their L2 nodes, or to a lower bound of it. ``errors`` maps malformed roots to an error
    message.
    """

    l2_ids: dict[int, Ids] = field(default_factory=dict)
    too_large: dict[int, int] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)


class MalformedEdges(GraphError):
    """The edges of some roots are malformed; ``roots`` maps each of these roots to an error message."""

    def __init__(self, roots: Mapping[int, str]) -> None:
        super().__init__("; ".join(list(roots.values())[:3]))
        self.roots = roots


class RootHistory(NamedTuple):
    """When a root was made and retired (UTC, precise to 1 ms), and its successors and predecessors."""

    created: datetime
    retired: datetime | None = None
    successors: tuple[int, ...] = ()
    predecessors: tuple[int, ...] = ()


class NodeRoots(NamedTuple):
    """L2 nodes and their roots: parallel arrays, sorted by node."""

    l2_ids: Ids
    roots: Ids


class ChangedRoots(NamedTuple):
    """Roots that were retired between two times, and roots that were made between them; both sorted."""

    retired: Ids
    made: Ids


class Graph(ABC):
    """One graph, at a URL.

    All methods raise GraphError, or GraphUnavailable for a transient error. `sources.SOURCES` lists the
    implementations by URL scheme. The constructor's argument ``open_table`` is a function that opens the
    data set's table. Only `FlatGraph`, the stand-in for a missing graph, calls it.
    """

    pattern: ClassVar[re.Pattern[str]]
    """Pattern of valid values of a data set's key ``graph``."""
    expected: ClassVar[str]
    """Valid values of the key ``graph``, as text for error messages."""
    permanent: ClassVar[bool] = True
    """Whether the L2 nodes of a root never change."""
    edges_need_rows: ClassVar[bool] = True
    """Whether `root_edges` uses the nodes' rows, and so is called after these have been read."""
    expected_root: ClassVar[str] = "an id of the layer of its roots"
    """Description of a valid root, for error messages."""
    deadline_s: float = 60.0
    """Time limit in seconds of a call about roots. If a call reads in steps, the limit is for each step."""

    def __init__(self, url: str, open_table: OpenTable) -> None:
        self.url = url

    @classmethod
    def name_of(cls, url: str) -> str:
        """Return the name of the graph at a URL, as recorded in the meta of a table of features."""
        return url.rsplit("/", 1)[-1]

    @classmethod
    def readable_time(cls, time: datetime) -> datetime:
        """Return ``time``, rounded up to the precision with which the graph accepts times."""
        return time

    @abstractmethod
    def info(self) -> GraphInfo | None:
        """Return the graph's description; None if the graph has none."""

    @abstractmethod
    def l2_ids(self, geometry: Geometry, chunk: Chunk, supervoxels: Ids, time: datetime) -> Ids:
        """Return the L2 id of each of a chunk's supervoxels at ``time``, shape (n,); 0 for none."""

    @abstractmethod
    def children(self, geometry: Geometry, chunk: Chunk, ids: Ids) -> Children:
        """Return the supervoxels of a chunk's L2 nodes.

        A node's supervoxels never change, even after the node is superseded.
        """

    @abstractmethod
    def nodes(self, geometry: Geometry, chunk: Chunk, time: datetime | None = None) -> Ids:
        """Return a chunk's L2 nodes that are valid at ``time``, sorted; without a time, all nodes ever made.

        A node is valid at ``time`` if it is then the newest parent of one of its supervoxels.
        """

    @abstractmethod
    def is_root(self, geometry: Geometry, ids: Ids) -> npt.NDArray[np.bool_]:
        """Return whether each id is in the layer of the roots, shape (n,), even if no such root exists."""

    @abstractmethod
    def root_nodes(self, geometry: Geometry, roots: Ids, most: int) -> RootNodes:
        """Return the L2 nodes of roots; for one with more than ``most``, only their number or a lower bound.

        The nodes of a root never change. Ids that are not roots are treated as unknown. Memory grows with the
        total number of nodes.
        """

    @abstractmethod
    def root_edges(
        self, geometry: Geometry, nodes: Mapping[int, Ids], rows: Rows | None = None
    ) -> dict[int, Pairs]:
        """Return the edges between the L2 nodes of each root; ``nodes`` maps each root to its L2 ids.

        The edges of a root never change. A caller that has read the rows of all L2 nodes passes them as
        ``rows``, root by root in the order of ``nodes``. Raises MalformedEdges if some edges are malformed.
        """

    @abstractmethod
    def roots_of(self, geometry: Geometry, l2_ids: Ids, time: datetime) -> Ids:
        """Return the root of each L2 node at ``time``, shape (n,); 0 for a node without a valid root."""

    @abstractmethod
    def histories(self, geometry: Geometry, roots: Ids) -> dict[int, RootHistory]:
        """Return the history of each root, by root; unknown roots are left out."""

    def valid_nodes(self, geometry: Geometry, box: ChunkBox, time: datetime) -> NodeRoots:
        """Return the L2 nodes in a box of chunks that are valid at ``time``, with their roots.

        A node is valid if it exists at ``time`` and its root is not retired. The box may have any size and
        extend beyond the grid; memory grows with the number of nodes in the box.
        """
        chunks = (chunk for chunk in box.in_order() if geometry.in_grid([chunk])[0])
        nodes = [self.nodes(geometry, chunk, time) for chunk in chunks]
        ids = sorted_unique(np.concatenate([as_ids([]), *nodes]))
        roots = self.roots_of(geometry, ids, time)
        return NodeRoots(ids[roots != 0], roots[roots != 0])

    def changed_roots(self, geometry: Geometry, since: datetime, until: datetime) -> ChangedRoots:
        """Return the roots that changed from ``since`` (excluded) to ``until`` (included).

        Retired roots are valid at ``since`` but not at ``until``; made roots are valid at ``until`` but not
        at ``since``. A root that was made and retired in between is left out. ``since`` must be later than
        the graph's ingest, because no log records the roots that the ingest made. Raises GraphError if the
        graph has no history.
        """
        raise GraphError(f"graph {self.url} has no history of roots: make a version without a base version")

    def check(self) -> None:
        """Raise GraphError or ConfigError if the graph cannot be read."""
        self.info()

    @abstractmethod
    def close(self) -> None:
        """Close connections."""


class Mapped(NamedTuple):
    """Result of `map_supervoxels`.

    Attributes:
        l2_ids: L2 id of each supervoxel, shape (n,); 0 if it has none or an invalid one.
        orphans: number of supervoxels without a parent.
        errors: a message for each supervoxel with an invalid L2 id.
    """

    l2_ids: Ids
    orphans: int
    errors: tuple[str, ...]


def map_supervoxels(
    graph: Graph, geometry: Geometry, chunk: Chunk, supervoxels: Ids, time: datetime
) -> Mapped:
    """Return the L2 ids of a chunk's supervoxels, after checking that these ids are L2 nodes of this chunk.

    An invalid id is replaced by 0 and reported in ``errors``. A supervoxel that is its own parent counts as
    one without a parent.
    """
    l2_ids = graph.l2_ids(geometry, chunk, supervoxels, time)
    orphan = (l2_ids == 0) | (l2_ids == supervoxels)
    bad_layer = ~orphan & (geometry.layout.layers(l2_ids) != L2)
    elsewhere = ~orphan & ~bad_layer
    elsewhere[elsewhere] = geometry.layout.chunk_ids(l2_ids[elsewhere]) != np.uint64(geometry.chunk_id(chunk))
    wrong = bad_layer | elsewhere
    errors = tuple(
        f"supervoxel {supervoxel}: parent {parent} is "
        + ("not of layer 2" if of_other_layer else f"not in chunk {chunk}")
        for supervoxel, parent, of_other_layer in zip(
            supervoxels[wrong], l2_ids[wrong], bad_layer[wrong], strict=True
        )
    )
    return Mapped(np.where(orphan | wrong, np.uint64(0), l2_ids), int(orphan.sum()), errors)


def check_children(geometry: Geometry, chunk: Chunk, children: Children) -> Children:
    """Return the children; a node with a child that is no supervoxel of the chunk gets an error instead."""
    checked = Children(errors=children.errors)
    shift = np.uint64(geometry.layout.segment_bits(SUPERVOXEL))
    ours = np.uint64(geometry.layout.chunk_id(*chunk, layer=SUPERVOXEL)) >> shift
    for node, supervoxels in children.supervoxels.items():
        unexpected = supervoxels[(supervoxels >> shift) != ours]
        if not len(unexpected):
            checked.supervoxels[node] = supervoxels
            continue
        of_layer = geometry.layout.layers(unexpected[:1])[0] == SUPERVOXEL
        what = f"not in chunk {chunk}" if of_layer else "not a supervoxel"
        checked.errors[node] = f"node {node}: child {unexpected[0]} is {what}"
    return checked


def check_nodes(geometry: Geometry, chunk: Chunk, ids: Ids) -> Ids:
    """Return the ids unchanged. Raises GraphError if an id is not an L2 node of the chunk."""
    first = geometry.chunk_id(chunk)
    unexpected = ids[(ids <= np.uint64(first)) | (ids > np.uint64(geometry.layout.last_id(first)))]
    if len(unexpected):
        raise GraphError(
            f"chunk {chunk}: the graph lists id {unexpected[0]}: expected an L2 node of this chunk"
        )
    return ids
