"""Merge or split objects of a sample's graph, and publish the edit.

The operation id is the seed of the random choice of objects, so each edit differs. As in PyChunkedGraph, an
edit replaces the merged or split nodes and all nodes above them; the objects' other nodes stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from ...config.datasets import Dataset
from ...core.errors import GraphError
from ...core.geometry import Chunk, Geometry
from ...core.ids import Ids, as_ids
from ...graph.bigtable import BigtableGraph, parse_graph_url
from ...ingest.compute import read_geometry
from ...pubsub.topic import PublishError, Topic
from .graph_cells import (
    CHILDREN,
    LAYER_SHIFT,
    Edit,
    OperationStatus,
    cross_edge_cells,
    fake_edge_cell,
    n_layers,
    node_cells,
    root_cells,
)
from .graph_table import OPERATIONS, SampleTable, open_sample_table
from .hierarchy import cross_layers, nodes_of, parents_above
from .objects import Objects, parts_of
from .topics import EDITS, TopicError, check_topic, topic_path

MERGE, SPLIT = "merge", "split"


class SampleEditor:
    """Edits the graph of a sample.

    Raises ConfigError for a graph that is not a sample's, and GraphError if the graph cannot be read.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.table: SampleTable = open_sample_table(dataset.graph)
        self.geometry: Geometry = read_geometry(dataset)
        self.layers = n_layers(self.geometry)
        self._graph = BigtableGraph(dataset.graph)

    def close(self) -> None:
        """Close connections."""
        self.table.close()
        self._graph.close()

    def edit(self, kind: str) -> Edit:
        """Merge two objects in a random chunk, or split one; write the edit to the graph's table.

        ``kind`` is `MERGE` or `SPLIT`. Raises GraphError, also if no chunk has objects to merge or split.
        """
        operation = self.table.take(OPERATIONS)
        random = np.random.default_rng(operation)
        for xyz in random.permutation(list(np.ndindex(*self.geometry.grid))).tolist():
            now = datetime.now(UTC)
            edit = (self._merge if kind == MERGE else self._split)(operation, random, Chunk(*xyz), now)
            if edit:
                self._write(edit)
                return edit
        raise GraphError(f"graph {self.table.url}: nothing left to {kind}")

    def _write(self, edit: Edit) -> None:
        self.table.put(edit.log(OperationStatus.CREATED, edit.ms))
        self.table.put(edit.log(OperationStatus.WRITE_STARTED, milliseconds(datetime.now(UTC))))
        self.table.put(edit.cells)
        self.table.put(edit.log(OperationStatus.SUCCESS, milliseconds(datetime.now(UTC))))

    def _merge(self, operation: int, random: np.random.Generator, chunk: Chunk, now: datetime) -> Edit | None:
        """Merge two nodes of a chunk and their objects; None if the chunk has fewer than two objects."""
        roots = self.table.roots(self._graph.nodes(self.geometry, chunk, now))
        if len(set(roots.values())) < 2:
            return None
        one = int(random.choice(list(roots)))
        other = int(random.choice([node for node, root in roots.items() if root != roots[one]]))
        old = roots[one], roots[other]
        objects = Objects(self.table, self.geometry, old)
        pieces = [objects.nodes.pop(node) for node in (one, other)]
        chunk_id = self.geometry.chunk_id(chunk)
        (made,) = self.table.new_nodes(chunk_id, 1, self.layers)
        edge = int(pieces[0][0]), int(pieces[1][0])
        new = {made: np.sort(np.concatenate(pieces))}
        edit = self._edit(operation, objects, new, old, now, {"added_edges": (edge,)})
        return replace(edit, cells=(*edit.cells, fake_edge_cell(chunk_id, edge, edit.ms)))

    def _split(self, operation: int, random: np.random.Generator, chunk: Chunk, now: datetime) -> Edit | None:
        """Split an object in two by splitting one of its nodes in a chunk.

        A node can be split if some of its supervoxels are connected only through the node itself. Returns
        None if the chunk has no such node.
        """
        nodes = self.table.newest(self._graph.nodes(self.geometry, chunk, now), CHILDREN)
        divisible = as_ids([node for node, pieces in nodes.items() if len(pieces) > 1])
        roots = self.table.roots(divisible)
        for node in random.permutation(divisible).tolist():
            objects = Objects(self.table, self.geometry, [roots[node]])
            parts = parts_of(objects.nodes.pop(node), objects.nodes, objects.edges)
            if len(parts) < 2:
                continue
            made = self.table.new_nodes(self.geometry.chunk_id(chunk), 2, self.layers)
            new = dict(zip(made, (parts[0], np.sort(np.concatenate(parts[1:]))), strict=True))
            edge = int(parts[0][0]), int(parts[1][0])
            return self._edit(operation, objects, new, [roots[node]], now, {"removed_edges": (edge,)})
        return None

    def _edit(
        self,
        operation: int,
        objects: Objects,
        new: dict[int, Ids],
        old: Sequence[int],
        now: datetime,
        edges: Mapping[str, tuple[tuple[int, int]]],
    ) -> Edit:
        """Return an edit that retires roots ``old`` and makes the L2 nodes ``new`` and their ancestors."""
        ms = milliseconds(now)
        nodes = dict(sorted({**objects.nodes, **new}.items()))
        ends = nodes_of(nodes, objects.edges.ravel()).reshape(-1, 2)
        layers = cross_layers(self.geometry, objects.edges)
        own = np.isin(ends[:, 0], as_ids(new))
        cells = [cell for node, pieces in new.items() for cell in node_cells(node, pieces, ms)]
        cells += cross_edge_cells(ends[own, 0], objects.edges[own], layers[own], ms)
        known = {children.tobytes(): node for node, children in objects.tree.items()}

        def name(chunk_id: int, children: Ids) -> int:
            same = known.get(children.tobytes())
            return self.table.new_nodes(chunk_id, 1, self.layers)[0] if same is None else same

        roots = []
        for parent, children in parents_above(self.geometry, as_ids(nodes), ends, layers, name):
            if parent not in objects.tree:
                cells += node_cells(parent, children, ms)
            if parent >> LAYER_SHIFT == self.layers:
                roots.append(parent)
        cells += root_cells(roots, old, operation, ms)
        return Edit(operation, tuple(new), tuple(roots), tuple(old), tuple(cells), ms, **edges)


def edit_sample(dataset: Dataset, kind: str, topic: str | None) -> tuple[Edit, str]:
    """Edit a sample's graph and publish the edit; return a tuple: the edit; the topic's path.

    The default topic is in the graph's project. Raises ConfigError for a graph that is not a sample's,
    GraphError if the graph cannot be read or written, PublishError if the topic is missing, and TopicError if
    the edit cannot be published.
    """
    with closing(SampleEditor(dataset)) as editor:
        path = topic or topic_path(parse_graph_url(dataset.graph)[0], EDITS)
        with closing(Topic(path)) as published:
            check_topic(published)
            edit = editor.edit(kind)
            try:
                published.publish(*edit.message(dataset.graph_id))
            except PublishError as error:
                raise TopicError(
                    f"operation {edit.operation_id} written, but not published: {error}"
                ) from error
    return edit, path


def milliseconds(time: datetime) -> int:
    """Return a time in milliseconds since 1970."""
    return int(time.timestamp() * 1000)
