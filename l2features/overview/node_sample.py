"""A bounded sample of a table's nodes, for histograms and for an example: one node and its root."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

import numpy as np
import numpy.typing as npt

from ..core.chunks import centre_box, whole_box
from ..core.geometry import Geometry
from ..core.ids import Ids, as_ids
from ..core.schema import SIZE
from ..graph.base import Graph
from ..store.base import Store

THICKNESS = "max_dt_nm"
MOST_NODES, UNRECORDED = 50_000, 64
"""Nodes that suffice for a sample; and maximum chunks that are tried in a table without chunk records."""
BINS = 30
ROOTS_TRIED = 200
NM3_PER_UM3 = 1e9


@dataclass(frozen=True)
class NodeSample:
    """Nodes of some chunks: ids, sizes in um^3 and thicknesses in nm, (n,) each. All have features."""

    chunks: int
    ids: Ids
    size_um3: npt.NDArray[np.float64]
    max_dt_nm: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Histogram:
    """A histogram with logarithmic bins: n counts, and n + 1 edges."""

    edges: list[float]
    counts: list[int]


def sample_nodes(
    store: Store, geometry: Geometry, chunk_ids: Sequence[int], most: int = MOST_NODES
) -> NodeSample:
    """Return these chunks' nodes that have features; read no more chunks after ``most`` nodes.

    If ``chunk_ids`` is empty, chunks at the grid's centre and start are read. This is for PCGL2Cache's
    tables, which have no chunk records. Superseded nodes are included. Raises StoreError.
    """
    tried = list(chunk_ids) or _unrecorded(geometry)
    nm3 = float(np.prod(geometry.resolution))
    found: list[tuple[Ids, npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []
    total = chunks = 0
    for chunk_id in tried:
        if total >= most:
            break
        rows = store.scan_chunk(chunk_id, geometry.layout.last_id(chunk_id), (SIZE, THICKNESS))
        real = rows.features[rows.found & ~rows.not_computed]
        total, chunks = total + len(real), chunks + bool(len(real))
        found.append((real["label"], real[SIZE] * nm3 / NM3_PER_UM3, real[THICKNESS].astype(np.float64)))
    ids, sizes, depths = (np.concatenate(part) for part in zip(*found, strict=True))
    return NodeSample(chunks, as_ids(ids), sizes, depths)


def histogram(values: npt.NDArray[np.float64]) -> Histogram | None:
    """Return a histogram of the positive values; None if there are none."""
    values = values[values > 0]
    if not len(values):
        return None
    low, high = values.min(), values.max()
    edges = np.geomspace(low, max(high, low * 1.01), BINS + 1)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return Histogram([float(f"{edge:.6g}") for edge in edges], counts.tolist())


def example_root(graph: Graph, geometry: Geometry, nodes: Ids, time: datetime) -> tuple[int, int] | None:
    """Return a tuple: one of these nodes; its root at ``time``.

    At most `ROOTS_TRIED` nodes are tried; returns None if none of them has a root. Raises GraphError.
    """
    tried = nodes[:: max(1, len(nodes) // ROOTS_TRIED)][:ROOTS_TRIED]
    roots = graph.roots_of(geometry, tried, time)
    (places,) = np.nonzero(roots)
    return (int(tried[places[0]]), int(roots[places[0]])) if len(places) else None


def _unrecorded(geometry: Geometry) -> list[int]:
    boxes = centre_box(geometry.grid), whole_box(geometry.grid)
    ids = (geometry.layout.chunk_id_array(box.positions(0, UNRECORDED)).tolist() for box in boxes)
    return list(dict.fromkeys(chain(*ids)))
