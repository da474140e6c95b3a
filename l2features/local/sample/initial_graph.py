"""The graph of a sample before all edits: its nodes, cross-chunk edges, layers and roots.

An L2 node has all supervoxels of an object in a chunk. Nodes that cross-chunk edges connect have the same
root.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing

import numpy as np

from ...core.errors import ConfigError
from ...core.ids import Ids, as_ids
from ...graph.bigtable import parse_graph_url
from ..progress import progress_bar, shown
from .graph_cells import Cell, cross_edge_cells, graph_meta, n_layers, node_cells
from .graph_table import COMPLETE, FORMAT, MADE, MARK, TITLE, SampleTable, check_format, node_counter, node_id
from .hierarchy import cross_layers, nodes_of, parents_above
from .segmentation_files import Sample, sample_chunks
from .touching import Touching

_MS = int(MADE.timestamp() * 1000)


def make_graph(sample: Sample, watershed: str) -> bool:
    """Write a sample's graph into its table; return False if the graph exists already.

    Raises ConfigError if the table has other content, and GraphError if it cannot be read or written.
    """
    with closing(SampleTable(str(sample.graph))) as table:
        title = sample.title.encode()
        if table.create():
            table.set(MARK, TITLE, title)
        marks = table.marks()
        if marks.get(TITLE) != title:
            what = f"is {marks[TITLE].decode()!r}" if TITLE in marks else "is not a sample's"
            raise ConfigError(f"graph {sample.graph}: this table exists, but {what}: choose another table")
        if COMPLETE in marks:
            check_format(table.url, marks[COMPLETE])
            return False
        name = parse_graph_url(table.url)[2]
        table.set(b"meta", b"meta", graph_meta(sample.geometry, name, n_layers(sample.geometry), watershed))
        table.put(_first_cells(table, sample))
        table.set(MARK, COMPLETE, FORMAT)
        return True


def _first_cells(table: SampleTable, sample: Sample) -> Iterator[Cell]:
    """Yield all cells of the graph, and reserve the numbers of its nodes, if not reserved before."""
    geometry, layers = sample.geometry, n_layers(sample.geometry)
    children, pairs = _nodes(sample)
    made = Counter(geometry.layout.chunk_ids(as_ids(children)).tolist())
    ends, of_edge = nodes_of(children, pairs.ravel()).reshape(-1, 2), cross_layers(geometry, pairs)
    for node, own in children.items():
        yield from node_cells(node, own, _MS)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    yield from cross_edge_cells(ends.T.ravel(), both, np.tile(of_edge, 2), _MS)

    def name(chunk_id: int, _children: Ids) -> int:
        made[chunk_id] += 1
        return node_id(chunk_id, made[chunk_id], layers)

    for parent, below in parents_above(geometry, as_ids(children), ends, of_edge, name):
        yield from node_cells(parent, below, _MS)
    for chunk_id, count in made.items():
        table.take_once(node_counter(chunk_id, layers), count)


def _nodes(sample: Sample) -> tuple[dict[int, Ids], Ids]:
    """Return the supervoxels of each L2 node, by node id, and the cross-chunk edges.

    The edges are pairs (n, 2) of supervoxels of the same object that touch across a chunk's face.
    """
    geometry, touching = sample.geometry, Touching(sample.grid)
    children: dict[int, Ids] = {}
    objects: defaultdict[int, list[int]] = defaultdict(list)
    bar = progress_bar(math.prod(sample.grid), "chunk", "nodes of the graph", delay=1.0)
    for chunk in shown(sample_chunks(sample), bar):
        touching.add(chunk)
        own: defaultdict[int, list[int]] = defaultdict(list)
        for supervoxel, owner in chunk.objects.items():
            own[owner].append(supervoxel)
        for number, (owner, supervoxels) in enumerate(sorted(own.items()), 1):
            children[geometry.chunk_id(chunk.chunk) + number] = as_ids(supervoxels)
            objects[owner] += supervoxels
    pairs = touching.pairs()
    of_object = {owner: as_ids(supervoxels) for owner, supervoxels in objects.items()}
    owners = nodes_of(of_object, pairs.ravel()).reshape(-1, 2)
    return children, pairs[owners[:, 0] == owners[:, 1]]
