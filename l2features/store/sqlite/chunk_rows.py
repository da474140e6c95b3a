"""The rows of chunks in a SQLite file: the statements, and a row's values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ...core.chunks import FileCounts
from ...core.errors import StoreError
from ...core.ids import Ids, as_ids, to_bytes
from ..base import DONE, ChunkRecord
from ..stored import files_of
from .formats import TableFormats

SCAN_ROWS = 20_000
INCOMPLETE = f"state = '{DONE}' AND json_extract(files, '$.missing') + json_extract(files, '$.empty') > 0"
INSERT = 'INSERT OR REPLACE INTO "{name}.chunks" VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)'
_PAGE = 'SELECT id, state, time, nodes, orphans, reason, {new} FROM "{name}.chunks"'


def signed(ids: Ids) -> list[int]:
    """Ids as SQLite's integers, which are signed."""
    return ids.view(np.int64).tolist()


def listed(ids: Ids) -> str:
    """Ids as SQLite's json_each takes them, which is faster than a long IN."""
    return json.dumps(signed(ids))


def page_query(name: str, formats: TableFormats) -> str:
    """Return the records of a page of chunks, from an id on."""
    new = "files, saturated" if formats.chunks > 1 else "'{}', '{}'"
    return f"{_PAGE.format(name=name, new=new)} WHERE id >= ? ORDER BY id LIMIT {SCAN_ROWS}"


def chunk_values(record: ChunkRecord, segments: Ids | None) -> tuple[Any, ...]:
    """Return the values of a chunk's row, for `INSERT`."""
    return (
        signed(as_ids([record.chunk_id]))[0],
        record.state,
        record.time.astimezone(UTC).isoformat(),
        record.nodes,
        record.orphans,
        record.reason,
        None if segments is None else to_bytes(as_ids(segments)),
        json.dumps(files_of(record)),
        json.dumps(dict(record.saturated)),
    )


def chunk_of(row: Sequence[Any], where: str) -> ChunkRecord:
    """Return the record in a row of `page_query`. Raises StoreError."""
    key, state, time, nodes, orphans, reason, files, saturated = row
    chunk_id = key % (1 << 64)
    try:
        counts, at = FileCounts(**json.loads(files)), datetime.fromisoformat(time)
        return ChunkRecord(chunk_id, state, at, nodes, orphans, reason, counts, dict(json.loads(saturated)))
    except (ValueError, TypeError) as error:
        raise StoreError(f"{where}: the record of chunk {chunk_id} cannot be read: {error!r}") from error
