"""Tests of leased messages of subscriptions, with Google's Pub/Sub emulator."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from l2features.pubsub import intake as intake_module
from l2features.pubsub import subscription as subscription_module
from l2features.pubsub.intake import Intake, Leased, Limits
from l2features.pubsub.subscription import Subscription
from l2features.testing.emulators import PubSubEmulator
from l2features.testing.feed import Feed
from tests.support.intake import wait_for

Open = Callable[..., Intake]


@pytest.fixture
def open_intake() -> Iterator[Open]:
    """Return a function that opens intakes. Messages of one table with the same first byte share a region."""
    opened: list[Intake] = []

    def open_(*feeds: Feed) -> Intake:
        subscriptions = [Subscription(feed.subscription) for feed in feeds]
        intake = Intake(
            subscriptions,
            lambda m: ((m.attributes["table_id"], m.data[0]), len(m.data)),
            threading.Event().set,
        )
        opened.append(intake)
        intake.start()
        return intake

    yield open_
    for intake in opened:
        intake.close()


def has_leased(intake: Intake, count: int) -> bool:
    return intake.backlog()[0] == count


def texts(messages: list[Leased]) -> list[str]:
    return [leased.message.data.decode() for leased in messages]


def test_urgent_messages_go_first_and_one_region_goes_together(
    pubsub: PubSubEmulator, open_intake: Open
) -> None:
    urgent, low = Feed(), Feed()
    low.publish(b"low1", b"low2")
    intake = open_intake(urgent, low)
    wait_for(lambda: intake.waiting(Limits(2))[0] == 2)
    assert intake.waiting(Limits(1))[0] == 0
    assert intake.take(9, 99, Limits(1)) == []
    for count, text in enumerate((b"a1", b"b1", b"a2", b"b2", b"a3", b"c123456"), start=3):
        urgent.publish(text)
        wait_for(partial(has_leased, intake, count))
    assert texts(intake.take(2, 99, Limits(2))) == ["a1", "a2", "a3"]
    assert texts(intake.take(9, 3, Limits(2))) == ["b1"]
    assert texts(intake.take(9, 3, Limits(2))) == ["b2"]
    assert texts(intake.take(9, 3, Limits(2))) == ["c123456"]
    assert texts(intake.take(9, 99, Limits(2))) == ["low1", "low2"]
    count, oldest = intake.backlog()
    assert count == 8
    assert 0 <= time.time() - (oldest or 0) < 60


def test_messages_of_different_tables_are_never_in_one_batch(
    pubsub: PubSubEmulator, open_intake: Open
) -> None:
    """A hanging store of one table must not delay another table."""
    feed = Feed()
    feed.publish(b"a1", attributes={"table_id": "t"})
    intake = open_intake(feed)
    wait_for(partial(has_leased, intake, 1))
    feed.publish(b"a2", attributes={"table_id": "other"})
    feed.publish(b"a3", attributes={"table_id": "t"})
    wait_for(partial(has_leased, intake, 3))
    assert texts(intake.take(9, 99, Limits(1))) == ["a1", "a3"]
    assert texts(intake.take(9, 99, Limits(1))) == ["a2"]


def test_a_key_has_the_project(pubsub: PubSubEmulator, open_intake: Open) -> None:
    """A key is project/subscription/message id: names are unique per project, message ids per topic."""
    feed = Feed()
    feed.publish(b"a")
    intake = open_intake(feed)
    wait_for(lambda: intake.waiting(Limits(1))[0] == 1)
    (leased,) = intake.take(1, 1, Limits(1))
    assert leased.key == f"test-project/{feed.name}/{leased.message.message_id}"


def test_leased_messages_are_not_redelivered(
    pubsub: PubSubEmulator, open_intake: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that a lease of 10 seconds, the shortest, is extended repeatedly."""
    monkeypatch.setattr(intake_module, "HEARTBEAT_S", 2.0)
    monkeypatch.setattr(subscription_module, "LEASE_S", 10)
    feed = Feed()
    feed.publish(b"a")
    intake, other = open_intake(feed), Subscription(feed.subscription)
    wait_for(lambda: intake.waiting(Limits(1))[0] == 1)
    held = intake.take(1, 1, Limits(1))
    intake.stop()
    assert other.pull(10, 14) == []
    intake.acknowledge(held)
    assert intake.backlog() == (0, None)
    assert other.pull(10, 1) == []
    other.close()


def test_nacked_messages_are_redelivered_after_their_pause(pubsub: PubSubEmulator, open_intake: Open) -> None:
    feed = Feed()
    feed.publish(b"a", b"b")
    intake = open_intake(feed)
    wait_for(lambda: intake.waiting(Limits(1))[0] == 2)
    first, second = intake.take(9, 9, Limits(1))
    intake.nack([first], 0)
    intake.nack([second], 3)
    start = time.monotonic()
    wait_for(lambda: intake.waiting(Limits(1))[0] == 1)
    assert texts(intake.take(9, 9, Limits(1))) == texts([first])
    wait_for(lambda: intake.waiting(Limits(1))[0] == 1)
    assert time.monotonic() - start > 2
    assert texts(intake.take(9, 9, Limits(1))) == texts([second])


def test_the_number_of_leased_messages_is_limited(
    pubsub: PubSubEmulator, open_intake: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "PULL_MESSAGES", 2)
    monkeypatch.setattr(intake_module, "MOST_MESSAGES", 4)
    feed = Feed()
    feed.publish(*(b"%d" % n for n in range(12)))
    intake = open_intake(feed)
    seen: list[str] = []
    while len(seen) < 12:
        wait_for(lambda: intake.waiting(Limits(1))[0] > 0)
        time.sleep(0.2)
        assert intake.backlog()[0] <= 5
        taken = intake.take(9, 99, Limits(1))
        seen += texts(taken)
        intake.acknowledge(taken)
    assert sorted(map(int, seen)) == list(range(12))


def test_nacks_rest_after_one_failed(
    pubsub: PubSubEmulator, open_intake: Open, caplog: pytest.LogCaptureFixture
) -> None:
    feed = Feed()
    feed.publish(b"a", b"b")
    intake = open_intake(feed)
    wait_for(lambda: intake.waiting(Limits(1))[0] == 2)
    first, second = intake.take(9, 9, Limits(1))
    feed.remove()
    intake.nack([first], 5)
    intake.nack([second], 6)
    assert intake.backlog() == (0, None)
    assert caplog.text.count("redelivered when their leases expire") == 1


def test_an_error_of_a_thread_ends_the_intake(pubsub: PubSubEmulator) -> None:
    feed, woken = Feed(), threading.Event()
    intake = Intake([Subscription(feed.subscription)], lambda m: (("", 1 // len(m.data)), 1), woken.set)
    intake.start()
    feed.publish(b"")
    assert woken.wait(20)
    assert isinstance(intake.failure, ZeroDivisionError)
    intake.close()


def test_waiting_messages_are_redelivered_after_a_stop(pubsub: PubSubEmulator, open_intake: Open) -> None:
    """Redelivery is immediate, unless a pull or an extension of leases is in progress."""
    feed = Feed()
    feed.publish(b"a", b"b")
    intake = open_intake(feed)
    wait_for(lambda: intake.waiting(Limits(1))[0] == 2)
    intake.close()
    other = Subscription(feed.subscription)
    received: set[bytes] = set()
    until = time.monotonic() + 2 * subscription_module.LEASE_S
    while len(received) < 2 and time.monotonic() < until:
        received |= {message.data for message in other.pull(9, 5)}
    assert received == {b"a", b"b"}
    other.close()


def test_a_missing_subscription(pubsub: PubSubEmulator) -> None:
    woken = threading.Event()
    intake = Intake(
        [Subscription("projects/test-project/subscriptions/not-there")], lambda m: (("", 0), 1), woken.set
    )
    intake.start()
    assert woken.wait(20)
    assert "not-there: cannot pull" in str(intake.failure)
    intake.close()
