"""The parts of a data set's state, converted to the models of the dashboard's response."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from l2features.ingest.rates import RATE_WINDOW
from l2features.overview.chunk_map import Projection
from l2features.overview.chunk_scan import ChunkScan
from l2features.overview.node_sample import NodeSample, histogram
from l2features.store.notes import LastAudit
from l2features.updates.freshness import Updates
from l2features.updates.lag_history import UpdateHistory

from .board_schemas import CellsInfo, HistogramInfo, MapInfo, ProgressInfo, SampleInfo
from .first_commands import Example


class Notes(NamedTuple):
    """A table's notes about updates and audits, read at ``time``. ``unreadable``: errors by field name."""

    updates: Updates | None
    history: UpdateHistory | None
    audit: LastAudit | None
    unreadable: dict[str, str]
    time: datetime


def progress_info(scan: ChunkScan) -> ProgressInfo:
    """Return the ingest's progress, with the time left if a chunk was recorded in the last 10 minutes."""
    progress, left = scan.progress, None
    missing = progress.total - progress.done - progress.failed
    runs = progress.newest is not None and scan.time - progress.newest < RATE_WINDOW
    if missing > 0 and runs and progress.chunks_per_minute:
        left = round(missing / progress.chunks_per_minute * 60, 1)
    return ProgressInfo(**dict(progress), as_of=scan.time, seconds_left=left)


def map_info(scan: ChunkScan) -> MapInfo:
    """Return the chunk map: three projections, each with the cells' chunk counts by state, row by row."""
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


def sample_info(nodes: NodeSample, example: Example | None) -> SampleInfo:
    """Return histograms of the sampled nodes' sizes and thicknesses, and the example node with its root."""
    size, thickness = histogram(nodes.size_um3), histogram(nodes.max_dt_nm)
    node, root = example or (None, None)
    return SampleInfo(
        as_of=datetime.now(UTC),
        chunks=nodes.chunks,
        nodes=len(nodes.ids),
        size_um3=size and HistogramInfo(**vars(size)),
        max_dt_nm=thickness and HistogramInfo(**vars(thickness)),
        node=None if node is None else str(node),
        root=None if root is None else str(root),
    )
