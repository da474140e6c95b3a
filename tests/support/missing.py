"""A Pub/Sub topic for the tests of missing ids."""

from __future__ import annotations

import uuid

import numpy as np
from google.pubsub_v1 import PublisherClient, PubsubMessage, SubscriberClient


class Topic:
    """A topic and a subscription to it, with a unique name."""

    def __init__(self, create: bool = True) -> None:
        name = f"missing-{uuid.uuid4().hex}"
        self.path = f"projects/test-project/topics/{name}"
        self.subscription = f"projects/test-project/subscriptions/{name}"
        if create:
            self.create()

    def create(self) -> None:
        self.subscriber = SubscriberClient()
        PublisherClient().create_topic(name=self.path)
        self.subscriber.create_subscription(name=self.subscription, topic=self.path)

    def messages(self) -> list[PubsubMessage]:
        """Receive, acknowledge and return all messages."""
        messages: list[PubsubMessage] = []
        while True:
            # Without this deprecated flag a pull on an empty subscription blocks.
            request = {"subscription": self.subscription, "max_messages": 1000, "return_immediately": True}
            received = self.subscriber.pull(request=request, timeout=20).received_messages
            if not received:
                return messages
            self.subscriber.acknowledge(subscription=self.subscription, ack_ids=[r.ack_id for r in received])
            messages += [r.message for r in received]

    def ids(self) -> list[int]:
        """Receive all messages, and return the L2 ids in them, sorted, with repeats."""
        return sorted(i for m in self.messages() for i in np.frombuffer(m.data, "<u8").tolist())
