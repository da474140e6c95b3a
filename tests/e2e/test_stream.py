"""Tests of the local updater process with the Pub/Sub emulator and a SQLite store."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from beam_jobs.update import main
from l2features.config.datasets import load_datasets
from l2features.core.geometry import Chunk
from l2features.core.ids import Ids, as_ids
from l2features.local import updater_run
from l2features.local.updater_run import Supervisor
from l2features.pubsub.letter import DeadLetter
from l2features.pubsub.letter_folder import LetterFolder
from l2features.pubsub.subscription import Subscription
from l2features.store.base import Store
from l2features.testing.emulators import PubSubEmulator
from l2features.testing.feed import Feed
from l2features.testing.stores import chunk_rows, open_table
from l2features.updates import backoff
from l2features.updates.freshness import read_updates
from l2features.updates.updater import Update
from tests.support.intake import wait_for
from tests.support.jobs import ROOT, own_copy, run_job
from tests.support.update_replay import EDIT, MISSING, Evil, edit

LONGEST_S = 300.0
"""What the start of a few processes may take on a loaded machine."""
ATTRIBUTES = {"table_id": "sample", "l2_cache_id": "l2cache_sample"}


class Running:
    """An updater process and its table in ``folder``.

    A folder without a table gets a copy of the one in the data sets file ``finished``. An existing table is
    not replaced, because connections to it may be open.
    """

    def __init__(self, finished: Path, folder: Path, *flags: str, **more: str) -> None:
        there = folder / "datasets.yml"
        self.config = there if there.exists() else own_copy(finished, folder)
        self.store: Store = open_table(self.config)
        geometry = self.store.geometry()
        assert geometry
        self.geometry, self.dead, self.feed = geometry, folder / "dead", Feed()
        self.log, ready = folder / "log", folder / "ready"
        command = [sys.executable, "-m", "beam_jobs.update", "--config", str(self.config)]
        command += ["--subscriptions", self.feed.subscription, "--dead_letters", str(self.dead), *flags]
        command += ["--ready_file", str(ready)]
        ready.unlink(missing_ok=True)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=log, env={**os.environ, **more})
        wait_for(ready.exists, LONGEST_S)

    def ids(self, chunk: Chunk) -> Ids:
        chunk_id = self.geometry.chunk_id(chunk)
        return self.store.scan_chunk(chunk_id, self.geometry.layout.last_id(chunk_id)).ids

    def rows(self, ids: Ids) -> bytes:
        return self.store.read(ids).features.tobytes()

    def forget(self, ids: Ids) -> None:
        for node in ids.tolist():
            self.store.delete(node, node)
        assert not self.store.read(ids).found.any()

    def ask_for(self, ids: Ids) -> None:
        self.feed.publish(ids.astype("<u8").tobytes(), attributes=ATTRIBUTES)

    def wait_for_rows(self, ids: Ids) -> None:
        wait_for(lambda: bool(self.store.read(ids).found.all()), LONGEST_S)

    def done(self) -> int:
        """Return the number of messages done, from the table's freshness record."""
        updates = read_updates(self.store)
        return updates.updaters[0].messages if updates and updates.updaters else 0

    def letters(self) -> list[DeadLetter]:
        return [letter for _, letter in LetterFolder(self.dead).letters()] if self.dead.exists() else []

    def workers(self) -> list[psutil.Process]:
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):  # one that has just ended
                found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
        return found

    def left(self) -> list[bytes]:
        """Return the messages left in the subscription."""
        subscribed = Subscription(self.feed.subscription)
        left = [message.data for message in subscribed.pull(100, 3)]
        subscribed.close()
        return left

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(LONGEST_S) == 0, self.log.read_text()


@pytest.fixture
def running(
    request: pytest.FixtureRequest, config: Path, pubsub: PubSubEmulator, tmp_path: Path
) -> Iterator[Running]:
    workers = str(getattr(request, "param", 2))
    running = Running(config, tmp_path, "--workers", workers, "--attempts", "2")
    yield running
    children = running.workers() if running.process.poll() is None else []
    running.process.kill()
    running.process.wait()
    for child in children:
        child.kill()
    running.store.close()


def test_rows_freshness_and_a_clean_stop(running: Running) -> None:
    """An updater that is stopped finishes its batches, and leaves nothing behind."""
    ids = np.concatenate([running.ids(Chunk(x, 0, 0)) for x in range(3)])
    before = running.rows(ids)
    running.forget(ids)
    for part in np.array_split(ids, 7):
        running.ask_for(part)
    running.feed.publish(b"", attributes=ATTRIBUTES)
    running.wait_for_rows(ids)
    assert running.rows(ids) == before
    wait_for(lambda: running.done() == 8, LONGEST_S)
    children = running.workers()
    assert len(children) == 2
    running.end()
    assert not any(child.is_running() for child in children)
    assert running.left() == []
    assert running.letters() == []
    updates = read_updates(running.store)
    assert updates is not None
    assert updates.newest_message is not None
    assert [updater.messages for updater in updates.updaters] == [8]
    assert [updater.backlog and updater.backlog.messages for updater in updates.updaters] == [0]
    assert f"8 messages done, 0 refused; ids: {len(ids)} written" in running.log.read_text()


@pytest.mark.parametrize("running", [1], indirect=True)
def test_poison_becomes_dead_letters_and_later_messages_are_done(running: Running, tmp_path: Path) -> None:
    first, ids = running.geometry.chunk_id(Chunk(0, 0, 0)), running.ids(Chunk(1, 1, 0))
    running.forget(ids)
    witness = tmp_path / "witness"
    bomb = pickle.dumps([0])[:-1] + b"2a" * 2_000_000 + b"."
    edits = {**EDIT, "table_id": "sample"}
    poison: list[tuple[bytes, dict[str, str], str]] = [
        (np.random.default_rng(1).bytes(5_000), edits, "bad_pickle"),
        (bomb, edits, "too_large"),
        (b"\x80\x04" + b"(" * 900_000 + b".", edits, "bad_pickle"),
        (pickle.dumps(Evil(f"touch {witness}")), edits, "bad_pickle"),
        (edit(int(ids[0]))[:-5], edits, "bad_pickle"),
        (bytes(9_999_999), ATTRIBUTES, "bad_length"),
        (b"1234567", ATTRIBUTES, "bad_length"),
        (edit(int(ids[0])), {"remesh": "true"}, "no_table"),
        (edit(int(ids[0])), {**edits, "table_id": "other"}, "unknown_table"),
        (edit("x", int(ids[1])), edits, "not_an_integer"),
        (edit(-1), edits, "out_of_range"),
        (edit(3 << 56, int(ids[2])), edits, "other_layer"),
        (edit(first), edits, "no_segment"),
        (as_ids([(2 << 56) | (1 << 54) | 5]).tobytes(), ATTRIBUTES, "outside_grid"),
        (edit(first + 60_000), edits, "unknown_node"),
    ]
    for data, attributes, _ in poison:
        running.feed.publish(data, attributes=attributes)
    running.feed.publish(b"", attributes=MISSING)
    running.ask_for(ids)
    running.wait_for_rows(ids)
    wait_for(lambda: len(running.letters()) == len(poison), LONGEST_S)
    found = {
        (
            letter.data,
            letter.attributes.get("table_id", ""),
        ): letter.reasons
        for letter in running.letters()
    }
    assert found == {(data, attributes.get("table_id", "")): [reason] for data, attributes, reason in poison}
    assert not witness.exists()
    named = ["not_an_integer", "out_of_range", "other_layer", "no_segment", "outside_grid", "unknown_node"]
    assert {reason for _, _, reason in poison} >= {*named}
    done = len(named) + 1  # also what is refused shows how fresh the table is
    wait_for(lambda: running.done() == done, LONGEST_S)
    running.end()
    assert running.left() == []


def test_killed_workers(running: Running) -> None:
    ids = np.concatenate([running.ids(Chunk(x, y, 0)) for x in range(3) for y in range(2)])
    before = running.rows(ids)
    running.forget(ids)
    for node in ids:
        running.ask_for(as_ids([node]))
    for pause in (0.3, 0.6, 0.1):
        time.sleep(pause)
        for worker in running.workers():
            worker.kill()
    running.wait_for_rows(ids)
    assert running.rows(ids) == before
    # a worker that was killed after its rows were written has not acknowledged their messages
    wait_for(lambda: running.done() >= len(ids), LONGEST_S)
    running.end()
    assert running.left() == []
    assert running.letters() == []
    assert "a worker died (SIGKILL)" in running.log.read_text()


@pytest.mark.parametrize("running", [1], indirect=True)
def test_a_killed_updater(running: Running, config: Path, tmp_path: Path) -> None:
    """Check that its messages are redelivered, and that its suspended workers exit."""
    ids = running.ids(Chunk(0, 1, 0))
    before, workers = running.rows(ids), running.workers()
    for worker in workers:
        worker.suspend()  # so that what they are given stays undone
    running.forget(ids)
    running.ask_for(ids)
    time.sleep(1)
    running.process.kill()
    assert not psutil.wait_procs(workers, LONGEST_S)[1]
    again = Running(config, tmp_path, "--workers", "1", "--subscriptions", running.feed.subscription)
    again.forget(ids)
    again.wait_for_rows(ids)
    assert again.rows(ids) == before
    again.end()
    assert running.left() == []


def before_reads(folder: Path, statements: str) -> str:
    """Return a PYTHONPATH. With it, processes run ``statements`` before each read of a chunk (``chunk``)."""
    (folder / "sitecustomize.py").write_text(
        "import os, time, l2features.volume as v\n"
        "read = v.Volume.slabs\n"
        "def sabotaged(self, chunk, *more):\n"
        f"    {statements}\n"
        "    return read(self, chunk, *more)\n"
        "v.Volume.slabs = sabotaged\n"
    )
    return os.pathsep.join([str(folder), str(ROOT)])


def test_a_long_batch_with_progress_is_not_killed(
    undisturbed: Path, pubsub: PubSubEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message names nodes of all chunks. Its batch outlasts `BATCH_TIMEOUT_S`, but makes progress."""
    monkeypatch.setenv("PYTHONPATH", before_reads(tmp_path, "time.sleep(0.7)"))
    monkeypatch.setattr(updater_run, "BATCH_TIMEOUT_S", 5.0)
    config, feed = own_copy(undisturbed, tmp_path), Feed()
    store = open_table(config)
    places = [Chunk(*map(int, xyz)) for xyz in np.ndindex(3, 2, 2)]
    ids = np.concatenate([chunk_rows(store, chunk).ids[:2] for chunk in places])
    for node in ids.tolist():
        store.delete(node, node)
    feed.publish(ids.astype("<u8").tobytes(), attributes=ATTRIBUTES)
    update, dead = Update(tuple(load_datasets(config).values()), attempts=1), tmp_path / "dead"
    supervisor = Supervisor(update, str(dead), [Subscription(feed.subscription)], 1, 2)
    with ended_when(lambda: bool(supervisor.totals)):
        supervisor.run()
    assert supervisor.totals == {"messages_done": 1, "ids_written": len(ids)}
    assert store.read(ids).found.all()
    assert not dead.exists() or not list(dead.iterdir())


@contextmanager
def ended_when(condition: Callable[[], bool]) -> Iterator[None]:
    """Send SIGTERM to this process when a condition holds, or after a timeout."""

    def watch() -> None:
        until = time.monotonic() + LONGEST_S
        while time.monotonic() < until and not condition():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    watching = threading.Thread(target=watch)
    watching.start()
    yield
    watching.join()


def test_a_signal_to_all_processes(config: Path, pubsub: PubSubEmulator, tmp_path: Path) -> None:
    """Signal the workers too, as service managers and terminals do; check that batches finish."""
    reading, go = tmp_path / "reading", tmp_path / "go"
    wait = f"open({str(reading)!r}, 'w')\n    while not os.path.exists({str(go)!r}): time.sleep(0.05)"
    path = before_reads(tmp_path, wait)
    running = Running(config, tmp_path, "--workers", "2", PYTHONPATH=path)
    ids = running.ids(Chunk(0, 1, 0))
    before, workers = running.rows(ids), running.workers()
    running.forget(ids)
    running.ask_for(ids)
    wait_for(reading.exists, LONGEST_S)
    for worker in workers:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            worker.send_signal(number)
    running.process.send_signal(signal.SIGTERM)
    go.touch()
    assert running.process.wait(LONGEST_S) == 0
    assert running.rows(ids) == before
    assert "died" not in running.log.read_text()
    assert running.left() == []
    running.store.close()


def test_a_message_that_kills_its_workers(
    undisturbed: Path, pubsub: PubSubEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", before_reads(tmp_path, "if tuple(chunk) == (1, 0, 0): os._exit(9)"))
    monkeypatch.setattr(updater_run, "MAX_DEATHS", 2)
    monkeypatch.setattr(backoff, "FIRST_PAUSE_S", 1)
    config, feed = own_copy(undisturbed, tmp_path), Feed()
    store = open_table(config)
    geometry: Any = store.geometry()
    wanted = {}
    for chunk in (Chunk(0, 0, 0), Chunk(1, 0, 0), Chunk(2, 0, 0)):
        chunk_id = geometry.chunk_id(chunk)
        wanted[chunk] = store.scan_chunk(chunk_id, geometry.layout.last_id(chunk_id)).ids[:1]
        store.delete(chunk_id, geometry.layout.last_id(chunk_id))
        feed.publish(wanted[chunk].tobytes(), attributes=ATTRIBUTES)
    update, dead = Update(tuple(load_datasets(config).values()), attempts=1), tmp_path / "dead"
    supervisor = Supervisor(update, str(dead), [Subscription(feed.subscription)], 1, 2)
    with ended_when(lambda: dead.exists() and bool(list(dead.glob("*.json")))):
        supervisor.run()
    (letter,) = [letter for _, letter in LetterFolder(dead).letters()]
    assert letter.data == wanted[Chunk(1, 0, 0)].tobytes()
    assert letter.reasons == ["still_failed"]
    assert "a worker died (exit status 9), 2 times" in letter.refusals[0].detail
    found = store.read(np.concatenate(list(wanted.values()))).found.tolist()
    assert found == [True, False, True]


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--subscriptions", "edits"], 2, "error: subscription 'edits': expected projects/PROJECT/subscript"),
        (["--subscriptions", "projects/p/subscriptions/not-there"], 1, "not-there: cannot pull"),
        (
            ["--subscriptions", "projects/p/subscriptions/any", "--dead_letters", "/dev/null/dead"],
            1,
            "error: folder /dev/null/dead: cannot write dead letters",
        ),
        (["--subscriptions", "projects/p/subscriptions/any", "--workers", "0"], 2, "--workers 0: expected"),
        (["--subscriptions", "projects/p/subscriptions/any", "--messages", "x"], 2, "not allowed with"),
        ([], 2, "--messages FOLDER or FILE, or --subscriptions PATH[,PATH…], is required"),
    ],
)
def test_a_users_mistake(
    config: Path, pubsub: PubSubEmulator, tmp_path: Path, flags: list[str], status: int, words: str
) -> None:
    done = run_job(main, "--config", config, "--dead_letters", tmp_path / "dead", *flags)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
