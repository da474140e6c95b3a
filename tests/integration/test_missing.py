"""Tests of publishing missing ids, with Google's Pub/Sub emulator."""

from __future__ import annotations

import base64
import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from api.missing import PENDING_IDS, PENDING_MESSAGES, MissingIds, topic_path
from l2features.core.errors import ConfigError
from l2features.core.ids import Ids, as_ids
from l2features.messages.decoding import MESSAGE_IDS, missing_message
from l2features.testing.emulators import HOW_TO_GET_PUBSUB, PubSubEmulator, find_pubsub_emulator
from tests.support.jobs import need_program
from tests.support.missing import Topic

IDS = as_ids([144115188075860872, 144255994350796801, (1 << 64) - 1])
TABLE = ("fixture_v2", "l2cache_fixture")
LONG_S = 600.0
"""Longer than a loaded machine takes for a test."""

pytestmark = pytest.mark.filterwarnings("ignore:The return_immediately flag is deprecated:DeprecationWarning")


class Failures:
    """Records the counts that `on_failure` receives."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def __call__(self, count: int) -> None:
        self.counts.append(count)

    def wait(self, total: int) -> None:
        until(lambda: sum(self.counts) >= total)
        assert sum(self.counts) == total


def until(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("condition not met within 30 s")


def publisher(topic: Topic, failures: Failures, retry_after_s: float = 0.0) -> MissingIds:
    return MissingIds(topic.path, on_failure=failures, timeout_s=3.0, retry_after_s=retry_after_s)


@pytest.fixture
def topic(pubsub: PubSubEmulator) -> Topic:
    return Topic()


@pytest.fixture
def failures() -> Failures:
    return Failures()


@pytest.fixture(scope="module")
def second_pubsub() -> Iterator[PubSubEmulator]:
    need_program(find_pubsub_emulator(), HOW_TO_GET_PUBSUB)
    emulator = PubSubEmulator()
    yield emulator
    emulator.stop()


@pytest.fixture
def own_pubsub(second_pubsub: PubSubEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[PubSubEmulator]:
    """Return an emulator that the test can pause or restart."""
    monkeypatch.setenv(second_pubsub.variable, second_pubsub.host)
    yield second_pubsub
    second_pubsub.process.send_signal(signal.SIGCONT)


def test_message_is_the_recorded_one(shared: Callable[[str], Path]) -> None:
    """Check our messages against those that PCGL2Cache published for missing ids."""
    exchanges = json.loads((shared("cave") / "http" / "index.json").read_text())["exchanges"]
    published = [m for exchange in exchanges for m in exchange.get("published", ()) if m["ids"]]
    assert len(published) == 9
    for recorded in published:
        message = missing_message(as_ids(recorded["ids"]), *TABLE)
        assert message.data == base64.b64decode(recorded["data_base64"])
        assert message.attributes == recorded["attributes"]


def test_no_message_for_no_ids() -> None:
    with pytest.raises(ValueError, match="fixture_v2"):
        missing_message(as_ids([]), *TABLE)


def test_published_as_recorded(topic: Topic, shared: Callable[[str], Path]) -> None:
    folder = shared("cave") / "pubsub"
    recorded = json.loads((folder / "missing.json").read_text())
    missing = MissingIds(topic.path)
    assert missing.publish(*TABLE, as_ids(recorded["ids"])) == 2
    missing.close(20)
    (message,) = topic.messages()
    assert message.data == (folder / "missing.bin").read_bytes()
    assert dict(message.attributes) == recorded["attributes"]


def test_once_in_an_interval(topic: Topic) -> None:
    now = 1000.0
    missing = MissingIds(topic.path, interval_s=60.0, clock=lambda: now)
    assert missing.publish(*TABLE, IDS[:2]) == 2
    now += 59.9
    assert missing.publish(*TABLE, IDS[[0, 1, 2, 0]]) == 1
    now += 0.1
    assert missing.publish(*TABLE, IDS) == 2
    now += 59.8
    assert missing.publish(*TABLE, IDS[2:]) == 0
    missing.close(20)
    a, b, c = IDS.tolist()
    assert topic.ids() == sorted([a, b, c, a, b])


def test_data_sets_are_separate(topic: Topic) -> None:
    missing = MissingIds(topic.path)
    tables = [("one", "cache"), ("two", "cache"), ("one", "other_cache")]
    assert [missing.publish(*table, IDS) for table in [*tables, *tables]] == [3, 3, 3, 0, 0, 0]
    missing.close(20)
    arrived = [(m.attributes["table_id"], m.attributes["l2_cache_id"], m.data) for m in topic.messages()]
    assert sorted(arrived) == sorted((*table, IDS.tobytes()) for table in tables)


def test_nothing_is_published_for_nothing(topic: Topic) -> None:
    missing = MissingIds(topic.path)
    assert missing.publish(*TABLE, as_ids([])) == 0
    missing.close(20)
    assert topic.messages() == []


def test_without_a_topic(failures: Failures) -> None:
    missing = MissingIds(None, on_failure=failures)
    assert missing.publish(*TABLE, IDS) == 0
    missing.close(20)
    assert failures.counts == []


def test_threads_publish_each_id_once(topic: Topic) -> None:
    missing = MissingIds(topic.path)
    ids = np.arange(1 << 57, (1 << 57) + 3000, dtype=np.uint64)
    parts: list[Ids] = [ids[start : start + 1000] for start in range(0, 2001, 100)]
    with ThreadPoolExecutor(16) as pool:
        counts = list(pool.map(lambda part: missing.publish(*TABLE, part), parts * 16))
    missing.close(20)
    assert sum(counts) == len(ids)
    assert topic.ids() == ids.tolist()


def test_burst_of_ids(topic: Topic, failures: Failures) -> None:
    missing = MissingIds(topic.path, on_failure=failures)
    ids = np.random.default_rng(0).permutation(np.arange(1 << 57, (1 << 57) + 250_000, dtype=np.uint64))
    assert missing.publish(*TABLE, ids) == len(ids)
    missing.close(20)
    messages = topic.messages()
    assert {len(m.data) // 8 for m in messages} == {MESSAGE_IDS}
    # Each has neighbours, so that those of a chunk, which share their upper bits, are together.
    parts = sorted((np.frombuffer(m.data, "<u8") for m in messages), key=lambda part: int(part[0]))
    assert np.array_equal(np.concatenate(parts), np.sort(ids))
    assert failures.counts == []


def test_hanging_pubsub(own_pubsub: PubSubEmulator, failures: Failures) -> None:
    """Check that timed-out ids count as failed and can be published again."""
    topic = Topic()
    missing = publisher(topic, failures)
    own_pubsub.process.send_signal(signal.SIGSTOP)
    assert missing.publish(*TABLE, IDS) == 3
    assert missing.publish(*TABLE, IDS) == 0
    failures.wait(3)
    own_pubsub.process.send_signal(signal.SIGCONT)
    assert missing.publish(*TABLE, IDS) == 3
    missing.close(20)
    assert set(topic.ids()) == set(IDS.tolist())
    assert failures.counts == [3]


def test_pubsub_killed_and_back(own_pubsub: PubSubEmulator, failures: Failures) -> None:
    topic = Topic()
    missing = publisher(topic, failures)
    assert missing.publish(*TABLE, IDS[:1]) == 1
    until(topic.messages)
    own_pubsub.stop()
    assert missing.publish(*TABLE, IDS) == 2
    failures.wait(2)
    own_pubsub.start()
    topic.create()
    assert missing.publish(*TABLE, IDS) == 2
    missing.close(20)
    assert topic.ids() == IDS[1:].tolist()


def test_unknown_topic(pubsub: PubSubEmulator, failures: Failures, caplog: pytest.LogCaptureFixture) -> None:
    topic = Topic(create=False)
    missing = publisher(topic, failures)
    with caplog.at_level(logging.INFO, logger="l2features.api"):
        assert missing.publish(*TABLE, IDS) == 3
        failures.wait(3)
        topic.create()
        assert missing.publish(*TABLE, IDS) == 3
        missing.close(20)
    assert topic.ids() == IDS.tolist()
    failed, recovered = (record.__dict__ for record in caplog.records)
    assert (failed["topic"], failed["ids"]) == (topic.path, 3)
    assert failed["reason"].startswith("NotFound: 404")
    assert (recovered["levelname"], recovered["ids"]) == ("INFO", 0)


def test_failing_topic_is_not_retried_at_once(
    pubsub: PubSubEmulator, failures: Failures, caplog: pytest.LogCaptureFixture
) -> None:
    """Check that after a failure, further ids are not sent: all count as failed, with one log record."""
    topic = Topic(create=False)
    missing = publisher(topic, failures, retry_after_s=3600.0)
    assert missing.publish(*TABLE, IDS) == 3
    failures.wait(3)
    topic.create()
    assert [missing.publish(*TABLE, IDS) for _ in range(100)] == [0] * 100
    missing.close(20)
    assert sum(failures.counts) == 303
    assert topic.ids() == []
    assert len(caplog.records) == 1


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failures: Failures) -> None:
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nothing.json"))
    missing = MissingIds("projects/test-project/topics/l2cache", on_failure=failures)
    assert missing.publish(*TABLE, IDS) == 3
    failures.wait(3)


def test_queue_is_bounded(own_pubsub: PubSubEmulator, failures: Failures) -> None:
    """Check that pending ids and messages are bounded while Pub/Sub hangs, and the rest fail."""
    own_pubsub.process.send_signal(signal.SIGSTOP)
    path = "projects/test-project/topics/l2cache"
    large = MissingIds(path, on_failure=failures, timeout_s=LONG_S)
    ids = np.arange(PENDING_IDS + 1000, dtype=np.uint64)
    assert large.publish(*TABLE, ids) == PENDING_IDS
    assert failures.counts == [1000]
    assert large.publish(*TABLE, ids[-1:]) == 0
    small = MissingIds(path, timeout_s=LONG_S)
    taken = sum(small.publish(*TABLE, ids[i : i + 1]) for i in range(PENDING_MESSAGES + 1000))
    assert taken == PENDING_MESSAGES
    large.close(0)
    small.close(0)
    assert sum(failures.counts) == len(ids) + 1


def test_closing(own_pubsub: PubSubEmulator, failures: Failures) -> None:
    """Check that ids left at the timeout, and ids published after closing, count as failed."""
    missing = publisher(Topic(), failures)
    own_pubsub.process.send_signal(signal.SIGSTOP)
    assert missing.publish(*TABLE, IDS[:2]) == 2
    missing.close(0.01)
    assert failures.counts == [2]
    assert missing.publish(*TABLE, IDS[2:]) == 0
    missing.close(20)
    assert failures.counts == [2, 1]


def test_topic_path() -> None:
    assert topic_path(None, "p") is None
    assert topic_path("", None) is None
    assert topic_path("l2cache", "my-project") == "projects/my-project/topics/l2cache"
    assert topic_path("projects/other/topics/l2cache", None) == "projects/other/topics/l2cache"


@pytest.mark.parametrize(
    ("exchange", "project", "named"),
    [
        ("l2", "p", "'l2'"),
        ("goog-l2", "p", "'goog-l2'"),
        ("topics/l2cache", "p", "'topics/l2cache'"),
        ("projects/p/topics/", "p", "'projects/p/topics/'"),
        ("l2cache", None, "PROJECT_ID"),
        ("l2cache", "a/b", "'a/b'"),
    ],
)
def test_bad_topics_are_named(exchange: str, project: str | None, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        topic_path(exchange, project)
