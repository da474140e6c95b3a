"""The index that finds the nodes of a segment: its state, and how it is built for older tables."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, Field

from ..core.chunks import ChunkBox, whole_box
from ..core.geometry import Geometry
from .base import Store, TableNotes
from .notes import put_note, read_note

NOTE = "segment_index"
SHARD_CHUNKS = 1_000
"""Number of chunks in a shard, after which the progress is recorded."""
CONCURRENT = 8


class IndexState(BaseModel):
    """Whether the segments of all recorded chunks are indexed.

    While ``complete`` is false, ``chunks`` is the progress of `build_index`: it has finished this many chunks
    of the grid, in the order of `ChunkBox.positions`.
    """

    complete: bool = False
    chunks: int = Field(default=0, ge=0)


def index_state(notes: TableNotes) -> IndexState:
    """Return the state of a table's index. Raises StoreError."""
    return read_note(notes, NOTE, IndexState) or IndexState()


def start_index(store: Store) -> None:
    """Record that the index of a new table is complete, as each chunk is indexed when it is recorded.

    A table that has chunk records, or a state of its index, remains unchanged.
    """
    if read_note(store, NOTE, IndexState) is None and next(iter(store.chunk_records()), None) is None:
        put_note(store, NOTE, IndexState(complete=True).model_dump())


def build_index(store: Store, geometry: Geometry) -> Iterator[int]:
    """Index the segments of all recorded chunks, in shards of `SHARD_CHUNKS` chunks of the grid.

    Yields the number of finished chunks of the grid, once at the start and then after each shard. The number
    includes the chunks of earlier runs: progress is recorded after each shard, and a new run resumes there.
    Until the index is complete, no chunk may be ingested from a changed segmentation.
    """
    state, box = index_state(store), whole_box(geometry.grid)
    first = len(box) if state.complete else state.chunks
    yield first
    while first < len(box):
        last = min(first + SHARD_CHUNKS, len(box))
        _index_shard(store, geometry, box, first, last)
        put_note(store, NOTE, IndexState(chunks=last).model_dump())
        yield last
        first = last
    put_note(store, NOTE, IndexState(complete=True, chunks=len(box)).model_dump())


def _index_shard(store: Store, geometry: Geometry, box: ChunkBox, first: int, last: int) -> None:
    def index(chunk_id: int) -> None:
        segments = store.segments(chunk_id)
        if segments is not None:
            store.index_segments(chunk_id, segments)

    chunk_ids = geometry.layout.chunk_id_array(box.positions(first, last))
    with ThreadPoolExecutor(CONCURRENT) as threads:
        for _ in threads.map(index, chunk_ids.tolist()):
            pass
