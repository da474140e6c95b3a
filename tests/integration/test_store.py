"""Tables and their meta, in stores of each kind."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from l2features.core.errors import ConfigError, TableExists, TableNotFound
from l2features.core.ids import as_ids
from l2features.store.base import DONE, ChunkRecord, Meta, Store, open_store
from l2features.testing.stores import CHUNK, FIRST, GEOMETRY, LAYOUT, META, META_REST, T0, features_of


def test_create_twice_and_with_another_meta(store: Store) -> None:
    store.write(features_of([FIRST]))
    store.create(META)
    assert store.meta() == META
    for other in (Meta("other", *META_REST), Meta("fixture", META.cv_path, "2020-01-01 00:00:00", GEOMETRY)):
        with pytest.raises(TableExists, match=rf"table {store.name} is in .* already, with another meta"):
            store.create(other)
    assert store.meta() == META
    assert store.read([FIRST]).found.all()


def test_meta_may_lack_the_geometry_and_be_stamped_again(new_store: Callable[..., Store]) -> None:
    store = new_store()
    plain = Meta("fixture", "graphene://x", "2026-11-21 00:27:44")
    store.create(plain)
    assert store.meta() == plain
    store.stamp(META)
    assert store.meta() == META
    assert new_store(store.name).meta() == META
    assert META.time == datetime(2026, 11, 21, 0, 27, 44, tzinfo=UTC)


def test_a_table_that_is_not_there(new_store: Callable[..., Store]) -> None:
    new_store().create(META)  # another table of the same store
    store, record = new_store(), ChunkRecord(CHUNK, DONE, T0)
    for use in (
        store.meta,
        lambda: store.read([FIRST]),
        lambda: store.write(features_of([FIRST])),
        lambda: store.stamp(META),
        lambda: store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK)),
        lambda: store.put_chunk(record),
        lambda: store.chunk_states(as_ids([CHUNK])),
        lambda: list(store.chunk_records()),
        lambda: store.segments(CHUNK),
        store.geometry,
        lambda: store.put_geometry(GEOMETRY),
        store.coverage,
        lambda: store.failures(as_ids([CHUNK])),
        store.ping,
    ):
        with pytest.raises(TableNotFound, match=f"table {store.name}.* not found"):
            use()


def test_tables_of_a_store_are_apart(store: Store, new_store: Callable[..., Store]) -> None:
    for name in (f"{store.name}.nodes", f"{store.name}-b"):
        other = new_store(name)
        other.create(Meta("b", *META_REST))
        assert not other.read([FIRST]).found.any()
        other.write(features_of([FIRST]))
        other.put_chunk(ChunkRecord(CHUNK, DONE, T0))
    assert not store.read([FIRST]).found.any()
    assert list(store.chunk_records()) == []
    assert store.meta() == META


def test_an_open_store_can_be_pickled(store: Store) -> None:
    store.write(features_of([FIRST]))
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.url, copy.name, copy.meta()) == (store.url, store.name, META)
    assert pickle.loads(pickle.dumps(open_store(store.url, store.name, 7.5))).deadline_s == 7.5
    assert copy.read([FIRST]).found.all()
    copy.close()


def test_a_closed_store_opens_again(store: Store) -> None:
    store.close()
    store.write(features_of([FIRST]))
    store.close()
    assert store.read([FIRST]).found.all()


@pytest.mark.parametrize(
    ("url", "name", "message"),
    [
        ("mysql://x/y", "t", "expected bigtable://project/instance or sqlite:///path/file.db"),
        ("", "t", "expected bigtable://"),
        ("bigtable://p", "t", "expected bigtable://project/instance"),
        ("bigtable://p/i/t", "t", "expected bigtable://project/instance"),
        ("sqlite://relative.db", "t", "expected sqlite:///path/file.db with an absolute path"),
        ("sqlite:///folder/", "t", "expected sqlite:///path/file.db"),
        ("sqlite:///a.db", "", "table name '': expected 1 to 50"),
        ("sqlite:///a.db", 'x"; DROP TABLE', "expected 1 to 50"),
        ("sqlite:///a.db", "x" * 51, "expected 1 to 50"),
    ],
)
def test_urls_and_names_that_cannot_be(url: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_store(url, name)


def test_a_geometry_of_its_own(store: Store, new_store: Callable[..., Store]) -> None:
    assert store.geometry() == GEOMETRY
    other = replace(GEOMETRY, voxel_size=(5, 6, 7))
    store.put_geometry(other)
    assert store.geometry() == other
    assert store.meta() == replace(META, geometry=other)
    plain = new_store()
    plain.create(Meta(META.graph_id, META.cv_path, META.timestamp))
    assert plain.geometry() is None
    plain.put_geometry(GEOMETRY)
    plain.stamp(Meta(META.graph_id, META.cv_path, META.timestamp))
    assert plain.meta() == META


def test_ping(store: Store, new_store: Callable[..., Store]) -> None:
    store.ping()
    with pytest.raises(TableNotFound, match="not found"):
        new_store().ping()


def test_a_store_that_was_made_before_a_fork_works_after_it(store: Store) -> None:
    """As under gunicorn, which loads the application before it forks. gRPC wants nothing opened before."""
    store.write(features_of([FIRST]))
    script = FORK.format(url=store.url, name=store.name, first=FIRST)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "found\n" * 3), ran.stderr


FORK = """
import os, sys
from l2features.store import open_store
store = open_store("{url}", "{name}")
if "sqlite" in store.url:
    store.ping()  # its connection must not be used by the children
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        if store.read([{first}]).found.all():
            os.write(1, b"found\\n")
        store.close()
        os._exit(0)
    children.append(child)
sys.exit(sum(os.waitpid(child, 0)[1] for child in children))
"""


def test_threads_share_a_store(new_store: Callable[..., Store], store: Store) -> None:
    features = features_of(np.arange(FIRST, FIRST + 3_000, dtype=np.uint64))
    store.write(features)
    fresh, barrier = new_store(store.name), threading.Barrier(8)

    def read(i: int) -> bool:
        barrier.wait()
        part = features[i::8]
        return fresh.read(part["label"]).features.tobytes() == part.tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


def test_notes_are_kept_with_a_table(new_store: Callable[..., Store]) -> None:
    store = new_store()
    with pytest.raises(TableNotFound):
        store.note("audit")
    with pytest.raises(TableNotFound):
        store.put_note("audit", "lost")
    store.create(META)
    assert store.note("audit") is None
    store.put_note("audit", "first")
    store.put_note("audit", '{"ä": 1}')
    store.put_note("other", "x")
    assert (store.note("audit"), store.note("other"), store.note("none")) == ('{"ä": 1}', "x", None)
    assert new_store(store.name).note("audit") == '{"ä": 1}'
    assert store.meta() == META
    assert len(store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK))) == 0
    with pytest.raises(ValueError, match="note 'a-b'"):
        store.put_note("a-b", "")
