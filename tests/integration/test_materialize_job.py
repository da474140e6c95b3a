"""Tests of the job that makes frozen versions of a data set: fresh ones, renewals and resumed runs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import deltalake
import polars
import pytest

from l2features.core.ids import as_ids
from l2features.store.base import Store
from l2features.store.notes import read_note
from l2features.testing.stores import open_table
from l2features.versions import completion
from l2features.versions.folders import Folder
from l2features.versions.manifest import read_manifest, version_numbers
from l2features.versions.places import NOTE, Place
from tests.support.graph_roots import known_history
from tests.support.jobs import Recordings, own_copy
from tests.support.recordings import check_values
from tests.support.version_job import (
    check_nodes,
    content,
    files_of,
    ingested,
    made,
    other_graph,
    run_materialize,
)

T0, T1 = 1_795_220_864_000, 1_795_224_833_000


@pytest.fixture(scope="module")
def v2(recordings: Recordings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingested(tmp_path_factory.mktemp("v2"), recordings, "fixture_v2")


@pytest.fixture
def table(v2: Path) -> Iterator[Store]:
    with closing(open_table(v2)) as store:
        yield store


def roots_at(recordings: Recordings, when: str) -> dict[int, int]:
    return {int(i): root for i, root in recordings.json("roots.json")["l2_to_root"][when].items()}


def test_versions_equal_the_recordings(
    v2: Path, table: Store, recordings: Recordings, tmp_path: Path
) -> None:
    recorded = recordings.json("roots.json")
    features = recordings.json("features.json")["features"]
    check_values(table.read(as_ids([*map(int, features)])), features)
    for number, when in enumerate(("t0", "tm", "t1"), 1):
        manifest = made(v2, tmp_path, recorded[f"{when}_ms"])
        assert manifest.number == number
        check_nodes(manifest, tmp_path, roots_at(recordings, when), table)
    assert version_numbers(Folder(str(tmp_path))) == [1, 2, 3]
    assert read_note(table, NOTE, Place) == Place(url=str(tmp_path))


def test_a_version_of_the_first_format(recordings: Recordings, tmp_path: Path) -> None:
    config = ingested(tmp_path, recordings, "fixture_v1")
    manifest = made(config, tmp_path / "versions", T0)
    with closing(open_table(config)) as store:
        features = recordings.json("features_v1.json")["features"]
        check_values(store.read(as_ids([*map(int, features)])), features)
        rows = content(manifest, tmp_path / "versions")
        roots = {row["l2_id"]: row["root_id"] for row in rows[2]}
        assert sorted(roots) == sorted(map(int, features))
        check_nodes(manifest, tmp_path / "versions", roots, store)


def test_from_a_graph_server(v2: Path, recordings: Recordings, tmp_path: Path) -> None:
    """Check a fresh and a renewed version against the recorded roots."""
    config = other_graph(v2, tmp_path, "graphene")
    tm = recordings.json("roots.json")["tm_ms"]
    out = tmp_path / "versions"
    with closing(open_table(config)) as store:
        first = made(config, out, T0)
        check_nodes(first, out, roots_at(recordings, "t0"), store)
        check_nodes(made(config, out, tm, "--base", 1), out, roots_at(recordings, "tm"), store)


def test_a_flat_data_set(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "versions"
    manifest = made(config, out, T0)
    with closing(open_table(config)) as store:
        chunks = [record for record in store.chunk_records() if record.nodes]
        nodes = [
            i for record in chunks for i in range(record.chunk_id + 1, record.chunk_id + 1 + record.nodes)
        ]
        rows = content(manifest, out)[2]
        assert sorted(row["l2_id"] for row in rows) == sorted(nodes)
        segments = {
            record.chunk_id + 1 + i: segment
            for record in chunks
            for i, segment in enumerate(as_ids(store.segments(record.chunk_id)).tolist())
        }
        check_nodes(manifest, out, segments, store)
    done = run_materialize(config, out, T0 + 1, "--base", 1)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "has no graph, so versions cannot be renewed: leave out --base" in done.stderr


def test_a_part_of_the_grid(v2: Path, table: Store, recordings: Recordings, tmp_path: Path) -> None:
    part = ("--chunks", "0:2,1:2,0:2")
    tm = recordings.json("roots.json")["tm_ms"]
    layout = table.geometry().layout  # type: ignore[union-attr]

    def inside(when: str) -> dict[int, int]:
        roots = roots_at(recordings, when)
        x, y, _ = layout.chunk_coordinates(as_ids([*roots])).T
        return {
            node: root for (node, root), kept in zip(roots.items(), (x < 2) & (y == 1), strict=True) if kept
        }

    check_nodes(made(v2, tmp_path, T0, *part), tmp_path, inside("t0"), table)
    check_nodes(made(v2, tmp_path, tm, *part, "--base", 1), tmp_path, inside("tm"), table)
    whole = run_materialize(v2, tmp_path, tm, "--base", 1)
    assert (whole.returncode, whole.stderr) == (
        2,
        "error: --base 1 has box '0:2,1:2,0:2': expected '0:3,0:2,0:2'\n",
    )


# ------------------------------------------------------------------ renewal
def test_renewals_over_every_edit_equal_fresh_versions(
    v2: Path, recordings: Recordings, tmp_path: Path
) -> None:
    """Some nodes start without rows. Half of the rows are added before one renewal, half before another."""
    config, history = own_copy(v2, tmp_path), known_history(recordings)
    chain, fresh = tmp_path / "chain", tmp_path / "fresh"
    edits = sorted({ms for ms in history.edits_ms if T0 < ms <= T1})
    times = [*edits, T1 + 1, T1 + 2, T1 + 3]
    with closing(open_table(config)) as store:
        ids = as_ids(sorted(node for root in history.roots.values() for node in root.l2_ids))[::3]
        late = store.read(as_ids(sorted(set(ids.tolist()))))
        for node in late.ids.tolist():
            store.delete(node, node)
        manifests = [made(config, chain, T0)]
        assert manifests[0].totals.missing > 40
        for i, ms in enumerate(times):
            if i in (3, len(edits) - 4):
                store.write(late.features[i % 2 :: 2])
            manifests.append(made(config, chain, ms, "--base", manifests[-1].number))
            rows = content(manifests[-1], chain)
            assert {row["l2_id"]: row["root_id"] for row in rows[2]} == history.nodes(ms)
            if i % 6 == 5 or i == len(times) - 1:
                assert rows == content(made(config, fresh, ms), fresh), ms
    totals = [manifest.totals.missing for manifest in manifests]
    assert totals[0] > totals[-1]
    assert len(edits) == 18
    # the 21st renewal is made anew
    assert [m.number for m in manifests if m.base is None] == [1, 22]


def test_a_renewal_without_changes_adds_no_rows(v2: Path, tmp_path: Path) -> None:
    base = made(v2, tmp_path, T0)
    again = made(v2, tmp_path, T0 + 1, "--base", 1)
    assert [file.path for file in again.layers[-1].files] == ["000002/retired.parquet"]
    assert content(again, tmp_path) == content(base, tmp_path)
    rebased = made(v2, tmp_path, T0 + 2, "--base", 2, "--rebase")
    assert (rebased.base, len(rebased.layers)) == (None, 1)
    assert content(rebased, tmp_path) == content(base, tmp_path)


# ------------------------------------------------------------------ Beam, ends
def test_a_beam_runner_writes_the_same_files(v2: Path, recordings: Recordings, tmp_path: Path) -> None:
    tm = recordings.json("roots.json")["tm_ms"]
    for name, flags in (("local", ()), ("beam", ("--runner=FnApiRunner",))):
        for number, (ms, more) in enumerate([(T0, ()), (tm, ("--base", 1))], 1):
            done = run_materialize(v2, tmp_path / name, ms, *flags, *more)
            assert (done.returncode, done.stderr) == (0, "") or name == "local", done.stderr
            assert done.stdout.startswith(f"version {number} at 2026-11-21T")
    files = files_of(tmp_path / "local")
    assert len(files) == 11
    assert files_of(tmp_path / "beam") == files


def test_a_stopped_job_continues(v2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from l2features.versions import spill

    put = spill.Spill.put

    def put_and_stop(self: spill.Spill, unit: int, rows: Any) -> None:
        put(self, unit, rows)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(spill.Spill, "put", put_and_stop)
    stopped = run_materialize(v2, tmp_path / "one", T0)
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert stopped.stderr.endswith("stopped: run the command again to continue\n")
    assert version_numbers(Folder(str(tmp_path / "one"))) == []
    other = run_materialize(v2, tmp_path / "one", T0 + 1)
    assert other.returncode == 1
    assert "error: version 1 in " in other.stderr
    assert "is unfinished, for data set 'sample' at 2026-11-21T00:27:44.000Z" in other.stderr
    monkeypatch.undo()
    made(v2, tmp_path / "one", T0)
    made(v2, tmp_path / "other", T0)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "other")


def test_of_two_jobs_at_once_one_wins(v2: Path, tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    made(v2, tmp_path, T0)
    before = files_of(tmp_path)
    (tmp_path / "000001" / "work").mkdir()
    with folder.locked("000001/plan.json"):
        second = run_materialize(v2, tmp_path, T0)
    assert (second.returncode, second.stderr) == (
        1,
        f"error: version 1 in {tmp_path} is being made by another job: wait for it\n",
    )
    # what a job leaves that is killed after its manifest is removed by the same command
    again = run_materialize(v2, tmp_path, T0)
    assert again.stdout.startswith("version 1 at 2026-11-21T00:27:44.000Z: 159 nodes of ")
    assert files_of(tmp_path) == before
    assert not (tmp_path / "000001" / "work").exists()
    assert made(v2, tmp_path, T0).number == 2


def test_the_latest_version_is_the_base(v2: Path, tmp_path: Path) -> None:
    latest = ("--base", "latest")
    assert made(v2, tmp_path, T0, *latest).base is None
    assert made(v2, tmp_path, T0 + 1, *latest).base == 1
    before = files_of(tmp_path)
    (tmp_path / "000002" / "work").mkdir()  # as left by a job that is killed after its manifest
    assert made(v2, tmp_path, T0 + 1, *latest).number == 2
    assert files_of(tmp_path) == before
    assert not (tmp_path / "000002" / "work").exists()
    (tmp_path / "000002" / "work").mkdir()
    assert made(v2, tmp_path, T0 + 1, *latest, "--rebase").base is None
    again = run_materialize(v2, tmp_path, T0, *latest)
    assert again.returncode == 2
    assert "error: --base 3 has timestamp 2026-11-21T00:27:44.001Z: expected a version older" in again.stderr


def test_one_that_finishes_first_keeps_its_manifest(
    v2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs on different hosts share no lock, so the first manifest must stay."""
    finish, firsts = completion.finish, list[Any]()

    def overtaken(run: Any, done: Any) -> Any:
        other = type(run)(run.units, run.url)
        firsts.append(finish(other, done))
        return finish(run, done)

    monkeypatch.setattr("l2features.jobs.materialize_run.finish", overtaken)
    done = run_materialize(v2, tmp_path, T0)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        f"error: version 1 in {tmp_path} was finished by another job",
    )
    assert read_manifest(Folder(str(tmp_path)), 1) == firsts[0]


# ------------------------------------------------------------------ Delta Lake
def test_fresh_versions_are_commits_of_a_delta_table(v2: Path, tmp_path: Path) -> None:
    first = made(v2, tmp_path, T0, "--delta")
    before = files_of(tmp_path / "000001")
    url = str(tmp_path)
    known = content(first, tmp_path)[1]
    order = ["root_id", "l2_id"]
    assert polars.scan_delta(url).sort(order).collect().to_dicts() == known
    (tmp_path / "000001" / "work").mkdir()  # as left by a job that is killed after its manifest
    assert made(v2, tmp_path, T0, "--base", "latest", "--delta").number == 1
    renewed = run_materialize(v2, tmp_path, T1, "--base", 1, "--delta")
    assert (renewed.returncode, renewed.stderr.count("\n")) == (2, 1)
    assert "error: --delta with --base 1: a Delta table cannot leave out retired roots: " in renewed.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001", "_delta_log"]
    second = made(v2, tmp_path, T1, "--base", 1, "--rebase", "--delta")
    table = deltalake.DeltaTable(url)
    assert table.version() == 1
    assert table.file_uris() == [f"{url}/{file.path}" for file in second.layers[0].of("by_root")]
    history = [(entry["l2features.version"], entry["l2features.job"]) for entry in table.history()]
    assert history == [("2", second.job), ("1", first.job)]
    root = known[0]["root_id"]
    found = polars.scan_delta(url, version=0).filter(polars.col("root_id") == root).collect()
    assert found.sort("l2_id").to_dicts() == [row for row in known if row["root_id"] == root]
    assert files_of(tmp_path / "000001") == before
    (tmp_path / "000002" / "work").mkdir()  # killed before it cleaned up: it is not committed again
    done = run_materialize(v2, tmp_path, T1, "--delta")
    assert (done.returncode, deltalake.DeltaTable(url).version()) == (0, 1), done.stderr


# ------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    ("time", "flags", "code", "message"),
    [
        (
            "2999-01-01T00:00:00Z",
            [],
            2,
            "timestamp '2999-01-01T00:00:00Z': expected a time at least 60 s in the past (before 20",
        ),
        ("yesterday", [], 2, "yesterday"),
        ("2020-01-01T00:00:00Z", [], 1, "no node is valid at 2020-01-01T00:00:00.000Z in chunks 0:3,0:2,0:2"),
        ("2026-11-21T00:27:44Z", ["--base", "7"], 1, "version 7 is not in "),
        ("2026-11-21T00:27:44Z", ["--dataset", "unknown"], 2, "unknown"),
        (
            "2026-11-21T00:27:44Z",
            ["--output", "s3://bucket"],
            2,
            "folder 's3://bucket': expected an",
        ),
        (
            "2026-11-21T00:27:44Z",
            ["--output", "/proc/nothing"],
            1,
            "cannot write /proc/nothing/000001/",
        ),
        ("2026-11-21T00:27:44Z", ["--chunks", "0:9,0:1,0:1"], 2, "expected a part of the grid"),
        ("2026-11-21T00:27:44Z", ["--settle_seconds", "-1"], 2, "--settle_seconds -1: expected 0 or more"),
    ],
)
def test_a_users_mistake(
    v2: Path, tmp_path: Path, time: str, flags: list[str], code: int, message: str
) -> None:
    done = run_materialize(v2, tmp_path / "versions", time, *flags)
    assert (done.returncode, done.stdout) == (code, "")
    lines = [line for line in done.stderr.splitlines() if "sample:" not in line]
    assert message in lines[-1]
    assert lines[-1].startswith("error: ")
    assert not list((tmp_path / "versions").rglob("manifest.json"))


def test_bases_that_do_not_fit_and_other_content(v2: Path, tmp_path: Path) -> None:
    made(v2, tmp_path, T0)
    before = files_of(tmp_path)

    def refused(ms: int, *flags: object) -> str:
        done = run_materialize(v2, tmp_path, ms, *flags)
        assert (done.returncode in (1, 2), done.stdout, done.stderr.count("\n")) == (True, "", 1)
        return done.stderr

    why = "--base 1 has timestamp 2026-11-21T00:27:44.000Z: expected a version older than 2026-11-21T00:27:4"
    assert why in refused(T0, "--base", 1)
    manifest = tmp_path / "000001" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(text) | {"graph_id": "other"}))
    assert "--base 1 has graph_id 'other': expected " in refused(T0 + 1, "--base", 1)
    manifest.write_text(text)
    (tmp_path / "000002").mkdir()
    (tmp_path / "000002" / "plan.json").write_text("{")
    assert "000002/plan.json is not a plan: delete the folder 000002" in refused(T0)
    (tmp_path / "000002" / "plan.json").rename(tmp_path / "000002" / "notes.txt")
    assert "/000002 has 'notes.txt' but no plan.json" in refused(T0)
    assert (tmp_path / "000002" / "notes.txt").read_text() == "{"
    assert {k: v for k, v in files_of(tmp_path).items() if k.startswith("000001")} == before


def test_a_table_without_a_geometry(v2: Path, tmp_path: Path) -> None:
    config = own_copy(v2, tmp_path)
    config.write_text(config.read_text().replace("l2cache_sample", "l2cache_other"))
    done = run_materialize(config, tmp_path / "versions", T0)
    assert done.returncode == 1
    assert "l2cache_other" in done.stderr
    assert not (tmp_path / "versions").exists()
