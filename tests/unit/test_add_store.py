"""Tests of a custom store, which needs only one file and its registration."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest

from l2features.config.datasets import load_dataset
from l2features.core.errors import ConfigError, TableNotFound
from l2features.core.geometry import Chunk, Geometry
from l2features.core.ids import Ids, as_ids
from l2features.core.rows import Rows
from l2features.core.schema import FEATURES, NAMES
from l2features.ingest.steps import compute_chunk, prepare, save_chunk
from l2features.query.chunk_lookup import read_chunk
from l2features.store.base import (
    DONE,
    FAILED,
    STORES,
    ChunkRecord,
    Coverage,
    Meta,
    Store,
    check_note_name,
    register_store,
)
from l2features.store.formats import root_cell
from l2features.testing.store_suite import StoreSuite
from l2features.testing.stores import chunk_rows
from tests.support.jobs import dataset_file


@dataclass
class Table:
    meta: Meta | None = None
    geometry: Geometry | None = None
    rows: dict[int, np.ndarray] = field(default_factory=dict)
    chunks: dict[int, tuple[ChunkRecord, Ids | None]] = field(default_factory=dict)
    attempts: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    notes: dict[str, str] = field(default_factory=dict)
    roots: dict[int, dict[str, bytes]] = field(default_factory=lambda: defaultdict(dict))
    index: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))


TABLES: dict[tuple[str, str], Table] = {}


class MemoryStore(Store):
    @property
    def table(self) -> Table:
        try:
            return TABLES[self.url, self.name]
        except KeyError:
            raise TableNotFound(f"table {self.name} not found in {self.url}") from None

    def create_table(self) -> None:
        TABLES.setdefault((self.url, self.name), Table())

    def ping(self) -> None:
        assert self.table

    def close(self) -> None:
        pass

    # notes
    def meta(self) -> Meta | None:
        meta = self.table.meta
        return meta and replace(meta, geometry=self.table.geometry)

    def stamp(self, meta: Meta) -> None:
        self.table.meta, self.table.geometry = meta, meta.geometry or self.table.geometry

    def geometry(self) -> Geometry | None:
        return self.table.geometry

    def put_geometry(self, geometry: Geometry) -> None:
        self.table.geometry = geometry

    def note(self, name: str) -> str | None:
        check_note_name(name)
        return self.table.notes.get(name)

    def put_note(self, name: str, text: str) -> None:
        check_note_name(name)
        self.table.notes[name] = text

    # rows
    def write(self, features: np.ndarray) -> None:
        self.table.rows.update(zip(features["label"].tolist(), features.copy(), strict=True))

    def read(self, ids: Any, names: Sequence[str] = NAMES) -> Rows:
        rows, known = Rows.empty(ids), self.table.rows
        found = np.array([node in known for node in rows.ids.tolist()], dtype=bool)
        if found.any():
            features = np.array([known[node] for node in rows.ids[found].tolist()], dtype=FEATURES)
            rows.put(found, Rows.complete(features))
        return replace(rows, present=rows.present & np.isin(NAMES, list(names)))

    def scan_chunk(self, chunk_id: int, last_id: int, names: Sequence[str] = NAMES) -> Rows:
        return self.read(sorted(node for node in self.table.rows if chunk_id <= node <= last_id), names)

    def first_ids(self, first_id: int, most: int) -> Ids:
        return as_ids(sorted(i for i in self.table.rows if i >= first_id)[:most])

    def delete(self, first_id: int, last_id: int) -> None:
        self.table.rows = {i: row for i, row in self.table.rows.items() if not first_id <= i <= last_id}

    # chunk log
    def put_chunk(self, record: ChunkRecord, segments: Ids | None = None) -> None:
        earlier, new = (as_ids([] if s is None else s) for s in (self.segments(record.chunk_id), segments))
        for segment in earlier.tolist():
            del self.table.index[segment][record.chunk_id]
        self.index_segments(record.chunk_id, new)
        self.delete_root_cells(np.union1d(earlier, new))
        self.table.chunks[record.chunk_id] = record, segments
        self.clear_attempts(record.chunk_id)

    def chunk_records(self) -> Iterator[ChunkRecord]:
        return iter([record for record, _ in self.table.chunks.values()])

    def _records(self, chunk_ids: Ids) -> list[ChunkRecord | None]:
        return [self.table.chunks.get(i, (None, None))[0] for i in as_ids(chunk_ids).tolist()]

    def chunk_states(self, chunk_ids: Ids) -> npt.NDArray[np.str_]:
        return np.array([record.state if record else "" for record in self._records(chunk_ids)], dtype="U6")

    def incomplete_chunks(self, chunk_ids: Ids) -> npt.NDArray[np.bool_]:
        records = self._records(chunk_ids)
        return np.array([bool(r and r.state == DONE and r.files.background) for r in records], dtype=bool)

    def failures(self, chunk_ids: Ids) -> dict[int, str]:
        return {r.chunk_id: r.reason for r in self._records(chunk_ids) if r and r.state == FAILED}

    def coverage(self) -> Coverage:
        records = list(self.chunk_records())
        counts = Counter(record.state for record in records)
        return Coverage(counts[DONE], counts[FAILED], max((r.time for r in records), default=None))

    def segments(self, chunk_id: int) -> Ids | None:
        return self.table.chunks.get(chunk_id, (None, None))[1]

    def count_attempts(self, chunk_id: int, works: Sequence[str] = ("",)) -> list[int]:
        attempts = self.table.attempts[chunk_id]
        attempts.update(works)
        return [attempts[work] for work in works]

    def clear_attempts(self, chunk_id: int, works: Sequence[str] = ("",)) -> None:
        for work in works:
            self.table.attempts[chunk_id].pop(work, None)

    # roots and segments
    def root_cells(self, roots: Ids, names: Sequence[str]) -> dict[int, dict[str, bytes]]:
        kept = {root: self.table.roots.get(root, {}) for root in roots.tolist()}
        found = {root: {n: v for n, v in cells.items() if n in names} for root, cells in kept.items()}
        return {root: cells for root, cells in found.items() if cells}

    def put_root_cells(self, cells: Mapping[int, Mapping[str, bytes]]) -> None:
        for root, values in cells.items():
            checked = {name: root_cell(root, name, value)[1:] for name, value in values.items()}
            self.table.roots[root].update(checked)
        assert self.table

    def delete_root_cells(self, roots: Ids) -> None:
        for root in roots.tolist():
            self.table.roots.pop(root, None)

    def segment_nodes(self, segments: Ids, most: int) -> dict[int, Ids]:
        index = self.table.index
        found = {i: as_ids(sorted(index.get(i, {}).values())[: most + 1]) for i in segments.tolist()}
        return {segment: nodes for segment, nodes in found.items() if len(nodes)}

    def index_segments(self, chunk_id: int, segments: Ids) -> None:
        for rank, segment in enumerate(segments.tolist(), 1):
            self.table.index[segment][chunk_id] = chunk_id + rank


@pytest.fixture
def store_url() -> Iterator[str]:
    """Register the in-memory store for one test, and yield its URL."""
    with patch.dict(STORES):
        register_store("memory://name", r"memory://[a-z]+", f"{__name__}:MemoryStore")
        yield "memory://store"
    TABLES.clear()


class TestMemoryStore(StoreSuite):
    """Run the conformance suite on the in-memory store."""


def test_an_ingest_into_a_new_kind_of_store(tmp_path: Path, sample: Path, store_url: str) -> None:
    """Check that an ingest without a runner writes the same rows as into SQLite."""
    written = []
    for url in (store_url, f"sqlite://{tmp_path}/store.db"):
        ingest = prepare(load_dataset("sample", dataset_file(tmp_path, sample, store=url)), create=True)
        chunks = [Chunk(*xyz) for xyz in np.ndindex(*ingest.geometry.grid)]
        with closing(ingest.open_store()) as store:
            for chunk in chunks:
                save_chunk(store, ingest.geometry, compute_chunk(ingest.open_source(), chunk))
            rows = [chunk_rows(store, chunk) for chunk in chunks]
            assert store.coverage().done == len(chunks)
            assert read_chunk(store, ingest.dataset, ingest.geometry, chunks[0]).error == ""
            written.append([(part.features.tobytes(), part.present.tobytes()) for part in rows])
    assert written[0] == written[1] != []


def test_a_kind_that_is_not_registered_is_refused(tmp_path: Path, sample: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected bigtable://project/instance or sqlite:///path/file\.db"):
        load_dataset("sample", dataset_file(tmp_path, sample, store="memory://store"))
