"""Updates on Dataflow: a streaming pipeline from Pub/Sub subscriptions to rows, with no end.

Dataflow acknowledges a message as soon as it is decoded, and keeps what comes of it in its own state. So
nothing can be left to Pub/Sub: a transient error is raised, and Dataflow repeats the call, for a day from the
publication of a message. What still fails then, what fails for good, and a message that kills or hangs its
process three times, is a dead letter.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
from apache_beam.io.gcp.pubsub import PubsubMessage, ReadFromPubSub, parse_subscription

from l2features.deadletters import TOPIC
from l2features.errors import ConfigError
from l2features.pubsub.subscription import Subscription
from l2features.updates.parts import Delivery
from l2features.updates.updater import Update

from .update_freshness import RecordFreshness
from .update_transforms import KeepDeadLetters, build

ATTEMPTS = 6
"""By default: what the graph does not know yet is asked for during 16 s, while the group waits."""
INSIST_S = 86_400.0
"""How long after a message was published a store or a graph that is away is not held against it."""
HANGS_MIN = 60
"""Minutes after which a process hangs at a batch, as on one machine: a slow graph may take half of it."""
_SERVICE_OPTIONS = "--dataflow_service_options"
_MODE = "streaming_mode_"


def streaming_flags(flags: Sequence[str]) -> list[str]:
    """Beam's flags with the defaults of this job before them: a flag that is given comes later, and counts.

    At least once: rows are a function of their ids, and writing one twice is cheaper than to remember it.
    """
    ours = ["--streaming", "--enable_streaming_engine", f"--element_processing_timeout_minutes={HANGS_MIN}"]
    if not any(_MODE in flag for flag in flags):
        ours.append(f"{_SERVICE_OPTIONS}={_MODE}at_least_once")
    return [*ours, *flags]


class _DeliverFn(beam.DoFn):
    def __init__(self, source: str) -> None:
        self.source = source

    def process(self, message: PubsubMessage, published: Any = beam.DoFn.TimestampParam) -> Any:
        key = f"{self.source}/{message.message_id or uuid.uuid4().hex}"
        yield Delivery(
            key,
            message.data or b"",
            dict(message.attributes or {}),
            last=True,
            overdue=True,
            published=max(0.0, published.micros / 1e6),
        )


@dataclass
class Deliver(beam.PTransform):
    """`PubsubMessage`, whose timestamp is when it was published, to `Delivery` for its only attempt."""

    source: str
    """Tells messages of one subscription from those of another."""

    def expand(self, messages: Any) -> Any:
        return messages | "Deliver" >> beam.ParDo(_DeliverFn(self.source)).with_output_types(Delivery)


@dataclass
class ReadSubscriptions(beam.PTransform):
    """Nothing to the `Delivery`s of subscriptions, ``projects/…/subscriptions/…``."""

    paths: Sequence[str]

    def expand(self, begin: Any) -> Any:
        read = []
        for path in self.paths:
            _, project, _, name = path.split("/")
            source = f"{project} {name}"
            messages = begin | f"Read {source}" >> ReadFromPubSub(subscription=path, with_attributes=True)
            read.append(messages | f"Deliver {source}" >> Deliver(source))
        return tuple(read) | "All subscriptions" >> beam.Flatten()


def stream_to(update: Update, subscriptions: Sequence[str], dead_letters: str) -> Callable[[Any], object]:
    """What adds the job to a pipeline. Raises ConfigError for a path that is none, and for a folder."""
    paths = [Subscription(path).path for path in dict.fromkeys(subscriptions)]
    for path in paths:
        try:
            parse_subscription(path)
        except ValueError as error:
            raise ConfigError(f"subscription {path!r}: {error}") from error
    if not TOPIC.fullmatch(dead_letters):
        raise ConfigError(
            f"dead letters {dead_letters!r}: on Dataflow expected a topic, projects/PROJECT/topics/NAME"
        )
    insisting = replace(update, insist_s=INSIST_S, counted=True)

    def add(pipeline: Any) -> object:
        letters = KeepDeadLetters(dead_letters)
        done = build(pipeline, ReadSubscriptions(paths), insisting, letters, streaming=True)
        return done.results | "Record freshness" >> RecordFreshness(update)

    return add
