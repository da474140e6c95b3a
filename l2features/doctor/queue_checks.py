"""Checks of Pub/Sub: topics and subscriptions exist, and this account may use them.

The emulator has no permissions, so they are not checked there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

from ..config.reach import check_pubsub
from ..core.errors import ConfigError, L2FeaturesError, message_of
from ..pubsub.subscription import SUBSCRIPTION, Subscription
from ..pubsub.topic import TOPIC, Topic
from .deployment import Deployment
from .findings import Finding, ok, problem, skipped

TIMEOUT_S = 10.0
PUBLISH, CONSUME = "pubsub.topics.publish", "pubsub.subscriptions.consume"
DELETED = "_deleted-topic_"


class QueueError(L2FeaturesError):
    """Pub/Sub cannot be reached."""


def topics_check(deployment: Deployment) -> Iterator[Finding]:
    """Check each named topic."""
    yield from _each(deployment.topics, "--topics", _topic)


def subscriptions_check(deployment: Deployment) -> Iterator[Finding]:
    """Check each of the deployment's subscriptions, and report its topic and filter."""
    yield from _each(deployment.subscriptions, "--subscriptions", _subscription)


def check_paths(subscriptions: Sequence[str], topics: Sequence[str]) -> None:
    """Raise ConfigError for a malformed path."""
    for paths, pattern, kind in ((subscriptions, SUBSCRIPTION, "subscription"), (topics, TOPIC, "topic")):
        for path in paths:
            if not pattern.fullmatch(path):
                raise ConfigError(f"{kind} {path!r}: expected projects/PROJECT/{kind}s/NAME")


def _each(paths: Sequence[str], option: str, check: Callable[[str], Finding]) -> Iterator[Finding]:
    if not paths:
        yield skipped(f"none is named: give {option} to check them")
        return
    check_pubsub(paths[0], QueueError)
    for path in paths:
        yield check(path)


def _topic(path: str) -> Finding:
    _, project, _, name = path.split("/")
    with closing(Topic(path)) as topic:
        create = f"gcloud pubsub topics create {name} --project {project}"
        return look_at(path, topic.client, {"topic": path}, create, (PUBLISH, "roles/pubsub.publisher"))


def _subscription(path: str) -> Finding:
    _, project, _, name = path.split("/")
    with closing(Subscription(path)) as subscription:
        command = f"gcloud pubsub subscriptions create {name} --project {project} --topic TOPIC"
        create = f"{command}, with filter and retention as in docs/operations.md"
        request, needed = {"subscription": path}, (CONSUME, "roles/pubsub.subscriber")
        return look_at(path, subscription.client, request, create, needed)


def look_at(path: str, client: Any, request: dict[str, str], create: str, needed: tuple[str, str]) -> Finding:
    """Check that a topic or a subscription exists, and that this account may use it.

    Args:
        path: projects/PROJECT/topics/NAME or projects/PROJECT/subscriptions/NAME.
        client: Google's client for topics or for subscriptions.
        request: ``{"topic": path}`` for a topic, ``{"subscription": path}`` for a subscription.
        create: the command that creates a missing topic or subscription.
        needed: a tuple: the permission; the role that includes the permission.
    """
    from google.api_core.exceptions import GoogleAPIError, NotFound, PermissionDenied
    from google.auth.exceptions import GoogleAuthError

    permission, role = needed
    grant = f"grant {role} on {path} to the account that needs it"
    get = client.get_topic if "topic" in request else client.get_subscription
    described = ""
    try:
        try:
            described = _described(get(request=request, timeout=TIMEOUT_S, retry=None))
        except PermissionDenied:  # whether it may be used is another permission
            described = "description may not be read"
        allowed = _allowed(client, path, permission)
    except NotFound:
        return problem(f"{path} is missing", create)
    except (GoogleAPIError, GoogleAuthError) as error:
        return problem(f"{path}: {message_of(error)}", "check network, project and credentials")
    if DELETED in described:
        return problem(f"{path}: its topic was deleted, so it receives nothing", f"delete it, then: {create}")
    if allowed is None:
        return ok(f"{path}: {described}; permissions cannot be checked here")
    if not allowed:
        return problem(f"{path}: this account lacks {permission}", grant)
    return ok(f"{path}: {described}; this account has {permission}")


def _described(found: Any) -> str:
    if not hasattr(found, "ack_deadline_seconds"):
        return "exists"
    wanted = f", of messages with {found.filter}" if found.filter else ""
    return f"reads {found.topic}{wanted}"


def _allowed(client: Any, path: str, permission: str) -> bool | None:
    """Return whether this account has a permission; None if the server has no permissions (emulator)."""
    from google.api_core.exceptions import MethodNotImplemented, PermissionDenied

    request = {"resource": path, "permissions": [permission]}
    try:
        return permission in client.test_iam_permissions(request=request, timeout=TIMEOUT_S).permissions
    except PermissionDenied:
        return False
    except MethodNotImplemented:
        return None
