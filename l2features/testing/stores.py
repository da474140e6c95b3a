"""Shared by tests of stores: metadata, random features, fixtures of open stores, and raw reads."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..config.datasets import load_dataset
from ..core.geometry import Chunk, Geometry
from ..core.ids import IdLayout, Ids, as_ids
from ..core.rows import Rows
from ..core.schema import ATTRIBUTES, FEATURES, NAMES
from ..store.base import Meta, Store, open_store
from .emulators import Emulator
from .reference import served

PROJECT, INSTANCE = "test-project", "test-instance"
STORE_URL = f"bigtable://{PROJECT}/{INSTANCE}"
LAYOUT = IdLayout({2: 10})
GEOMETRY = Geometry((16.0, 16.0, 40.0), (1024, 512, 20), (160, 128, 48), (64, 64, 32), LAYOUT)
META = Meta("fixture", "precomputed://file:///seg", "2026-11-21 00:27:44", GEOMETRY)
META_REST = (META.cv_path, META.timestamp, GEOMETRY)
CHUNK = LAYOUT.chunk_id(1, 0, 1)
FIRST = CHUNK + 1
T0 = datetime(2026, 11, 21, 0, 27, 44, 368_000, UTC)
NewStore = Callable[..., Store]
counter = itertools.count()


def features_of(ids: Any, seed: int = 1) -> np.ndarray:
    """Return rows of random values.

    Every third row lacks optional attributes. Every seventh is marked as a row that could not be computed.
    """
    rng = np.random.default_rng(seed)
    rows = np.zeros(len(ids), dtype=FEATURES)
    for name in NAMES:
        values = rng.integers(1, 60_000, rows[name].shape)
        rows[name] = values / 7 if rows.dtype[name].base.kind == "f" else values
    for attribute in ATTRIBUTES:
        if attribute.condition:
            rows[attribute.name][2::3] = 0
            rows[attribute.condition.flag] = np.arange(len(ids)) % 3 != 2
    rows[6::7] = 0
    rows["label"] = as_ids(ids)
    return rows


def served_values(rows: Rows) -> list[dict[str, Any]]:
    return served(rows, GEOMETRY)


@pytest.fixture(params=["sqlite", "bigtable"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store's URL. Tests run once with SQLite and once with Bigtable."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/store.db"
    request.getfixturevalue("emulator")
    return STORE_URL


@pytest.fixture
def new_store(store_url: str) -> Iterator[NewStore]:
    """Return a function that opens a table by name, by default a new table."""
    opened: list[Store] = []

    def new(name: str | None = None) -> Store:
        opened.append(open_store(store_url, name or f"l2_{os.getpid()}_{next(counter)}"))
        return opened[-1]

    yield new
    for store in opened:
        store.close()


@pytest.fixture
def store(new_store: NewStore) -> Store:
    store = new_store()
    store.create(META)
    return store


@pytest.fixture
def bigtable_store(emulator: Emulator) -> Iterator[Store]:
    store = open_store(STORE_URL, f"l2_only_{os.getpid()}_{next(counter)}")
    store.create(META)
    yield store
    store.close()


def open_table(config: Path) -> Store:
    """Open the table of the data set ``sample``."""
    dataset = load_dataset("sample", config)
    return open_store(dataset.store, dataset.l2cache_id)


def chunk_rows(store: Store, chunk: Chunk) -> Rows:
    """Return all rows of a chunk."""
    geometry = store.geometry()
    assert geometry
    first = geometry.chunk_id(chunk)
    return store.scan_chunk(first, geometry.layout.last_id(first))


def forget(store: Store, ids: Ids) -> None:
    """Delete rows."""
    for node in ids.tolist():
        store.delete(node, node)


def lose(store: Store, chunk: Chunk, most: int) -> Ids:
    """Delete the first rows of a chunk, at most ``most``; return their ids."""
    ids = chunk_rows(store, chunk).ids[:most]
    forget(store, ids)
    return ids


def raw_table(name: str) -> Any:
    """Open a table with Google's data client, not as a `Store`."""
    from google.cloud.bigtable.data import BigtableDataClient

    return BigtableDataClient(project=PROJECT).get_table(INSTANCE, name)


def versions(name: str) -> dict[tuple[bytes, bytes], int]:
    """Return the number of cell versions for every (row, column) of a table."""
    from google.cloud.bigtable.data import ReadRowsQuery

    out: dict[tuple[bytes, bytes], int] = {}
    for row in raw_table(name).read_rows(ReadRowsQuery()):
        for cell in row.cells:
            out[row.row_key, cell.qualifier] = out.get((row.row_key, cell.qualifier), 0) + 1
    return out


def make_table(name: str, families: tuple[str, ...]) -> Any:
    from google.cloud import bigtable

    table = bigtable.Client(project=PROJECT, admin=True).instance(INSTANCE).table(name)
    table.create(column_families=dict.fromkeys(families))
    return table
