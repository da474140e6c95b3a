"""Tests of the client: a server and the table return the same values."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from l2features import Client
from l2features.core.errors import L2FeaturesError
from l2features.core.geometry import Chunk
from l2features.core.ids import Ids, as_ids
from l2features.neurons.root_summaries import RootError, RootStatus
from l2features.store.base import FAILED, ChunkRecord, Meta, open_store
from l2features.testing.server import Server, nodes_of
from l2features.testing.stores import INSTANCE, PROJECT, T0, chunk_rows, forget, lose, open_table
from tests.integration.test_neuron_summaries import features
from tests.support.graph_roots import GEOMETRY, UNKNOWN_ROOT, pairs_of, roots_of_recording
from tests.support.jobs import Recordings, own_copy

__all__ = ["features"]
UNCOMPUTED, LOST = Chunk(0, 0, 0), Chunk(1, 1, 1)


class Clients(NamedTuple):
    """A client of a server and a client of its table, with their data sets file."""

    served: Client
    direct: Client
    config: Path

    def same(self, read: Callable[[Client], Any]) -> Any:
        """Check that both clients read the same table, and return it."""
        served, direct = map(read, self[:2])
        assert served.equals(direct, check_metadata=True), (served.schema, direct.schema)
        return served

    def errors(self, read: Callable[[Client], Any]) -> list[L2FeaturesError]:
        found = []
        for client in self[:2]:
            with pytest.raises(L2FeaturesError) as error:
                read(client)
            found.append(error.value)
        return found


def opened(config: Path, dataset: str, folder: Path) -> Iterator[Clients]:
    limits = {"L2CACHE_MAX_IDS": "40", "L2CACHE_MAX_CHUNKS": "3", "L2CACHE_MAX_ROOTS": "7"}
    log = folder / "server.log"
    with (
        Server(config, limits, log_file=log) as server,
        Client(server.url, dataset) as served,
        Client(config, dataset) as direct,
    ):
        yield Clients(served, direct, config)


@pytest.fixture(scope="module")
def clients(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """Open clients of a table with one incomplete chunk and one failed chunk."""
    folder = tmp_path_factory.mktemp("client")
    config = own_copy(undisturbed, folder)
    with closing(open_table(config)) as store:
        geometry = store.geometry()
        assert geometry
        lose(store, LOST, 2)
        forget(store, chunk_rows(store, UNCOMPUTED).ids)
        store.put_chunk(ChunkRecord(geometry.chunk_id(UNCOMPUTED), FAILED, T0, reason="too dark"))
    yield from opened(config, "sample", folder)


@pytest.fixture(scope="module")
def ids(undisturbed: Path) -> Ids:
    return nodes_of(undisturbed)


def test_features_in_the_order_of_the_ids(clients: Clients, ids: Ids) -> None:
    asked = [*ids[::-1].tolist(), int(ids[5]), 5 << 56, int(ids[0]) + 999]
    table = clients.same(lambda client: client.features(asked))
    assert table["id"].to_pylist() == asked
    assert set(table["status"].to_pylist()) == {"ready", "missing", "failed", "not_l2"}
    assert "too dark" in table["reason"].to_pylist()
    few = clients.same(lambda client: client.features(ids[:3], ["size_nm3", "area_nm2"]))
    assert few.column_names == ["id", "area_nm2", "size_nm3", "status", "reason"]
    assert json.loads(few.schema.metadata[b"units"]) == {"area_nm2": "nm^2", "size_nm3": "nm^3"}


def test_provenance_is_in_the_metadata(clients: Clients, ids: Ids) -> None:
    metadata = clients.direct.features(ids[:1]).schema.metadata
    about = {
        key: json.loads(metadata[key.encode()]) for key in ("dataset", "cv_path", "timestamp", "software")
    }
    entry = json.loads(clients.config.read_text())["sample"]
    with closing(open_table(clients.config)) as store:
        meta = store.meta()
    assert meta
    expected = {"dataset": "sample", "cv_path": entry["cv_path"], "timestamp": meta.timestamp}
    assert about == {**expected, "software": "l2features 0.1.0"}


def test_chunks_and_boxes(clients: Clients) -> None:
    table = clients.same(lambda client: client.chunk(2, 1, 1))
    assert table["id"].to_pylist() == sorted(table["id"].to_pylist())
    everywhere = [[0, 100_000]] * 3
    every = clients.same(lambda client: client.nodes_in(everywhere, ["rep_coord_nm"], partial=True))
    low, high = np.array([17_000, 8_600, 1_000]), np.array([17_500, 8_900, 1_500])
    places = np.stack(every["rep_coord_nm"].to_numpy())
    voxels = [
        [int(np.ceil(a / r)), int(np.ceil(b / r))] for a, b, r in zip(low, high, (16, 16, 40), strict=True)
    ]
    inside = ((places >= low) & (places < high)).all(axis=1)
    assert inside.any()
    table = clients.same(lambda client: client.nodes_in(voxels, partial=True))
    assert table["id"].to_pylist() == every["id"].to_numpy()[inside].tolist()


def test_a_chunk_that_failed_is_an_error_unless_partial(clients: Clients) -> None:
    for error in clients.errors(lambda client: client.chunk(*UNCOMPUTED)):
        assert "too dark" in str(error)
    assert clients.same(lambda client: client.chunk(*UNCOMPUTED, partial=True)).num_rows == 0


def test_neurons_with_and_without_missing_nodes(clients: Clients) -> None:
    with closing(open_table(clients.config)) as store:
        chunk_id = store.geometry().chunk_id(LOST)  # type: ignore[union-attr]
        segments = store.segments(chunk_id)
    assert segments is not None
    roots = [int(segments[0]), int(segments[-1]), 1 << 50, int(segments[0])]
    table = clients.same(lambda client: client.neurons(roots))
    assert table["root_id"].to_pylist() == roots
    assert table["status"].to_pylist() == ["incomplete", table["status"][1].as_py(), "unknown", "incomplete"]
    assert table["n_missing"][0].as_py() > 0
    assert table["retired_at"].to_pylist() == [None] * 4
    nodes = clients.same(lambda client: client.neuron(roots[0]).nodes(["size_nm3"]))
    assert nodes.num_rows == table["n_nodes"][0].as_py()
    present = [size for size in nodes["size_nm3"].to_pylist() if size]
    assert (sum(present), nodes.num_rows - len(present)) == (
        table["size_nm3"][0].as_py(),
        table["n_missing"][0].as_py(),
    )


def test_unknown_roots_are_errors(clients: Clients) -> None:
    for read in (
        lambda client: client.neuron(1 << 50).summary,
        lambda client: client.neuron(1 << 50).nodes(),
        lambda client: client.neuron(1 << 50).graph(),
        lambda client: client.neuron(1 << 50).skeleton(),
    ):
        errors = clients.errors(read)
        assert [str(error) for error in errors] == [f"root {1 << 50}: unknown to the graph"] * 2
        assert all(isinstance(e, RootError) and e.status == RootStatus.UNKNOWN for e in errors)


@pytest.mark.parametrize(
    "read",
    [
        lambda client: client.features([1], ["sizes"]),
        lambda client: client.chunk(9, 9, 9),
        lambda client: client.nodes_in("0-1_0-1"),
        lambda client: client.nodes_in([[0, 1.5]] * 3),
        lambda client: client.neurons([1.0]),
    ],
)
def test_invalid_arguments(clients: Clients, read: Callable[[Client], Any]) -> None:
    for error in clients.errors(read):
        assert "expected" in str(error)


def test_unknown_data_sets(clients: Clients) -> None:
    url = clients.served._source.where
    for where, expected in ((url, "a name from GET /table_mapping"), (clients.config, "one of")):
        with pytest.raises(L2FeaturesError, match=f"nowhere.*expected {expected}"):
            Client(where, "nowhere").features([1])


def test_waiting_returns_nodes_that_are_computed_meanwhile(undisturbed: Path, tmp_path: Path) -> None:
    config = own_copy(undisturbed, tmp_path)
    with closing(open_table(config)) as store:
        rows = chunk_rows(store, LOST)
        forget(store, rows.ids[:2])
        for clients in opened(config, "sample", tmp_path):
            for client in clients[:2]:
                asked = rows.ids[:3]
                assert client.wait(asked, 0.1)["status"].to_pylist() == ["missing", "missing", "ready"]
                later = threading.Timer(0.5, store.write, [rows.features[:2]])
                later.start()
                table = client.wait(asked, 60, ["size_nm3"])
                assert table["status"].to_pylist() == ["ready"] * 3
                later.join()
                forget(store, rows.ids[:2])


# ------------------------------------------------------------------ a data set with a graph
@pytest.fixture
def proofread(recordings: Recordings, features: np.ndarray, tmp_path: Path) -> Iterator[Clients]:
    """Open clients of the recorded graph, with the features of all its nodes."""
    store = open_store(f"sqlite://{tmp_path}/l2cache.db", "l2cache")
    with closing(store):
        store.create(Meta("fixture_v2", recordings.cv_path("fixture_v2"), "2026-11-21 00:27:44", GEOMETRY))
        store.write(features)
    entry = {
        "cv_path": recordings.cv_path("fixture_v2"),
        "l2cache_id": "l2cache",
        "graph": f"bigtable://{PROJECT}/{INSTANCE}/fixture_v2",
        "store": store.url,
    }
    config = tmp_path / "datasets.yml"
    config.write_text(json.dumps({"fixture": entry}))
    yield from opened(config, "fixture", tmp_path)


def test_every_recorded_root(proofread: Clients, recordings: Recordings) -> None:
    recorded = roots_of_recording(recordings)
    asked = as_ids([*recorded, UNKNOWN_ROOT, 0])
    table = proofread.same(lambda client: client.neurons(asked, graph=True))
    rows = dict(zip(table["root_id"].to_pylist(), table.to_pylist(), strict=True))
    assert (rows[UNKNOWN_ROOT]["status"], rows[0]["status"]) == ("unknown", "not_a_root")
    for root, entry in recorded.items():
        assert rows[root]["n_nodes"] == len(entry["l2_ids"])
        assert rows[root]["n_edges"] == len(pairs_of(entry["l2_edges"]))
        assert sorted(rows[root]["successors"]) == sorted(entry["successors"])
        assert (rows[root]["retired_at"] is None) == (entry["retired_ms"] is None)


def test_nodes_graph_and_skeleton_of_the_largest_root(
    proofread: Clients, recordings: Recordings, tmp_path: Path
) -> None:
    recorded = roots_of_recording(recordings)
    root = max(recorded, key=lambda r: len(recorded[r]["l2_ids"]))
    nodes = proofread.same(lambda client: client.neuron(root).nodes())
    assert nodes["id"].to_pylist() == sorted(recorded[root]["l2_ids"])
    for part in (0, 1):
        proofread.same(lambda client: client.neuron(root).graph()[part])  # noqa: B023
    graph = proofread.served.neuron(root).graph()
    assert list(zip(*(c.to_pylist() for c in graph.edges.columns), strict=True)) == pairs_of(
        recorded[root]["l2_edges"]
    )
    network = graph.to_networkx()
    assert sorted(network) == sorted(recorded[root]["l2_ids"])
    skeleton = proofread.same(lambda client: client.neuron(root).skeleton(invalidation_nm=2_000))
    assert json.loads(skeleton.schema.metadata[b"invalidation_nm"]) == 2_000
    for suffix in (".swc", ".json", ".arrow"):
        files = [tmp_path / f"{place}{suffix}" for place in ("served", "direct")]
        for client, file in zip(proofread[:2], files, strict=True):
            client.neuron(root).save_skeleton(file, root_point=[17_000, 8_500, 1_200])
        assert files[0].read_bytes() == files[1].read_bytes()
