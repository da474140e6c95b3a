"""Clients of Pub/Sub, or of its emulator where ``$PUBSUB_EMULATOR_HOST`` names one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config.datasets import pubsub_emulator

if TYPE_CHECKING:
    from google.pubsub_v1 import SubscriberClient


def open_subscriber() -> SubscriberClient:
    """A client that takes messages of any size.

    Google's takes 4 MB at most from the emulator, though not from Pub/Sub itself: one larger message would
    stop its subscription for ever.
    """
    from google.pubsub_v1 import SubscriberClient
    from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

    host = pubsub_emulator()
    if not host:
        return SubscriberClient()
    import grpc

    channel = grpc.insecure_channel(host, options=[("grpc.max_receive_message_length", -1)])
    return SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
