"""Tests of the local updater's supervisor when workers and messages fail."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tqdm import tqdm

from l2features.core.ids import as_ids
from l2features.local import updater_run
from l2features.local import worker as worker_module
from l2features.local.processes import handled, heeded
from l2features.local.updater_run import Supervisor
from l2features.local.worker import Worker, WorkerDied
from l2features.pubsub.intake import Leased, Limits
from l2features.pubsub.letter_folder import LetterFolder
from l2features.pubsub.subscription import Received, Subscription
from l2features.testing.emulators import PubSubEmulator
from l2features.testing.feed import Feed
from l2features.updates.updater import Update
from tests.support.intake import wait_for

ATTRIBUTES = {"table_id": "sample"}


def supervisor(dead: Path, *feeds: Feed, attempts: int = 2) -> Supervisor:
    subscriptions = [Subscription(feed.subscription) for feed in feeds]
    return Supervisor(Update(()), str(dead), subscriptions, 2, attempts)


def test_failed_batches_go_after_more_urgent_messages(pubsub: PubSubEmulator, tmp_path: Path) -> None:
    urgent, low = Feed(), Feed()
    supervised = supervisor(tmp_path, urgent, low)
    intake = supervised.intake
    intake.start()
    low.publish(b"low1", b"low2")
    wait_for(lambda: intake.waiting(Limits(2))[0] == 2)
    supervised._failed(intake.take(9, 9, Limits(2)), "it broke", died=False)
    urgent.publish(b"urgent")
    wait_for(lambda: intake.waiting(Limits(1))[0] == 1)
    batches: list[list[bytes]] = []
    while len(batches) < 3:
        if batch := supervised._next_batch(9):
            batches.append([leased.message.data for leased in batch])
        time.sleep(0.05)
    assert batches[0] == [b"urgent"]
    assert sorted(batches[1:]) == [[b"low1"], [b"low2"]]
    intake.close()


@pytest.mark.parametrize(
    ("age_s", "failing_s", "is_kept"),
    [(3_600.0, 3_600.0, False), (90_000.0, 0.0, False), (90_000.0, 90_000.0, True)],
)
def test_a_message_that_fails_for_a_day_is_a_dead_letter(
    pubsub: PubSubEmulator, tmp_path: Path, age_s: float, failing_s: float, is_kept: bool
) -> None:
    """Check that the day starts at the first failed attempt, not when the message was published."""
    leased = Leased("key", 0, Received("ack", "1", b"data", ATTRIBUTES, time.time() - age_s, 0))
    supervised = supervisor(tmp_path, Feed(), attempts=1)
    supervised._failed([leased], "it broke", died=False)
    tried = supervised.backoff._of(leased)
    assert tried.failed
    tried.failed -= failing_s
    supervised._failed([leased], "it broke", died=False)
    letters = [letter for _, letter in LetterFolder(tmp_path).letters()]
    assert [letter.data for letter in letters] == [b"data"] * is_kept
    assert [letter.reasons for letter in letters] == [["still_failed"]] * is_kept


def test_long_work_leaves_a_worker_to_others(pubsub: PubSubEmulator, tmp_path: Path) -> None:
    """Check that while one worker has a message of many ids, the other takes only messages of few ids."""
    feed = Feed()
    supervised = supervisor(tmp_path, feed)
    intake, (busy, idle) = supervised.intake, (Worker() for _ in range(2))
    supervised.workers = [busy, idle]
    for worker in (busy, idle):
        worker.schedule(echo, b"")
        wait_for(lambda: worker.is_over, 60)  # noqa: B023
        worker.result()
    intake.start()
    for count in (600, 600, 5):
        feed.publish(as_ids(range(1, count + 1)).tobytes(), attributes={**ATTRIBUTES, "l2_cache_id": "x"})
        wait_for(lambda: intake.waiting(Limits(1))[0] > 0)
    wait_for(lambda: intake.waiting(Limits(1))[0] == 3)
    time.sleep(updater_run.BATCH_WAIT_S)
    busy.work = supervised._next_batch(9)
    assert [leased.weight for leased in busy.work] == [600]
    assert [leased.weight for leased in supervised._next_batch(9)] == [5]
    assert supervised._next_batch(9) == []
    assert supervised._timeout() > 0.5
    busy.work = None
    assert [leased.weight for leased in supervised._next_batch(9)] == [600]
    for worker in (busy, idle):
        worker.close()
    intake.close()


def echo(data: bytes) -> bytes:
    return data


def lock_of_bars() -> str:
    return type(tqdm.get_lock()).__name__


def test_a_killed_worker_leaves_no_semaphore() -> None:
    """tqdm's default lock is a semaphore. If a killed worker left one, Python would warn at the job's end."""
    worker = Worker()
    worker.schedule(lock_of_bars)
    wait_for(lambda: worker.is_over, 60)
    assert worker.result() == ("RLock", "")
    worker.close()


def test_a_stopped_worker_blocks_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that a worker that does not receive its batch is killed after a short time."""
    monkeypatch.setattr(worker_module, "PICKUP_TIMEOUT_S", 1)
    worker = Worker()
    worker.schedule(echo, b"1")
    wait_for(lambda: worker.is_over, 60)
    assert worker.result() == (b"1", "")
    assert worker.pid
    os.kill(worker.pid, signal.SIGSTOP)
    worker.schedule(echo, bytes(5_000_000))
    time.sleep(1)
    worker.end_overdue(60)
    wait_for(lambda: worker.is_over)
    with pytest.raises(WorkerDied, match="a worker was ended: it received no task within 1 s"):
        worker.result()
    worker.close()


@pytest.mark.parametrize("is_idle", [True, False])
def test_a_worker_that_is_killed_is_replaced(
    pubsub: PubSubEmulator, tmp_path: Path, caplog: pytest.LogCaptureFixture, is_idle: bool
) -> None:
    caplog.set_level("INFO")
    supervised = supervisor(tmp_path, Feed())
    supervised.ready_file = tmp_path / "ready"

    def first_pid() -> int:
        """Return the first worker's process id, or 0 if it has none yet."""
        return supervised.workers[0].pid or 0 if supervised.workers else 0

    def kill_one() -> None:
        try:
            wait_for(lambda: caplog.text.count("is ready") == 2 if is_idle else bool(first_pid()), 120)
            os.kill(first_pid(), signal.SIGKILL)
            wait_for(lambda: "a worker died (SIGKILL)" in caplog.text)
            wait_for(lambda: caplog.text.count("is ready") == 3 if is_idle else True, 120)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    watch = threading.Thread(target=kill_one)
    watch.start()
    supervised.run()
    watch.join()
    assert ("died (SIGKILL) before it was ready" in caplog.text) is not is_idle
    assert supervised.ready_file.exists() or not is_idle


def test_a_worker_that_cannot_start(
    pubsub: PubSubEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    supervised = supervisor(tmp_path, Feed())
    supervised.ready_file = tmp_path / "ready"
    supervised.ready_file.touch()  # an earlier updater's

    def stop_after_death() -> None:
        try:
            wait_for(lambda: "a worker died" in caplog.text, 60)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    watch = threading.Thread(target=stop_after_death)
    watch.start()
    supervised.run()
    watch.join()
    assert "a worker died (exit status 3) before it was ready" in caplog.text
    assert not supervised.ready_file.exists()


def test_an_ignored_hangup_stays_ignored() -> None:
    ends = (signal.SIGHUP, signal.SIGTERM)
    assert heeded(*ends) == [*ends]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert heeded(*ends) == [signal.SIGTERM]
        with handled(signal.default_int_handler, *ends):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGHUP, before)
