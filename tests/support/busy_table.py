"""A table during an ingest, with a failed chunk, an updater, an audit, and texts that contain HTML."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from l2features.audit.chunk_audit import Audit
from l2features.audit.summary import AuditSummary, save_audit
from l2features.config.datasets import load_dataset
from l2features.core.chunks import whole_box
from l2features.core.geometry import Chunk
from l2features.ingest.rates import record_start
from l2features.store.base import DONE, FAILED, ChunkRecord, Store, open_store
from l2features.testing.small_table import DATASET, GEOMETRY, NODES, small_table
from l2features.testing.stores import open_table
from l2features.updates.recorder import Recorder

SCRIPT = "<script>document.title='run'</script>"
"""Text that would run if a page took it for HTML."""
REASON = f"{SCRIPT} 0_0_0.gz: 403 Forbidden"
FAILED_CHUNK, WITH_NODES = Chunk(2, 1, 0), Chunk(1, 0, 0)


def busy_table(folder: Path) -> Path:
    """Return the data sets file of a table of 12 chunks: 4 with nodes, 2 empty, 1 failed, 5 not ingested."""
    config = small_table(folder)
    with closing(open_table(config)) as store:
        now = datetime.now(UTC)
        record_start(store, now - timedelta(minutes=3))
        chunks = [Chunk(*xyz) for xyz in np.ndindex(*GEOMETRY.grid)]
        done = [chunk for chunk in chunks if chunk != FAILED_CHUNK][:6]
        for i, chunk in enumerate(done):
            nodes = NODES if chunk == WITH_NODES else 10 * (i > 1)
            put(store, chunk, DONE, now - timedelta(seconds=20 * (6 - i)), nodes=nodes)
        put(store, FAILED_CHUNK, FAILED, now, reason=REASON)
        run_updater(store, time.time())
        audit = Audit(load_dataset(DATASET, config), GEOMETRY, whole_box(GEOMETRY.grid))
        summary = AuditSummary(chunks=12, expected=100, present=98, missing=2, repaired=1)
        save_audit(store, audit, summary, "run")
    return config


def put(store: Store, chunk: Chunk, state: str, at: datetime, nodes: int = 0, reason: str = "") -> None:
    store.put_chunk(ChunkRecord(GEOMETRY.chunk_id(chunk), state, at, nodes=nodes, reason=reason))


def run_updater(store: Store, until: float, minutes: int = 6) -> None:
    """Record an updater's work in the ``minutes`` before ``until`` (seconds since 1970)."""
    opened = Recorder(lambda _: open_store(store.url, store.name), [DATASET], f"host-1-{SCRIPT}")
    with closing(opened) as recorder:
        for minute in range(minutes, -1, -1):
            now = until - 60 * minute
            for i in range(minute % 4):
                recorder.applied([DATASET], now - 1 - i / 2, 100 - minute, now)
            recorder.backlog(minute % 5, now - 5)
            if minute == minutes // 2:
                recorder.refused([DATASET], ["unknown_node"])
                recorder.refused([], ["bad_pickle"])
            recorder.flush(now)
