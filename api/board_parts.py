"""The parts of a data set's state, as they are read and as they are sent."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from l2features.ingest.rates import RATE_WINDOW
from l2features.overview.chunk_map import ChunkMap, Projection
from l2features.overview.node_sample import Histogram, NodeSample
from l2features.overview.table_status import Status
from l2features.store.notes import LastAudit
from l2features.updates.freshness import Updates
from l2features.updates.lag_history import UpdateHistory

from .board_schemas import CellsInfo, HistogramInfo, MapInfo, ProgressInfo, SampleInfo
from .first_commands import Example


class Scan(NamedTuple):
    """What the records of the chunks say, and when they were read."""

    status: Status
    map: ChunkMap
    time: datetime


class Notes(NamedTuple):
    """The notes of the table; ``unreadable`` says why one cannot be read, by its name."""

    updates: Updates | None
    history: UpdateHistory | None
    audit: LastAudit | None
    unreadable: dict[str, str]
    time: datetime


class Sampled(NamedTuple):
    """Nodes of random chunks, and a node with its root."""

    nodes: NodeSample
    size: Histogram | None
    thickness: Histogram | None
    example: Example | None
    time: datetime


def progress_info(scan: Scan) -> ProgressInfo:
    """Return the progress; an ingest runs if it recorded a chunk in the last ten minutes."""
    status, left = scan.status, None
    missing = status.total - status.done - status.n_failed
    runs = status.newest is not None and scan.time - status.newest < RATE_WINDOW
    if missing > 0 and runs and status.chunks_per_minute:
        left = round(missing / status.chunks_per_minute * 60, 1)
    return ProgressInfo(
        as_of=scan.time,
        total=status.total,
        done=status.done,
        failed=status.n_failed,
        nodes=status.nodes,
        orphans=status.orphans,
        chunks_missing_files=status.chunks_missing_files,
        newest=status.newest,
        chunks_per_minute=status.chunks_per_minute,
        nodes_per_second=status.nodes_per_second,
        seconds_left=left,
    )


def map_info(scan: Scan) -> MapInfo:
    """Return the projections, row by row."""
    return MapInfo(as_of=scan.time, planes={name: _cells(each) for name, each in scan.map.planes.items()})  # type: ignore[misc]


def _cells(projection: Projection) -> CellsInfo:
    columns, rows = projection.total.shape
    done, failed, empty = (counts.T.ravel().tolist() for counts in projection.counts)
    return CellsInfo(
        columns=columns,
        rows=rows,
        span=projection.span,
        total=projection.total.T.ravel().tolist(),
        done=done,
        failed=failed,
        empty=empty,
    )


def sample_info(found: Sampled) -> SampleInfo:
    """Return the histograms and the example."""
    node, root = found.example or (None, None)
    return SampleInfo(
        as_of=found.time,
        chunks=found.nodes.chunks,
        nodes=len(found.nodes.ids),
        size_um3=found.size and HistogramInfo(edges=found.size.edges, counts=found.size.counts),
        max_dt_nm=found.thickness
        and HistogramInfo(edges=found.thickness.edges, counts=found.thickness.counts),
        node=None if node is None else str(node),
        root=None if root is None else str(root),
    )
