"""Tests of ``l2features doctor``: PCGL2Cache's tables, a wrong graph, wrong rows, and denied access."""

from __future__ import annotations

import base64
import json
import time
from contextlib import closing
from pathlib import Path

import pytest
from google.cloud import bigtable
from google.pubsub_v1 import PublisherClient, SubscriberClient

from l2features.core.geometry import Chunk
from l2features.core.schema import NAMES
from l2features.testing.emulators import PubSubEmulator
from l2features.testing.stores import INSTANCE, PROJECT, STORE_URL, chunk_rows, features_of, open_table
from tests.support.audit_job import run_audit
from tests.support.command import run
from tests.support.jobs import Recordings, dataset_file
from tests.support.refusing_grpc import refusing
from tests.support.stub_service import Answer, serving

TABLE = f"ok       table: {STORE_URL}, table {{table}}: column families {{families}}; row keys are ids\n"
GRAPH = """\
ok       token: {host} accepts the token for table {graph}
ok       graph: graphene://http://{host}/segmentation/table/{graph}: reachable, chunks of 64x64x32 voxels
ok       graph: bigtable://test-project/test-instance/{graph}: reachable, chunks of 64x64x32 voxels
ok       segmentation: 160x128x48 voxels of 16x16x40 nm from 1024x512x20, in 3x2x2 chunks
ok       ids: 47 sampled rows have ids of layer 2
"""
BITS = (
    "ok       bits: the graph's ids have 8 bits for the layer and 10 per axis for the chunk; "
    "all 47 sampled rows lie in its grid\n"
)
COVERAGE = """\
warning  coverage: none of 12 chunks has a record, as in PCGL2Cache's tables: the complete chunks are unknown
         fix: l2features audit counts the nodes without a row, and with --repair computes them
"""
QUEUES = """\
skipped  topics: none is named: give --topics to check them
skipped  subscriptions: none is named: give --subscriptions to check them
"""
ROWS = "ok       rows: 51 sampled rows of 4 chunks equal their recomputation\n"
SQLITE = """\
ok       table: {url}, table l2cache_sample: chunks of format 2, described records; row keys are ids
ok       meta: of graph 'flat', with a geometry
ok       timestamp: rows are of nodes valid at {time} UTC, and of later edits
ok       token: none is needed: no graph server is read
ok       graph: none: each segment of a chunk is a node
ok       segmentation: {bounds}, in 3x2x2 chunks
"""


def config_of(recordings: Recordings, folder: Path, table: str, graph: str = "fixture_v2") -> Path:
    """Return a data sets file: table ``table``, the graph in Bigtable, and the segmentation on a server."""
    source = f"bigtable://{PROJECT}/{INSTANCE}/{graph}"
    cv_path = recordings.cv_path(graph)
    return dataset_file(folder, cv_path, graph=source, store=STORE_URL, l2cache_id=table, chunk_size=None)


def graph_lines(recordings: Recordings, graph: str = "fixture_v2") -> str:
    return GRAPH.format(host=f"127.0.0.1:{recordings.graphene_port}", graph=graph)


@pytest.fixture(scope="module")
def table(recordings: Recordings) -> str:
    """Copy PCGL2Cache's table, because API servers write a geometry into the shared one."""
    client = bigtable.Client(project=PROJECT, admin=True)
    recordings.loader.load(client.instance(INSTANCE), recordings.dump("cache.json.gz"), "l2cache_doctor")
    return "l2cache_doctor"


def test_a_recorded_table(recordings: Recordings, tmp_path: Path, table: str) -> None:
    ran = run("doctor", "sample", "--config", config_of(recordings, tmp_path, table))
    assert ran.stdout == (
        TABLE.format(table=table, families="0, 1, 2, 3, 4")
        + "ok       meta: of graph 'fixture_v2', without a geometry, as PCGL2Cache writes it\n"
        "ok       timestamp: rows are of nodes valid at 2026-11-21 00:27:44 UTC, and of later edits\n"
        + graph_lines(recordings)
        + (BITS + COVERAGE + QUEUES + ROWS)
    )
    assert ran.exit_code == 0
    assert "sample: computing 15 nodes of chunk 0,0,0\n" in ran.stderr


def test_a_recorded_table_after_a_repair(recordings: Recordings, tmp_path: Path) -> None:
    """PCGL2Cache does not record which chunks are done, so `doctor` and `status` show the last audit."""
    client = bigtable.Client(project=PROJECT, admin=True)
    recordings.loader.load(client.instance(INSTANCE), recordings.dump("cache.json.gz"), "l2cache_repaired")
    config = config_of(recordings, tmp_path, "l2cache_repaired")
    assert run_audit(config, "--repair").returncode == 0
    (line,) = (
        line
        for line in run("doctor", "sample", "--config", config, "--sample", 0).stdout.splitlines()
        if " coverage: " in line
    )
    first, *_, audit = run("status", "sample", "--config", config).stdout.splitlines()
    assert line == f"ok       coverage: none of 12 chunks has a record, as in PCGL2Cache's tables; {audit}"
    assert "196 nodes expected, 159 present, 37 missing, of which 37 were repaired" in audit
    assert first.endswith(
        " l2cache_repaired: no chunk is recorded: not ingested yet, or ingested by PCGL2Cache"
    )


def test_an_old_table_without_meta(recordings: Recordings, tmp_path: Path) -> None:
    dump = recordings.dump("cache.json.gz")
    dump["families"] = {"0": None}
    dump["rows"] = [row for row in dump["rows"] if base64.b64decode(row[0]).isdigit()]
    client = bigtable.Client(project=PROJECT, admin=True)
    recordings.loader.load(client.instance(INSTANCE), dump, "l2cache_old")
    ran = run("doctor", "sample", "--config", config_of(recordings, tmp_path, "l2cache_old"))
    assert ran.stdout == (
        TABLE.format(table="l2cache_old", families="0")
        + "warning  meta: the table has no row 'meta', like older tables of PCGL2Cache: its rows are "
        "served, but the time of its nodes is unknown\n"
        '         fix: l2features ingest --timestamp "…" writes it, with the time at which the rows were '
        "made\n"
        "warning  timestamp: unknown: the table has no meta\n"
        "         fix: give audit and materialize a --timestamp\n"
        + graph_lines(recordings)
        + (BITS + COVERAGE + QUEUES + ROWS)
    )
    assert ran.exit_code == 0


def test_a_wrong_graph(recordings: Recordings, tmp_path: Path, table: str) -> None:
    config = config_of(recordings, tmp_path, table, "fixture_v1")
    ran = run("doctor", "sample", "--config", config)
    assert ran.stdout == (
        TABLE.format(table=table, families="0, 1, 2, 3, 4")
        + "problem  meta: the table is of graph 'fixture_v2', but the data set has graph 'fixture_v1'\n"
        "         fix: correct graph, cv_path or l2cache_id in the data sets file\n"
        "ok       timestamp: rows are of nodes valid at 2026-11-21 00:27:44 UTC, and of later edits\n"
        + graph_lines(recordings, "fixture_v1")
        + "problem  bits: the graph's ids have 8 bits for the layer and 2 per axis for the chunk: "
        "with these, 32 of 47 sampled rows lie outside its grid of 3x2x2: 144115188142964737 "
        "144115188142964738 144115188142964739 …\n"
        "         fix: in the data sets file, name the graph from which the rows were made, or use another "
        "table\n" + (COVERAGE + QUEUES) + "skipped  rows: not run, since these checks did not pass: bits\n"
    )
    assert ran.exit_code == 1


def sqlite_lines(config: Path) -> str:
    with closing(open_table(config)) as store:
        meta = store.meta()
    assert meta
    assert meta.geometry
    url = f"sqlite://{config.parent}/l2cache.db"
    return SQLITE.format(url=url, time=meta.timestamp, bounds=meta.geometry.bounds)


def test_a_missing_topic(undisturbed: Path, pubsub: PubSubEmulator) -> None:
    topic, sub = "projects/my-project/topics/doctor", "projects/my-project/subscriptions/{}"
    with PublisherClient() as publisher, SubscriberClient() as subscriber:
        publisher.create_topic(name=topic)
        wanted = 'attributes.remesh_priority = "true"'
        subscriber.create_subscription(
            request={"name": sub.format("edits"), "topic": topic, "filter": wanted}
        )
    ran = run(
        *("doctor", "sample", "--config", undisturbed, "--sample", 1),
        *("--topics", f"{topic},{topic}-missing"),
        *("--subscriptions", f"{sub.format('edits')},{sub.format('gone')}"),
    )
    lines = ran.stdout.splitlines()
    assert ran.stdout.startswith(sqlite_lines(undisturbed))
    assert lines[-7:-1] == [
        f"ok       topics: {topic}: exists; permissions cannot be checked here",
        f"problem  topics: {topic}-missing is missing",
        "         fix: gcloud pubsub topics create doctor-missing --project my-project",
        f"ok       subscriptions: {sub.format('edits')}: reads {topic}, of messages with {wanted}; "
        "permissions cannot be checked here",
        f"problem  subscriptions: {sub.format('gone')} is missing",
        "         fix: gcloud pubsub subscriptions create gone --project my-project --topic TOPIC, with "
        "filter and retention as in docs/operations.md",
    ]
    assert ran.exit_code == 1


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = "projects/my-project/topics/doctor"
    with refusing() as google, serving(lambda _: Answer("no", 403)) as server:
        monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", google)
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", google)
        cv_path = f"graphene://{server.url}/segmentation/table/minnie"
        config = dataset_file(tmp_path, cv_path, graph=None, store=STORE_URL, chunk_size=None)
        ran = run("doctor", "sample", "--config", config, "--topics", topic)
    assert ran.stdout == (
        f"problem  table: {STORE_URL}, table l2cache_sample: no access for you\n"
        "         fix: grant roles/bigtable.reader on the table to the account of this command "
        "(gcloud auth application-default login)\n"
        "skipped  meta: not run, since these checks did not pass: table\n"
        "skipped  timestamp: not run, since these checks did not pass: table\n"
        "problem  token: the user of the token may not view table minnie (HTTP 403)\n"
        "         fix: ask for view permission on the data set of minnie, and accept its terms of service\n"
        "skipped  graph: not run, since these checks did not pass: token\n"
        "skipped  segmentation: not run, since these checks did not pass: table, graph\n"
        "skipped  ids: not run, since these checks did not pass: table\n"
        "skipped  bits: not run, since these checks did not pass: table, segmentation\n"
        "skipped  coverage: not run, since these checks did not pass: table, segmentation\n"
        f"problem  topics: {topic}: this account lacks pubsub.topics.publish\n"
        f"         fix: grant roles/pubsub.publisher on {topic} to the account that needs it\n"
        "skipped  subscriptions: none is named: give --subscriptions to check them\n"
        "skipped  rows: not run, since these checks did not pass: table, segmentation, bits\n"
    )
    assert ran.exit_code == 1


def test_planted_rows(config: Path) -> None:
    """Check the causes that `doctor` reports for planted wrong rows and invalid ids."""
    with closing(open_table(config)) as store:
        rows = chunk_rows(store, Chunk(1, 0, 0)).features.copy()
        assert len(rows) >= 3
        rows["area_nm2"][0] += 1
        rows["size_nm3"][1] += 5
        store.write(rows[:2])
        mark = rows[2:3].copy()
        for name in (*NAMES, "has_pca"):
            mark[name] = 0
        store.write(mark)
        store.write(features_of([0, (1 << 56) + 7]))
        ids = rows["label"].tolist()
    ran = run("doctor", "sample", "--config", config, "--sample", 12)
    total = int(ran.stdout.splitlines()[-2].split()[4])
    assert ran.stdout.splitlines()[-6:] == [
        line
        for cause in (
            f"marked as not computed, but they have voxels: {ids[2]}",
            f"computed from other voxels than their nodes have (size_nm3): {ids[1]}",
            f"different in area_nm2 for no known cause: {ids[0]}",
        )
        for line in (
            f"problem  rows: 1 of {total} sampled rows are wrong: {cause}",
            "         fix: l2features ingest --recompute computes all rows again, at the table's timestamp",
        )
    ]
    assert total > 30
    assert ran.stdout.splitlines()[6:10] == [
        "warning  ids: the table has a row 0, in which PCGL2Cache merged supervoxels without a parent",
        "         fix: none is needed: l2features neither writes nor reads it",
        "problem  ids: the table has rows of ids below layer 2, such as 72057594037927943: PCGL2Cache stored "
        "supervoxels whose L2 node the graph's server did not know",
        "         fix: delete them (cbt deleterow), then: l2features audit --repair",
    ]
    assert ran.exit_code == 1


def test_a_first_compilation_is_announced(undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2features.jobs.job_command.COMPILING_S", 0.01)
    monkeypatch.setattr("l2features.kernel.warm_up", lambda on_step: time.sleep(0.2))
    ran = run("doctor", "sample", "--config", undisturbed, "--sample", 1)
    assert ran.stderr.startswith("sample: compiling the kernel, the first time only\nsample: computing ")


def test_a_complete_table_as_json(undisturbed: Path) -> None:
    ran = run("doctor", "sample", "--config", undisturbed, "--json", "--sample", 0)
    report = json.loads(ran.stdout)
    assert (report["dataset"], report["problems"], ran.exit_code) == ("sample", 0, 0)
    assert {f["check"]: f["status"] for f in report["findings"]} == {
        **dict.fromkeys(("table", "meta", "timestamp", "token", "graph", "segmentation"), "ok"),
        **dict.fromkeys(("ids", "bits", "coverage"), "ok"),
        **dict.fromkeys(("topics", "subscriptions", "rows"), "skipped"),
    }
    coverage = next(f for f in report["findings"] if f["check"] == "coverage")
    assert coverage == {"check": "coverage", "status": "ok", "text": "all of 12 chunks are done", "fix": None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("other",), "data set 'other' is not in the data sets file: expected one of sample"),
        (("sample", "--topics", "l2-missing"), "topic 'l2-missing': expected projects/PROJECT/topics/NAME"),
        (("sample", "--sample", "-1"), "-1 is not in the range"),
    ],
)
def test_mistakes(undisturbed: Path, arguments: tuple[str, ...], message: str) -> None:
    ran = run("doctor", *arguments, "--config", undisturbed)
    assert ran.exit_code == 2
    assert message in ran.output


@pytest.mark.parametrize(
    ("status", "text"),
    [(401, "does not accept the token (HTTP 401)"), (302, "does not accept the token (HTTP 302)")],
)
def test_a_token_that_is_not_accepted(tmp_path: Path, status: int, text: str) -> None:
    with serving(lambda _: Answer("", status, {"Location": "/login"})) as server:
        path = f"graphene://{server.url}/segmentation/table/minnie"
        config = dataset_file(tmp_path, path, graph=None, store=f"sqlite://{tmp_path}/no.db", chunk_size=None)
        ran = run("doctor", "sample", "--config", config)
    host = server.url.partition("//")[2]
    assert f"problem  token: {host} {text}\n" in ran.stdout
    assert f"         fix: replace it in ~/.cloudvolume/secrets/{host}-cave-secret.json\n" in ran.stdout
    [asked] = server.asked
    assert (asked.path, asked.headers["Authorization"]) == (
        "/segmentation/table/minnie/info",
        f"Bearer {'0123456789abcdef' * 2}",
    )
