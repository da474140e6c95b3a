"""Read what a layer of the viewer draws: the nodes of a root or a chunk, one node, the skeleton of a root."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from ..core.geometry import Chunk
from ..core.ids import Ids, as_ids
from ..core.schema import NAMES
from ..neurons.kept import SKELETON
from ..neurons.neuron_reader import NeuronReader
from .annotations import annotation_list, one_annotation, scattered
from .node_layers import NodeLayer
from .skeleton_layer import skeleton_bytes


class Picture(NamedTuple):
    """Bytes for the viewer, and the ids of the nodes that have no features yet.

    ``lasting`` means that the bytes stay the same until features in the table are replaced.
    """

    body: bytes
    missing: Ids
    lasting: bool = False


class PictureReader(NamedTuple):
    """Reads the layers of one data set. All methods raise StoreError and GraphError."""

    neurons: NeuronReader

    def nodes_of_root(self, layer: NodeLayer, root: int, ids: Ids | None = None) -> Picture:
        """Return the annotations of a root's nodes; ``ids`` are the nodes, if known. Raises RootError."""
        reader, generation = self.neurons.reader, self.neurons.generation()
        answer = self.neurons.nodes(root, ids=ids)  # Bigtable reads all columns faster than some
        body = annotation_list(*layer.records(answer.rows, reader.geometry))
        lasting = self.neurons.source.permanent and generation is not None and not len(answer.missing)
        return Picture(body, answer.missing, lasting)

    def nodes_of_chunk(self, layer: NodeLayer, chunk: Chunk) -> Picture:
        """Return the annotations of a chunk's currently valid nodes, sorted by the hash of the id."""
        reader, source = self.neurons.reader, self.neurons.source
        first = reader.geometry.chunk_id(chunk)
        names = tuple(name for name in NAMES if name in layer.attributes)
        rows = reader.store.scan_chunk(first, reader.geometry.layout.last_id(first), names)
        if source.permanent and len(rows):
            valid = source.nodes(reader.geometry, chunk, _now())
            rows = rows.take(np.flatnonzero(np.isin(rows.ids, valid)))
        records, ids = layer.records(rows, reader.geometry)
        order = scattered(ids)
        return Picture(annotation_list(records[order], ids[order]), as_ids([]))

    def node(self, layer: NodeLayer, node: int) -> Picture | None:
        """Return a node's annotation, with its root if it has one now; None if the layer lacks the node."""
        reader, source = self.neurons.reader, self.neurons.source
        answer = reader.read(as_ids([node]), layer.attributes)
        record, ids = layer.records(answer.rows, reader.geometry)
        if not len(ids):
            return None
        roots = source.roots_of(reader.geometry, ids, _now())
        return Picture(one_annotation(record, [roots[roots != 0]]), as_ids([]))

    def kept_skeleton(self, root: int) -> Picture | None:
        """Return the cached skeleton of a root; None if none is cached, or the cached one may be outdated."""
        body = self.neurons.kept(SKELETON, root)
        return None if body is None else Picture(body, as_ids([]), True)

    def skeleton(self, root: int, ids: Ids | None = None) -> Picture:
        """Return the skeleton of a root; ``ids`` are its nodes, if known. Raises RootError."""
        body, missing, kept = self.neurons.kept_bytes(SKELETON, root, skeleton_bytes, ids=ids)
        return Picture(body, missing, self.neurons.source.permanent and kept)


def _now() -> datetime:
    """Return the last whole second: a graph's server takes no fractions and no future times."""
    return datetime.now(UTC).replace(microsecond=0)
