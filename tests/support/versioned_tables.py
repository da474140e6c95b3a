"""Small tables that have versions, or an index of their segments."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from l2features.core.ids import as_ids
from l2features.query.reader import Reader
from l2features.store.base import DONE, ChunkRecord
from l2features.store.notes import put_note
from l2features.store.segment_index import start_index
from l2features.testing.small_table import DATASET, GEOMETRY, node_ids, small_table
from l2features.testing.stores import open_table
from l2features.testing.version_files import NodeRows, VersionWriter
from l2features.versions.folders import Folder


def versioned_table(folder: Path, url: str) -> Path:
    """Return the data sets file of a new small table whose versions are in the folder ``url``."""
    config = small_table(folder)
    entries = json.loads(config.read_text())
    entries[DATASET]["versions"] = url
    config.write_text(json.dumps(entries))
    return config


def with_a_version(config: Path) -> Path:
    """Write version 1 of the table that `indexed_table` made, and return ``config``."""
    url = f"{config.parent}/versions"
    with closing(open_table(config)) as store:
        rows = Reader(store, GEOMETRY).read(node_ids()).rows
        put_note(store, "versions", {"url": url})
    nodes = NodeRows(as_ids(np.arange(len(rows)) + 1), rows, np.zeros(len(rows), dtype=bool))
    VersionWriter(Folder(url), GEOMETRY, about={"l2cache_id": "l2cache_small"}).write(1, nodes)
    return config


def indexed_table(folder: Path) -> Path:
    """Return the data sets file of a fully ingested table. Its nodes are in segments 1 to 100, one each."""
    config = small_table(folder)
    with closing(open_table(config)) as store:
        start_index(store)
        for xyz in np.ndindex(*GEOMETRY.grid):
            nodes = len(node_ids()) if xyz == (1, 0, 0) else 0
            segments = np.arange(nodes, dtype=np.uint64) + 1
            store.put_chunk(
                ChunkRecord(GEOMETRY.layout.chunk_id(*xyz), DONE, datetime.now(UTC), nodes), segments
            )
    return config
