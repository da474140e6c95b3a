"""Tests of Bigtable reads without numba, whose rows Google's client decodes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest

from l2features.core.chunks import ChunkBox
from l2features.core.errors import StoreError
from l2features.core.schema import NAMES
from l2features.graph.bigtable import BigtableGraph
from l2features.store.base import Store, open_store
from l2features.store.bigtable import row_stream
from l2features.testing.emulators import Emulator
from l2features.testing.graph_history import roots_by_node
from l2features.testing.store_suite import StoreSuite
from l2features.testing.stores import FIRST, INSTANCE, PROJECT, STORE_URL, features_of, raw_table
from tests.support.graph_roots import GEOMETRY, check_roots, check_roots_at_times, known_history
from tests.support.jobs import Recordings


@pytest.fixture(autouse=True)
def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_stream, "COMPILED", False)


class TestGoogleRows(StoreSuite):
    @pytest.fixture
    def store_url(self, emulator: Emulator) -> str:
        return STORE_URL


@pytest.fixture
def compiled(bigtable_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Open the same table, to be read by compiled code."""
    store = open_store(STORE_URL, bigtable_store.name)
    with monkeypatch.context() as patch:
        patch.setattr(row_stream, "COMPILED", True)
        store.ping()
    yield store
    store.close()


def test_rows_are_those_of_the_compiled_decoder(bigtable_store: Store, compiled: Store) -> None:
    features = features_of(np.arange(FIRST, FIRST + 3_000, dtype=np.uint64))
    bigtable_store.write(features)
    for names in (("size_nm3",), ("area_nm2", "pca"), NAMES):
        ours, theirs = (store.read(features["label"][::-1], names) for store in (bigtable_store, compiled))
        assert ours.features.tobytes() == theirs.features.tobytes()
        assert ours.present.tobytes() == theirs.present.tobytes()
        assert ours.found.sum() > 2_000


def test_a_value_of_the_wrong_length_has_the_same_error(bigtable_store: Store, compiled: Store) -> None:
    from google.cloud.bigtable.data.mutations import SetCell

    raw_table(bigtable_store.name).mutate_row(b"%020d" % FIRST, SetCell("0", b"area_nm2", b"abc"))
    messages = []
    for store in (bigtable_store, compiled):
        with pytest.raises(StoreError, match=f"row {FIRST}: area_nm2 has 3 bytes, expected 4") as error:
            store.read([FIRST])
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_roots_of_the_recorded_graph(recordings: Recordings) -> None:
    graph = BigtableGraph(f"bigtable://{PROJECT}/{INSTANCE}/fixture_v2")
    try:
        check_roots(graph, recordings)
        check_roots_at_times(graph, recordings)
        time = datetime.now(UTC)
        found = graph.valid_nodes(GEOMETRY, ChunkBox((0, 0, 0), (3, 2, 2)), time)
        assert roots_by_node(found) == known_history(recordings).nodes(int(1000 * time.timestamp()))
    finally:
        graph.close()
