"""Helpers of the dead-letter tests: a dead letter, and a topic with a subscription."""

from __future__ import annotations

from datetime import UTC, datetime

from google.pubsub_v1 import SubscriberClient
from hypothesis import strategies as st

from l2features.pubsub.letter import DeadLetter, Refusal
from l2features.pubsub.subscription import Subscription
from l2features.testing.feed import Feed

NOW = datetime(2026, 11, 21, 0, 27, 44, tzinfo=UTC)
LARGEST = (1 << 64) - 1
REFUSALS = (
    Refusal("other_layer", "2 ids, the first 7: is not of layer 2", (7, LARGEST), "sample"),
    Refusal("not_an_integer", "'x' among the ids is not an integer"),
)
LETTER = DeadLetter(b"\x80\x04\xff", {"table_id": "sample", "remesh": "true"}, REFUSALS, 2, NOW)

texts = st.text(max_size=20)


class Subscribed(Feed):
    """A dead-letter topic with a subscription."""

    def __init__(self) -> None:
        super().__init__("dead")

    def messages(self) -> list[bytes]:
        """Return the payloads of all messages, which stay in the subscription."""
        data: dict[str, bytes] = {}
        subscription = Subscription(self.subscription)
        held = []
        while received := subscription.pull(10, 1):
            held += [message.ack_id for message in received]
            data |= {message.message_id: message.data for message in received}
        subscription.lease(held, 0)
        return sorted(data.values())

    def message(self) -> tuple[bytes, dict[str, str]]:
        """Acknowledge one message, and return its payload and attributes."""
        with SubscriberClient() as client:
            received = client.pull(subscription=self.subscription, max_messages=1, timeout=20)
            message = received.received_messages[0]
            client.acknowledge(subscription=self.subscription, ack_ids=[message.ack_id])
        return message.message.data, dict(message.message.attributes)
