"""Find out from the records of chunks whether any file of the segmentation was found."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from ..config.datasets import Dataset
from ..core.chunks import NO_FILES, ChunkBox, FileCounts
from ..core.geometry import Geometry
from ..core.ids import as_ids
from ..store.base import DONE, ChunkLog, ChunkRecord
from .steps import shards

BATCH_RECORDS = 10_000


def nothing_found(log: ChunkLog, geometry: Geometry, box: ChunkBox) -> FileCounts | None:
    """Return the summed file counts of a box's chunks if all are done and no file was read; else None.

    Also returns None if a record lacks file counts (written by an older release): files may have been read.
    Checks one shard after another, up to the first with a chunk that is not done or has all its files. So
    one read of the store is usually enough.
    """
    for first, last in shards(box):
        chunk_ids = geometry.layout.chunk_id_array(box.positions(first, last))
        if not log.incomplete_chunks(chunk_ids).all():
            return None
    total = NO_FILES
    for record in _records_of(log, geometry, box):
        if record.files.read:
            return None
        total = total.plus(record.files)
    return total


def table_is_empty(log: ChunkLog) -> bool:
    """Return whether the records of a table show that files were expected, but none was read.

    Returns False if a done chunk's record lacks file counts (written by an older release).
    """
    counted = False
    for record in log.chunk_records():
        if record.files.read or (record.state == DONE and not record.files.expected):
            return False
        counted |= record.files.expected > 0
    return counted


def nothing_found_text(dataset: Dataset, geometry: Geometry, files: FileCounts) -> str:
    """Return the error message: which files were expected, and what to check."""
    resolution = ",".join(f"{nm:g}" for nm in geometry.resolution)
    return (
        f"no file of the segmentation was found: {dataset.cv_path} at the scale of {resolution} nm "
        f"(files: {files}): check cv_path, mip and scale of data set {dataset.name!r}"
    )


def _records_of(log: ChunkLog, geometry: Geometry, box: ChunkBox) -> Iterator[ChunkRecord]:
    records = log.chunk_records()
    while batch := list(islice(records, BATCH_RECORDS)):
        xyz = geometry.layout.chunk_coordinates(as_ids([record.chunk_id for record in batch]))
        inside = np.all((xyz >= np.array(box.start)) & (xyz < np.array(box.stop)), axis=-1)
        yield from (record for record, is_inside in zip(batch, inside.tolist(), strict=True) if is_inside)
