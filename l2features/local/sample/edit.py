"""Merge or split objects of a sample's graph, and publish the edit.

The operation id seeds the choice, so each edit differs. As in PyChunkedGraph, only the nodes that are merged
or split are replaced; the objects' other nodes get a new root.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime

import numpy as np

from ...config.datasets import Dataset
from ...core.errors import GraphError
from ...core.geometry import Chunk, Geometry
from ...core.ids import Ids, as_ids, to_bytes
from ...graph.bigtable import BigtableGraph, parse_graph_url
from ...ingest.compute import read_geometry
from ...pubsub.topic import PublishError, Topic
from .graph_cells import CHILDREN, Cell, Edit, n_layers, node_cells
from .graph_table import OPERATIONS, SampleTable, open_sample_table
from .topics import EDITS, TopicError, check_topic, topic_path

MERGE, SPLIT = "merge", "split"


class SampleEditor:
    """Edits one data set's graph, which must be a sample's. Raises ConfigError, GraphError."""

    def __init__(self, dataset: Dataset) -> None:
        self.table: SampleTable = open_sample_table(dataset.graph)
        self.geometry: Geometry = read_geometry(dataset)
        self._graph = BigtableGraph(dataset.graph)

    def close(self) -> None:
        """Close connections."""
        self.table.close()
        self._graph.close()

    def edit(self, kind: str) -> Edit:
        """Merge or split in some chunk, and write the result."""
        operation = self.table.take(OPERATIONS)
        random = np.random.default_rng(operation)
        for xyz in random.permutation(list(np.ndindex(*self.geometry.grid))).tolist():
            now = datetime.now(UTC)
            edit = (self._merge if kind == MERGE else self._split)(operation, random, Chunk(*xyz), now)
            if edit:
                self.table.put(edit.cells)
                return edit
        raise GraphError(f"graph {self.table.url}: nothing left to {kind}")

    def _merge(self, operation: int, random: np.random.Generator, chunk: Chunk, now: datetime) -> Edit | None:
        """Two nodes of different objects become one, and so do these; None where there is but one object."""
        roots = self.table.roots(self._graph.nodes(self.geometry, chunk, now))
        if len(set(roots.values())) < 2:
            return None
        one = int(random.choice(list(roots)))
        other = int(random.choice([node for node, root in roots.items() if root != roots[one]]))
        pieces = self._graph.children(self.geometry, chunk, as_ids([one, other])).supervoxels
        (made,) = self.table.new_nodes(self.geometry.chunk_id(chunk), 1)
        old = [roots[one], roots[other]]
        rest = np.setdiff1d(self._of_roots(old), as_ids([one, other]))
        nodes = {made: np.sort(np.concatenate([pieces[one], pieces[other]]))}
        return self._edit(operation, nodes, [np.append(rest, np.uint64(made))], old, now)

    def _split(self, operation: int, random: np.random.Generator, chunk: Chunk, now: datetime) -> Edit | None:
        """Split a node of several supervoxels, and its object; None where there is no such node.

        The object's other nodes go to the first part if their chunk's id is lower, else to the second.
        """
        valid = self._graph.nodes(self.geometry, chunk, now)
        nodes = self._graph.children(self.geometry, chunk, valid).supervoxels
        divisible = [node for node, pieces in nodes.items() if len(pieces) > 1]
        if not divisible:
            return None
        node = int(random.choice(divisible))
        chunk_id = self.geometry.chunk_id(chunk)
        lower, upper = self.table.new_nodes(chunk_id, 2)
        old = self.table.roots(as_ids([node]))[node]
        rest = np.setdiff1d(self._of_roots([old]), as_ids([node]))
        before = rest < chunk_id
        half = len(nodes[node]) // 2
        made = {lower: nodes[node][:half], upper: nodes[node][half:]}
        parts = [np.append(rest[before], np.uint64(lower)), np.append(rest[~before], np.uint64(upper))]
        return self._edit(operation, made, parts, [old], now)

    def _of_roots(self, roots: Sequence[int]) -> Ids:
        """Return all nodes of these roots."""
        return np.concatenate(list(self.table.newest(as_ids(roots), CHILDREN).values()))

    def _edit(
        self,
        operation: int,
        made: dict[int, Ids],
        parts: Sequence[Ids],
        old: Sequence[int],
        now: datetime,
    ) -> Edit:
        """Build the edit: new nodes with their supervoxels, and a new root for each part."""
        ms = int(now.timestamp() * 1000)
        new = self.table.new_roots(n_layers(self.geometry), len(parts))
        cells = [cell for node, pieces in made.items() for cell in node_cells(node, pieces, ms)]
        for root, nodes in zip(new, parts, strict=True):
            cells += [*node_cells(root, nodes, ms), Cell(root, "former_parents", _bytes(old), ms)]
        cells += [Cell(root, "new_parents", _bytes(new), ms) for root in old]
        return Edit(operation, tuple(made), tuple(new), tuple(old), tuple(cells))


def edit_sample(dataset: Dataset, kind: str, topic: str | None) -> tuple[Edit, str]:
    """Edit a sample's graph and publish the edit; return it and the topic (default: in the graph's project).

    Raises ConfigError for a graph that is not a sample's, GraphError, TopicError and PublishError.
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


def _bytes(ids: Sequence[int]) -> bytes:
    return to_bytes(as_ids(ids))
