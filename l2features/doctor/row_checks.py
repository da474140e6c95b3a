"""Checks of a table's rows: their ids, and a sample of nodes that are recomputed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np

from ..core.geometry import Chunk
from ..core.ids import L2, Ids, as_ids
from ..core.rows import Rows
from ..core.schema import SIZE
from ..ingest.node_features import NodeFeatures, NodeSource
from .deployment import Deployment, layer_range
from .findings import Finding, ok, problem, skipped, warning
from .row_causes import BORDERS, differing

NODES_OF_A_CHUNK = 60
"""Maximum rows recomputed per chunk. With more than `graphene.FEW`, the server would list the whole chunk."""
MOST_SHOWN = 3
UNKNOWN = "of nodes that the graph does not have"


def ids_check(deployment: Deployment) -> Iterator[Finding]:
    """Look for rows of PCGL2Cache that do not belong to L2 nodes."""
    below, _ = layer_range(L2)
    some = deployment.store.first_ids(0, MOST_SHOWN)
    some = some[some < np.uint64(below)]
    if len(some) and some[0] == 0:
        yield warning(
            "the table has a row 0, in which PCGL2Cache merged supervoxels without a parent",
            "none is needed: l2features neither writes nor reads it",
        )
    if len(some := some[some > 0]):
        yield problem(
            f"the table has rows of ids below layer 2, such as {_shown(some)}: PCGL2Cache stored supervoxels "
            "whose L2 node the graph's server did not know",
            "delete them (cbt deleterow), then: l2features audit --repair",
        )
    if not len(deployment.node_ids):
        yield warning("the table has no rows of L2 nodes", "l2features ingest computes them")
    elif not len(some):
        yield ok(f"{len(deployment.node_ids)} sampled rows have ids of layer 2")


def bits_check(deployment: Deployment) -> Iterator[Finding]:
    """Check that the graph's id layout fits the row ids and the table's geometry.

    With a wrong layout, ids lie outside the grid, or have segment numbers above a chunk's number of voxels.
    """
    geometry, table, ids = deployment.geometry, deployment.store.geometry(), deployment.node_ids
    layout = geometry.layout
    bits = f"{layout.layer_bits} bits for the layer and {layout.spatial_bits[L2]} per axis for the chunk"
    wrong_graph = "in the data sets file, name the graph from which the rows were made, or use another table"
    own = table.layout.spatial_bits.get(L2) if table else layout.spatial_bits[L2]
    if own != layout.spatial_bits[L2]:
        yield problem(f"the graph's ids have {bits}; the table's ids have {own} per axis", wrong_graph)
        return
    fits = np.ones(len(ids), dtype=bool)
    if len(ids):
        fits = geometry.is_node(ids)
        fits &= layout.segments(ids) <= np.uint64(math.prod(geometry.chunk_size))
    if not fits.all():
        yield problem(
            f"the graph's ids have {bits}: with these, {np.count_nonzero(~fits)} of {len(ids)} sampled rows "
            f"lie outside its grid of {'x'.join(map(str, geometry.grid))}: {_shown(ids[~fits])}",
            wrong_graph,
        )
    else:
        yield ok(f"the graph's ids have {bits}; all {len(ids)} sampled rows lie in its grid")


def rows_check(deployment: Deployment) -> Iterator[Finding]:
    """Recompute sampled rows, and report the rows that differ, by cause."""
    if not deployment.chunks:
        yield skipped("no chunk is sampled")
        return
    deployment.compile()
    nodes = NodeSource(deployment.dataset, deployment.geometry)
    wrong: dict[str, list[Ids]] = defaultdict(list)
    total, chunks, unsure = 0, 0, ""
    try:
        for chunk_id in deployment.sampled_chunks():
            (xyz,) = deployment.geometry.layout.chunk_coordinates(as_ids([chunk_id])).tolist()
            chunk = Chunk(*xyz)
            stored = _suspects(
                deployment.store.scan_chunk(chunk_id, deployment.geometry.layout.last_id(chunk_id))
            )
            deployment.say(f"computing {len(stored)} nodes of chunk {chunk}")
            result = nodes.compute(chunk, stored.ids)
            unsure = unsure or result.unsure_why
            total, chunks = total + len(stored) - len(result.unsure), chunks + 1
            for cause, ids in _compared(deployment, nodes, chunk, stored, result).items():
                wrong[cause].append(ids)
    finally:
        nodes.close()
    if unsure:
        yield warning(
            f"some nodes could not be recomputed: {unsure}", "complete the files of the segmentation"
        )
    for cause, parts in wrong.items():
        ids = np.concatenate(parts)
        yield problem(f"{len(ids)} of {total} sampled rows are wrong: {cause}: {_shown(ids)}", _fix(cause))
    if not wrong:
        yield ok(f"{total} sampled rows of {chunks} chunks equal their recomputation")


def _compared(
    deployment: Deployment, nodes: NodeSource, chunk: Chunk, stored: Rows, result: NodeFeatures
) -> dict[str, Ids]:
    """Return the ids of a chunk's wrong rows, by cause."""
    rows = stored.take(np.flatnonzero(np.isin(stored.ids, result.features["label"])))
    found = differing(rows, result.features, np.zeros(len(rows), bool))
    if found and deployment.dataset.has_graph:
        valid = nodes.graph.nodes(deployment.geometry, chunk, datetime.now(UTC))
        found = differing(rows, result.features, ~np.isin(rows.ids, valid))
    failed: dict[str, list[int]] = defaultdict(list)
    for node, error in result.errors.items():
        failed[f"their nodes cannot be computed ({error})"].append(node)
    found |= {cause: as_ids(ids) for cause, ids in failed.items()}
    return found | ({UNKNOWN: result.unknown} if len(result.unknown) else {})


def _suspects(rows: Rows) -> Rows:
    """Return up to `NODES_OF_A_CHUNK` rows to recompute, sorted by id.

    It prefers rows with max_dt_nm 0 or marked as not computed, then the largest nodes, then random rows.
    """
    features = rows.features
    suspect = rows.not_computed | (rows.found & (features["max_dt_nm"] == 0))
    chance = np.random.default_rng(0).permutation(len(rows))
    large = np.zeros(len(rows), dtype=bool)
    large[np.argsort(features[SIZE], kind="stable")[::-1][: NODES_OF_A_CHUNK // 4]] = True
    order = np.lexsort((chance, ~large, ~suspect))
    return rows.take(np.sort(order[:NODES_OF_A_CHUNK]))


def _fix(cause: str) -> str:
    if cause == UNKNOWN:
        return "l2features audit counts them (superfluous); check that the table is that of this graph"
    if cause == BORDERS:
        return "publish their ids as missing ids to an updater with --recompute"
    return "l2features ingest --recompute computes all rows again, at the table's timestamp"


def _shown(ids: Ids) -> str:
    return " ".join(map(str, ids[:MOST_SHOWN].tolist())) + (" …" if len(ids) > MOST_SHOWN else "")
