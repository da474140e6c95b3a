"""What a process takes from subscriptions, against Google's Pub/Sub emulator."""

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

Open = Callable[..., Intake]


@pytest.fixture
def open_intake() -> Iterator[Open]:
    """Opens intakes of feeds; a message's region starts with its first letter, its weight its length."""
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


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def has_leased(intake: Intake, count: int) -> bool:
    return intake.backlog()[0] == count


def texts(messages: list[Leased]) -> list[str]:
    return [leased.message.data.decode() for leased in messages]


def test_the_urgent_come_first_and_together_what_has_one_home(
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


def test_what_is_of_different_tables_is_never_together(pubsub: PubSubEmulator, open_intake: Open) -> None:
    """The store of one may hang, and hold up the other."""
    feed = Feed()
    feed.publish(b"a1", attributes={"table_id": "t"})
    intake = open_intake(feed)
    wait_for(partial(has_leased, intake, 1))
    feed.publish(b"a2", attributes={"table_id": "other"})
    feed.publish(b"a3", attributes={"table_id": "t"})
    wait_for(partial(has_leased, intake, 3))
    assert texts(intake.take(9, 99, Limits(1))) == ["a1", "a3"]
    assert texts(intake.take(9, 99, Limits(1))) == ["a2"]


def test_a_key_tells_projects_apart(pubsub: PubSubEmulator, open_intake: Open) -> None:
    """Two may have a subscription of the same name, and Pub/Sub numbers messages by topic."""
    feed = Feed()
    feed.publish(b"a")
    intake = open_intake(feed)
    wait_for(lambda: intake.waiting(Limits(1))[0] == 1)
    (leased,) = intake.take(1, 1, Limits(1))
    assert leased.key == f"test-project/{feed.name}/{leased.message.message_id}"


def test_what_is_held_does_not_come_again(
    pubsub: PubSubEmulator, open_intake: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease of 10 seconds, which is the shortest, is prolonged again and again."""
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


def test_what_is_nack_comes_again_when_it_is_told_to(pubsub: PubSubEmulator, open_intake: Open) -> None:
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


def test_there_is_room_for_so_many(
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


def test_where_nothing_can_be_nack_it_is_not_tried_for_each_message(
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


def test_a_thread_that_breaks_ends_it_all(pubsub: PubSubEmulator) -> None:
    """Rather than that nothing comes any more, and nobody knows."""
    feed, told = Feed(), threading.Event()
    intake = Intake([Subscription(feed.subscription)], lambda m: (("", 1 // len(m.data)), 1), told.set)
    intake.start()
    feed.publish(b"")
    assert told.wait(20)
    assert isinstance(intake.failure, ZeroDivisionError)
    intake.close()


def test_what_waits_when_it_stops_comes_again(pubsub: PubSubEmulator, open_intake: Open) -> None:
    """At once, unless a pull that ends at that moment is given it once more, or a heartbeat is under way."""
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


def test_a_subscription_that_is_not_there(pubsub: PubSubEmulator) -> None:
    told = threading.Event()
    intake = Intake(
        [Subscription("projects/test-project/subscriptions/not-there")], lambda m: (("", 0), 1), told.set
    )
    intake.start()
    assert told.wait(20)
    assert "not-there: cannot pull" in str(intake.failure)
    intake.close()
