"""Read a chunk's rows in a table, and whether some may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..config.datasets import Dataset
from ..core.geometry import Chunk, Geometry
from ..core.ids import as_ids
from ..core.rows import Rows
from ..core.schema import NAMES
from ..store.base import DONE, FAILED, Store


class ChunkRows(NamedTuple):
    """A chunk's rows. If rows may be missing, ``error`` says why. ``note`` is a remark that is no error."""

    rows: Rows
    error: str = ""
    note: str = ""


def read_chunk(
    store: Store, dataset: Dataset, geometry: Geometry, chunk: Chunk, names: Sequence[str] = NAMES
) -> ChunkRows:
    """Return the rows of a chunk, with an error if rows may be missing. Raises StoreError.

    If a chunk has rows but no chunk record, a note is returned instead of an error: in tables of PCGL2Cache,
    which have no chunk records, this is normal.
    """
    chunk_id = geometry.chunk_id(chunk)
    ids = as_ids([chunk_id])
    state = str(store.chunk_states(ids)[0])
    rows = store.scan_chunk(chunk_id, geometry.layout.last_id(chunk_id), names)
    where = f"chunk {chunk} of data set {dataset.name!r}"
    if state == FAILED:
        reason = store.failures(ids).get(chunk_id, "")
        return ChunkRows(rows, f"{where} failed: {reason or 'no reason is recorded'}")
    if state == DONE:
        return ChunkRows(rows, note="" if len(rows) else f"{where} is done and has no nodes in the table")
    if len(rows):
        return ChunkRows(rows, note=f"{where} has no record of an ingest: these may not be all of its nodes")
    again = f"l2features ingest {dataset.name}"
    return ChunkRows(rows, f"{where} is not ingested: {again} computes it")
