"""Tests of a subscription, with Google's Pub/Sub emulator."""

from __future__ import annotations

import uuid

import pytest
from google.pubsub_v1 import PublisherClient, SubscriberClient

from l2features.core.errors import ConfigError
from l2features.pubsub.subscription import Received, Subscription, SubscriptionError, SubscriptionRefused
from l2features.testing.emulators import PubSubEmulator


@pytest.fixture
def path(pubsub: PubSubEmulator) -> str:
    """Create a subscription that redelivers messages after 10 seconds, and return its path."""
    name = f"updates-{uuid.uuid4().hex}"
    topic, path = f"projects/test-project/topics/{name}", f"projects/test-project/subscriptions/{name}"
    PublisherClient().create_topic(name=topic)
    SubscriberClient().create_subscription(name=path, topic=topic, ack_deadline_seconds=10)
    return path


def publish(path: str, *payloads: bytes) -> None:
    messages = [{"data": data, "attributes": {"table_id": "t"}} for data in payloads]
    PublisherClient().publish(topic=path.replace("/subscriptions/", "/topics/"), messages=messages)


def test_nacked_messages_are_redelivered_and_acknowledged_ones_are_not(path: str) -> None:
    subscribed = Subscription(path)
    publish(path, b"a", b"b")
    received: list[Received] = []
    while len(received) < 2:
        received += subscribed.pull(10, 20)
    assert sorted(message.data for message in received) == [b"a", b"b"]
    assert {message.attributes["table_id"] for message in received} == {"t"}
    assert all(message.published > 1e9 and message.attempts == 0 for message in received)
    by_data = {message.data: message.ack_id for message in received}
    subscribed.acknowledge([by_data[b"a"]])
    subscribed.lease([by_data[b"b"]], 0)
    assert [message.data for message in subscribed.pull(10, 20)] == [b"b"]
    assert subscribed.pull(10, 1) == []
    subscribed.close()


def test_errors_are_named(pubsub: PubSubEmulator) -> None:
    with pytest.raises(ConfigError, match="expected projects/PROJECT/subscriptions/NAME"):
        Subscription("updates")
    nowhere = Subscription("projects/test-project/subscriptions/not-there")
    for call in (
        lambda: nowhere.pull(1, 5),
        lambda: nowhere.acknowledge(["x"]),
        lambda: nowhere.lease(["x"]),
    ):
        with pytest.raises(SubscriptionError, match="not-there: cannot") as refused:
            call()
        assert refused.type is SubscriptionRefused
    nowhere.acknowledge([])
