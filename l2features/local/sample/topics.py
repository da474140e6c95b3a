"""Pub/Sub topics and subscriptions of a local stack."""

from __future__ import annotations

from contextlib import suppress

from ...config.reach import check_pubsub
from ...core.errors import ConfigError, L2FeaturesError
from ...pubsub.topic import TOPIC, Topic

EDITS, MISSING = "pychunkedgraph", "l2cache"
SUBSCRIPTIONS = {EDITS: "edits", MISSING: "missing"}
"""The subscription of each topic; the most urgent subscription is first."""
ACK_S = 10
TIMEOUT_S = 30.0


class TopicError(L2FeaturesError):
    """A topic cannot be created or used."""


def topic_path(project: str, name: str) -> str:
    return f"projects/{project}/topics/{name}"


def subscription_paths(project: str) -> list[str]:
    return [f"projects/{project}/subscriptions/{name}" for name in SUBSCRIPTIONS.values()]


def check_topic(topic: Topic) -> None:
    """Check that a topic can be used.

    Raises ConfigError for an invalid path, TopicError if Pub/Sub cannot be reached, and PublishError if the
    topic is missing.
    """
    if not TOPIC.fullmatch(topic.path):
        raise ConfigError(f"topic {topic.path!r}: expected projects/PROJECT/topics/NAME")
    check_pubsub(f"topic {topic.path}", TopicError)
    topic.check()


def make_topics(project: str) -> None:
    """Create missing topics and subscriptions.

    Raises ConfigError for an invalid project, and TopicError if topics or subscriptions cannot be created.
    """
    from google.api_core.exceptions import AlreadyExists, GoogleAPIError, InvalidArgument
    from google.api_core.retry import Retry
    from google.auth.exceptions import GoogleAuthError
    from google.pubsub_v1 import PublisherClient, SubscriberClient

    check_pubsub(f"project {project!r}", TopicError)
    patience = {"timeout": TIMEOUT_S, "retry": Retry(timeout=TIMEOUT_S)}
    try:
        with PublisherClient() as publisher, SubscriberClient() as subscriber:
            for name, path in zip(SUBSCRIPTIONS, subscription_paths(project), strict=True):
                topic = topic_path(project, name)
                with suppress(AlreadyExists):
                    publisher.create_topic(name=topic, **patience)
                wanted = {"name": path, "topic": topic, "ack_deadline_seconds": ACK_S}
                with suppress(AlreadyExists):
                    subscriber.create_subscription(request=wanted, **patience)
    except InvalidArgument as error:
        raise ConfigError(f"project {project!r}: {error.message}") from error
    except (GoogleAPIError, GoogleAuthError) as error:
        raise TopicError(f"cannot create the topics of project {project!r}: {error}") from error
