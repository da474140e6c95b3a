"""A topic with one subscription in the Pub/Sub emulator, both with fresh names."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from google.pubsub_v1 import PublisherClient, SubscriberClient

ACK_DEADLINE_S = 10
"""Seconds after which unacknowledged messages are redelivered; Pub/Sub accepts no shorter deadline."""


class Feed:
    def __init__(self, name: str = "updates", ack_deadline_s: int = ACK_DEADLINE_S) -> None:
        self.name = f"{name}-{uuid.uuid4().hex}"
        self.topic = f"projects/test-project/topics/{self.name}"
        self.subscription = f"projects/test-project/subscriptions/{self.name}"
        self._publisher = PublisherClient()
        self._publisher.create_topic(name=self.topic)
        with SubscriberClient() as subscriber:
            subscriber.create_subscription(
                name=self.subscription, topic=self.topic, ack_deadline_seconds=ack_deadline_s
            )

    def remove(self) -> None:
        """Delete the subscription."""
        with SubscriberClient() as subscriber:
            subscriber.delete_subscription(subscription=self.subscription)

    def publish(self, *payloads: bytes, attributes: Mapping[str, str] | None = None) -> None:
        """Publish messages with the same attributes."""
        messages = [{"data": data, "attributes": dict(attributes or {"table_id": "t"})} for data in payloads]
        self._publisher.publish(topic=self.topic, messages=messages)
