"""Tests of detecting that a box has no segmentation files, from the chunks' recorded file counts."""

from __future__ import annotations

import numpy as np

from l2features.config.datasets import Dataset
from l2features.core.chunks import ChunkBox, FileCounts, whole_box
from l2features.core.geometry import Chunk
from l2features.ingest.found import nothing_found, nothing_found_text, table_is_empty
from l2features.store.base import DONE, FAILED, ChunkRecord, Store
from l2features.testing.stores import GEOMETRY, T0

BOX = ChunkBox((0, 0, 0), (2, 2, 1))
MISSING = FileCounts(4, 0, 3, 1, 1)
PARTLY = FileCounts(4, 1, 3)


def record(store: Store, xyz: tuple[int, int, int], files: FileCounts, state: str = DONE) -> None:
    store.put_chunk(ChunkRecord(GEOMETRY.chunk_id(Chunk(*xyz)), state, T0, files=files))


def fill(store: Store, files: FileCounts) -> None:
    for xyz in np.ndindex(BOX.shape):
        record(store, xyz, files)


def test_a_box_of_missing_files_is_summed(store: Store) -> None:
    fill(store, MISSING)
    assert nothing_found(store, GEOMETRY, BOX) == FileCounts(16, 0, 12, 4, 4)
    assert table_is_empty(store)


def test_chunks_beyond_the_box_do_not_count(store: Store) -> None:
    fill(store, MISSING)
    record(store, (2, 0, 0), FileCounts(4, 4))
    assert nothing_found(store, GEOMETRY, BOX) == FileCounts(16, 0, 12, 4, 4)
    assert nothing_found(store, GEOMETRY, whole_box(GEOMETRY.grid)) is None
    assert not table_is_empty(store)


def test_a_file_that_was_read_among_missing_ones(store: Store) -> None:
    fill(store, MISSING)
    record(store, (1, 1, 0), PARTLY)
    assert nothing_found(store, GEOMETRY, BOX) is None
    assert not table_is_empty(store)


def test_a_record_without_counts_is_unknown_and_not_empty(store: Store) -> None:
    fill(store, MISSING)
    record(store, (1, 1, 0), FileCounts())
    assert nothing_found(store, GEOMETRY, BOX) is None
    assert not table_is_empty(store)
    fill(store, FileCounts())
    assert nothing_found(store, GEOMETRY, BOX) is None
    assert not table_is_empty(store)


def test_a_failed_or_unrecorded_chunk_leaves_the_result_open(store: Store) -> None:
    assert not table_is_empty(store)
    assert nothing_found(store, GEOMETRY, BOX) is None
    fill(store, MISSING)
    record(store, (0, 1, 0), FileCounts(), FAILED)
    assert nothing_found(store, GEOMETRY, BOX) is None


def test_the_message_names_what_was_looked_for() -> None:
    dataset = Dataset(
        name="minnie",
        cv_path="precomputed://gs://b/seg",
        l2cache_id="t",
        graph="flat",
        store="sqlite:///x.db",
    )
    text = nothing_found_text(dataset, GEOMETRY, MISSING)
    assert text == (
        "no file of the segmentation was found: precomputed://gs://b/seg at the scale of 16,16,40 nm "
        "(files: 4 expected, 0 read, 3 missing (1 forbidden), 1 empty): "
        "check cv_path, mip and scale of data set 'minnie'"
    )
