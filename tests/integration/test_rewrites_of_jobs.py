"""Tests of a table's generation, an id that changes when rows are replaced."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from beam_jobs.update import main as update_main
from l2features.core.geometry import Chunk
from l2features.messages.parts import Delivery
from l2features.store.rewrites import end_rewrites, read_generation
from l2features.testing.stores import lose, open_table
from l2features.updates.apply import apply_messages
from l2features.updates.updater import Updater
from tests.support.ingest_jobs import run_ingest
from tests.support.jobs import own_copy, run_job
from tests.support.updates import EDIT, edit, updater

__all__ = ["updater"]
BEAM = ("--runner", "DirectRunner")


def generation(config: Path) -> bytes | None:
    with closing(open_table(config)) as store:
        return read_generation(store)


def test_an_updater_replaces_rows_only_if_it_computes_them_again(updater: Updater) -> None:
    store = updater.store("sample")
    end_rewrites(store)
    before = read_generation(store)
    ids = lose(store, Chunk(0, 0, 0), 2)
    apply_messages(updater, [Delivery("a", edit(*ids), EDIT)])
    assert store.read(ids).found.all()
    assert read_generation(store) == before
    updater.update = replace(updater.update, recompute=True)
    apply_messages(updater, [Delivery("a", edit(*ids), EDIT)])
    assert read_generation(store) is None
    updater.end_rewrites()
    assert read_generation(store) not in (None, before)


def test_the_ingest_ends_its_window(undisturbed: Path, tmp_path: Path) -> None:
    config = own_copy(undisturbed, tmp_path)
    seen = [generation(config)]
    for flags in ((), ("--recompute", "--test"), ("--recompute", "--chunks", "0:1,0:1,0:1", *BEAM)):
        ran = run_ingest(config, *flags)
        assert ran.returncode == 0, ran.stderr
        seen.append(generation(config))
    assert None not in seen
    assert seen[0] == seen[1]  # every chunk was done
    assert len(set(seen)) == 3


def test_a_replay_ends_its_window(undisturbed: Path, tmp_path: Path) -> None:
    config = own_copy(undisturbed, tmp_path)
    before = generation(config)
    with closing(open_table(config)) as store:
        ids = lose(store, Chunk(0, 0, 0), 1)
    (tmp_path / "a.bin").write_bytes(edit(*ids))
    (tmp_path / "a.json").write_text('{"attributes": {"table_id": "sample", "remesh": "true"}}')
    replay = ("--config", config, "--messages", tmp_path / "a.bin")
    for flag, same in (("--recompute=false", True), ("--recompute", False)):
        ran = run_job(update_main, *replay, flag)
        assert ran.returncode == 0, ran.stderr
        assert generation(config) is not None
        assert (generation(config) == before) == same
