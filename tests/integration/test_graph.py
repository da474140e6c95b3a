"""Tests of mapping supervoxels to L2 nodes, against the recorded graphs and kvdbclient."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from l2features.core.errors import ConfigError, GraphError
from l2features.core.geometry import Chunk, Geometry
from l2features.core.ids import IdLayout, Ids, as_ids
from l2features.graph.base import Graph, map_supervoxels
from l2features.graph.bigtable import BigtableGraph
from l2features.graph.flat import FlatGraph
from l2features.graph.graphene import GrapheneGraph
from l2features.graph.sources import open_graph
from l2features.store.base import Store, open_store
from l2features.testing.emulators import Emulator, free_port
from l2features.testing.stores import INSTANCE, PROJECT
from tests.support.jobs import Recordings

V2 = IdLayout({1: 10, 2: 10})
V1 = IdLayout({1: 8, 2: 2})
LAYOUTS = {"fixture_v2": V2, "fixture_v1": V1}
EVERY_GRAPH = pytest.mark.parametrize("name", ["fixture_v2", "fixture_v1"])
MS = timedelta(milliseconds=1)


def url(name: str) -> str:
    return f"bigtable://{PROJECT}/{INSTANCE}/{name}"


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // 1000, UTC) + timedelta(milliseconds=ms % 1000)


def geometry_of(layout: IdLayout) -> Geometry:
    return Geometry((16, 16, 40), (1024, 512, 20), (160, 128, 48), (64, 64, 32), layout)


def by_chunk(layout: IdLayout, supervoxels: Ids) -> Iterator[tuple[Chunk, Ids]]:
    """Yield each chunk with its supervoxels, shuffled with a fixed seed."""
    shuffled = np.random.default_rng(1).permutation(supervoxels)
    coordinates = layout.chunk_coordinates(shuffled)
    for xyz in np.unique(coordinates, axis=0):
        yield Chunk(*xyz.tolist()), shuffled[(coordinates == xyz).all(axis=1)]


def no_table() -> Store:
    return open_store("sqlite:///no/db", "t")


def mapped(graph: Graph, layout: IdLayout, supervoxels: Ids, time: datetime) -> dict[int, int]:
    """Return all supervoxels' L2 ids at a time, mapped chunk by chunk; 0 where there is none."""
    out: dict[int, int] = {}
    for chunk, ids in by_chunk(layout, supervoxels):
        mapping = map_supervoxels(graph, geometry_of(layout), chunk, ids, time)
        assert mapping.errors == ()
        assert mapping.orphans == (mapping.l2_ids == 0).sum()
        out |= dict(zip(ids.tolist(), mapping.l2_ids.tolist(), strict=True))
    return out


def recorded(recordings: Recordings, name: str, time: datetime) -> dict[int, int]:
    """Return each supervoxel's recorded L2 id at a time, or 0 where it had none."""
    ms = (time - at(0)) // MS
    if name == "fixture_v1":
        before = time < at(recordings.json("l2_children.json")["t0_ms"]) - timedelta(hours=1)
        children = recordings.json("l2_children_v1.json")["supervoxel_to_l2"]
        return {int(sv): 0 if before else l2 for sv, l2 in children.items()}
    children = recordings.json("l2_children.json")
    out = {int(sv): 0 for sv in children["supervoxel_to_l2_t0"]}
    for l2, node in children["l2"].items():
        if node["valid_from_ms"] <= ms < (node["superseded_ms"] or ms + 1):
            out |= dict.fromkeys(node["supervoxels"], int(l2))
    return out


def edit_times(recordings: Recordings) -> list[int]:
    nodes = recordings.json("l2_children.json")["l2"].values()
    return sorted({node["valid_from_ms"] for node in nodes})


@pytest.fixture(scope="module")
def times(recordings: Recordings) -> list[datetime]:
    """Return the recording's times T0 and T1, and times before, at, after and between the graph's edits."""
    children, changes = recordings.json("l2_children.json"), edit_times(recordings)
    assert len(changes) >= 15
    around = [ms + step for ms in changes for step in (-1, 0, 1)]
    between = [(a + b) // 2 for a, b in itertools.pairwise(changes)]
    return [
        at(ms) for ms in (children["t0_ms"], children["t1_ms"], changes[0] - 7_200_000, *around, *between)
    ]


def test_the_recorded_map_is_that_of_t0_and_t1(recordings: Recordings) -> None:
    children = recordings.json("l2_children.json")
    for when in ("t0", "t1"):
        expected = {int(sv): l2 for sv, l2 in children[f"supervoxel_to_l2_{when}"].items()}
        assert recorded(recordings, "fixture_v2", at(children[f"{when}_ms"])) == expected


# ------------------------------------------------------------------ the graph's table
@EVERY_GRAPH
def test_a_graphs_table_at_many_times(recordings: Recordings, times: list[datetime], name: str) -> None:
    layout, graph = LAYOUTS[name], BigtableGraph(url(name))
    answers = set()
    for time in times if name == "fixture_v2" else times[:3]:
        expected = recorded(recordings, name, time)
        found = mapped(graph, layout, as_ids(list(expected)), time)
        assert found == expected, time
        answers.add(tuple(sorted(found.items())))
    assert len(answers) >= (15 if name == "fixture_v2" else 2)


@EVERY_GRAPH
def test_a_graphs_table_as_kvdbclient_reads_it(
    recordings: Recordings, times: list[datetime], name: str
) -> None:
    from kvdbclient import BigTableClient
    from kvdbclient.bigtable import BigTableConfig

    client = BigTableClient(name, config=BigTableConfig(PROJECT=PROJECT, INSTANCE=INSTANCE))
    supervoxels = as_ids(list(recorded(recordings, name, times[0])))
    for time in [*times[:2], *times[3::4]]:
        roots = client.root_ext.get_roots(supervoxels, time_stamp=time, stop_layer=2, fail_to_zero=True)
        found = mapped(BigtableGraph(url(name)), LAYOUTS[name], supervoxels, time)
        assert [found[sv] for sv in supervoxels.tolist()] == roots.tolist(), time


@EVERY_GRAPH
def test_before_the_ingest_every_supervoxel_is_an_orphan(recordings: Recordings, name: str) -> None:
    layout, time = LAYOUTS[name], at(edit_times(recordings)[0]) - timedelta(hours=2)
    supervoxels = as_ids(list(recorded(recordings, name, time)))
    graph, orphans = BigtableGraph(url(name)), 0
    for chunk, ids in by_chunk(layout, supervoxels):
        mapping = map_supervoxels(graph, geometry_of(layout), chunk, ids, time)
        assert (mapping.l2_ids.any(), mapping.errors) == (False, ())
        orphans += mapping.orphans
    assert orphans == len(supervoxels) == 209


@pytest.mark.parametrize("microseconds", [-500, -1, 0, 1, 999])
def test_a_parent_counts_from_its_own_moment(recordings: Recordings, microseconds: int) -> None:
    change = edit_times(recordings)[1]
    time = at(change) + timedelta(microseconds=microseconds)
    before, after = (recorded(recordings, "fixture_v2", at(ms)) for ms in (change - 1, change))
    assert before != after
    found = mapped(BigtableGraph(url("fixture_v2")), V2, as_ids(list(before)), time)
    assert found == (before if microseconds < 0 else after)


def test_supervoxels_that_the_table_does_not_know(recordings: Recordings, times: list[datetime]) -> None:
    graph, geometry, time = BigtableGraph(url("fixture_v2")), geometry_of(V2), times[0]
    chunk, known = next(by_chunk(V2, as_ids(list(recorded(recordings, "fixture_v2", times[0])))))
    unknown = known.min() + np.arange(5_000, 5_003, dtype=np.uint64)
    wanted = np.concatenate([unknown[:1], known, unknown[1:]])
    mapping = map_supervoxels(graph, geometry, chunk, wanted, time)
    assert mapping.orphans == 3
    assert np.flatnonzero(mapping.l2_ids == 0).tolist() == [0, len(known) + 1, len(known) + 2]
    nothing = map_supervoxels(graph, geometry, chunk, as_ids([]), time)
    assert (len(nothing.l2_ids), nothing.orphans, nothing.errors) == (0, 0, ())
    with pytest.raises(
        GraphError, match=r"chunk 0,0,0: the segmentation has id \d+: expected supervoxels, of layer 1"
    ):
        graph.l2_ids(geometry, Chunk(0, 0, 0), as_ids([V2.chunk_id(0, 0, 0) + 1]), time)


@EVERY_GRAPH
def test_what_a_graphs_table_says_of_itself(recordings: Recordings, name: str) -> None:
    info = BigtableGraph(url(name)).info()
    assert info.chunk_size == (64, 64, 32)
    assert {layer: info.layout.spatial_bits[layer] for layer in (1, 2)} == LAYOUTS[name].spatial_bits
    assert info.layout.layer_bits == 8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("l2cache_fixture", "l2cache_fixture: not the table of a graph: expected a table of Py"),
        ("no_such_table", "no_such_table: the table does not exist"),
    ],
)
def test_tables_that_are_no_graph(recordings: Recordings, name: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        BigtableGraph(url(name)).info()


def test_a_graph_whose_meta_is_evil(emulator: Emulator) -> None:
    from google.cloud import bigtable
    from google.cloud.bigtable.data import BigtableDataClient, SetCell

    table = bigtable.Client(project=PROJECT, admin=True).instance(INSTANCE).table("evil_graph")
    table.create(column_families={"0": None})
    raw = BigtableDataClient(project=PROJECT).get_table(INSTANCE, "evil_graph")
    raw.mutate_row(b"meta", SetCell("0", b"meta", b"cos\nabort\n)R."))
    with pytest.raises(GraphError, match=r"os\.abort is not allowed here"):
        BigtableGraph(url("evil_graph")).info()


@pytest.mark.parametrize("wrong", ["bigtable://p/i", "bigtable://p/i/t/x", "pcg://x"])
def test_urls_that_are_no_graph(wrong: str) -> None:
    with pytest.raises(ConfigError, match="expected bigtable://project/instance/table"):
        BigtableGraph(wrong)


def test_a_missing_table_or_server(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = as_ids([V2.chunk_id(0, 0, 0, layer=1) + 1])
    with pytest.raises(GraphError, match=r"bigtable://\S+/no_such: the table does not exist"):
        BigtableGraph(url("no_such")).l2_ids(geometry_of(V2), Chunk(0, 0, 0), ids, at(0))
    monkeypatch.setattr("l2features.store.bigtable.calls.OPERATION_TIMEOUT_S", 0.4)
    monkeypatch.setattr("l2features.store.bigtable.calls.ATTEMPT_TIMEOUT_S", 0.2)
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    for use in (
        lambda: BigtableGraph(url("g")).l2_ids(geometry_of(V2), Chunk(0, 0, 0), ids, at(0)),
        lambda: BigtableGraph(url("g")).info(),
    ):
        with pytest.raises(GraphError, match=r"cannot read bigtable://\S+/g: .*Connection refused"):
            use()


# ------------------------------------------------------------------ the graph's server
def test_a_graphs_server_at_many_times(recordings: Recordings) -> None:
    children, changes = recordings.json("l2_children.json"), edit_times(recordings)
    graph = GrapheneGraph(recordings.cv_path("fixture_v2"))
    seconds = sorted({ms // 1000 + step for ms in changes[::4] for step in (0, 1)})
    whole = [children["t0_ms"] // 1000, children["t1_ms"] // 1000, *seconds]
    for time in (at(1000 * second) for second in whole):
        expected = recorded(recordings, "fixture_v2", time)
        found = mapped(graph, V2, as_ids(list(expected)), time)
        assert found == expected, time


def test_a_server_that_knows_no_supervoxel_returns_orphans(recordings: Recordings) -> None:
    graph = GrapheneGraph(recordings.cv_path("fixture_v2"))
    time = at(edit_times(recordings)[0]) - timedelta(hours=2)
    chunk, ids = next(by_chunk(V2, as_ids(list(recorded(recordings, "fixture_v2", time)))))
    assert graph.l2_ids(geometry_of(V2), chunk, ids, time).tolist() == ids.tolist()
    mapping = map_supervoxels(graph, geometry_of(V2), chunk, ids, time)
    assert (mapping.l2_ids.any(), mapping.orphans, mapping.errors) == (False, len(ids), ())


def test_a_server_that_fails(recordings: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = GrapheneGraph(recordings.cv_path("fixture_v2"))

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(graph.cv, "get_roots", fail)
    with pytest.raises(GraphError, match=r"chunk 1,0,1: http://\S+fixture_v2 did not map .*: gone"):
        graph.l2_ids(geometry_of(V2), Chunk(1, 0, 1), as_ids([1]), at(0))


# ------------------------------------------------------------------ no graph, and impossible answers
@pytest.mark.parametrize("segments", [[], [5], [3, 70, 2**63, 2**64 - 1]])
def test_without_a_graph_nodes_are_numbered(segments: list[int]) -> None:
    geometry, chunk = geometry_of(IdLayout({2: 10})), Chunk(2, 1, 1)
    mapping = map_supervoxels(FlatGraph("flat", no_table), geometry, chunk, as_ids(segments), at(0))
    assert mapping.l2_ids.tolist() == [geometry.chunk_id(chunk) + 1 + i for i in range(len(segments))]
    assert (mapping.orphans, mapping.errors) == (0, ())


def test_more_segments_than_ids() -> None:
    geometry = geometry_of(IdLayout({2: 17}))
    assert geometry.layout.segment_bits(2) == 5
    graph, chunk = FlatGraph("flat", no_table), Chunk(0, 0, 0)
    assert len(graph.l2_ids(geometry, chunk, as_ids(range(1, 32)), at(0))) == 31
    with pytest.raises(GraphError, match="chunk 0,0,0 has 32 segments: expected at most 31"):
        graph.l2_ids(geometry, chunk, as_ids(range(1, 33)), at(0))


class Answers(FlatGraph):
    def __init__(self, *answers: int) -> None:
        super().__init__("flat", no_table)
        self.answers = as_ids(answers)

    def l2_ids(self, geometry: Geometry, chunk: Chunk, supervoxels: Ids, time: datetime) -> Ids:
        return self.answers


SV = V2.chunk_id(1, 0, 0, layer=1) + 7
GOOD = V2.chunk_id(1, 0, 0) + 3


@pytest.mark.parametrize(
    ("answer", "l2_id", "orphans", "error"),
    [
        (GOOD, GOOD, 0, None),
        (0, 0, 1, None),
        (SV, 0, 1, None),
        (SV + 1, 0, 0, f"supervoxel {SV}: parent {SV + 1} is not of layer 2"),
        (3 << 56, 0, 0, f"supervoxel {SV}: parent {3 << 56} is not of layer 2"),
        (2**64 - 1, 0, 0, f"supervoxel {SV}: parent {2**64 - 1} is not of layer 2"),
        (
            V2.chunk_id(1, 0, 1) + 3,
            0,
            0,
            f"supervoxel {SV}: parent {V2.chunk_id(1, 0, 1) + 3} is not in chunk 1,0,0",
        ),
    ],
)
def test_answers_are_checked(answer: int, l2_id: int, orphans: int, error: str | None) -> None:
    supervoxels = as_ids([SV, SV + 2])
    mapping = map_supervoxels(Answers(answer, GOOD), geometry_of(V2), Chunk(1, 0, 0), supervoxels, at(0))
    assert mapping.l2_ids.tolist() == [l2_id, GOOD]
    assert (mapping.orphans, mapping.errors) == (orphans, () if error is None else (error,))


def test_open_graph_by_name(recordings: Recordings) -> None:
    assert isinstance(open_graph("flat", no_table), FlatGraph)
    assert isinstance(open_graph(recordings.cv_path("fixture_v2"), no_table), GrapheneGraph)
    assert isinstance(open_graph(url("fixture_v2"), no_table), BigtableGraph)
    with pytest.raises(ConfigError, match="graph 'pcg://x': expected flat, graphene or bigtable://project/"):
        open_graph("pcg://x", no_table)


def test_without_credentials_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIGTABLE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    with pytest.raises(GraphError, match=r"cannot read bigtable://p/i/t: .*/nowhere/key\.json was not found"):
        BigtableGraph("bigtable://p/i/t")
