"""Tests of the topic and subscription checks of `l2features doctor`, with a fake Pub/Sub client."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from google.api_core.exceptions import MethodNotImplemented, PermissionDenied, ServiceUnavailable
from google.pubsub_v1.types import Subscription, Topic

from l2features.doctor.queue_checks import CONSUME, PUBLISH, look_at

TOPIC, SUBSCRIPTION = "projects/p/topics/edits", "projects/p/subscriptions/l2-edits"


def client(found: Any, allowed: Any) -> Any:
    """Return a client whose lookups return or raise ``found``, and whose permission checks ``allowed``."""

    def returns(value: Any) -> Any:
        def call(**_: Any) -> Any:
            if isinstance(value, Exception):
                raise value
            return value

        return call

    permissions = allowed if isinstance(allowed, Exception) else SimpleNamespace(permissions=allowed)
    get = returns(found)
    return SimpleNamespace(get_topic=get, get_subscription=get, test_iam_permissions=returns(permissions))


@pytest.mark.parametrize(
    ("found", "allowed", "status", "text"),
    [
        (Topic(name=TOPIC), [PUBLISH], "ok", f"exists; this account has {PUBLISH}"),
        (Topic(name=TOPIC), [], "problem", f"this account lacks {PUBLISH}"),
        (Topic(name=TOPIC), MethodNotImplemented("no"), "ok", "exists; permissions cannot be checked here"),
        (
            PermissionDenied("no"),
            [PUBLISH],
            "ok",
            f"description may not be read; this account has {PUBLISH}",
        ),
        (ServiceUnavailable("busy"), [], "problem", "503 busy"),
        (Topic(name=TOPIC), ServiceUnavailable("busy"), "problem", "503 busy"),
    ],
)
def test_a_topic(found: Any, allowed: Any, status: str, text: str) -> None:
    finding = look_at(TOPIC, client(found, allowed), {"topic": TOPIC}, "create", (PUBLISH, "role"))
    assert (finding.status, finding.text) == (status, f"{TOPIC}: {text}")


@pytest.mark.parametrize(
    ("found", "status", "text"),
    [
        (
            Subscription(topic=TOPIC, filter='attributes.table_id = "m"', ack_deadline_seconds=10),
            "ok",
            f'reads {TOPIC}, of messages with attributes.table_id = "m"; this account has {CONSUME}',
        ),
        (
            Subscription(topic="_deleted-topic_"),
            "problem",
            "its topic was deleted, so it receives nothing",
        ),
    ],
)
def test_a_subscription(found: Any, status: str, text: str) -> None:
    asked = {"subscription": SUBSCRIPTION}
    finding = look_at(SUBSCRIPTION, client(found, [CONSUME]), asked, "create", (CONSUME, "role"))
    assert (finding.status, finding.text) == (status, f"{SUBSCRIPTION}: {text}")
