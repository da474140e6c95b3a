"""Updates on Dataflow: a streaming pipeline from Pub/Sub subscriptions to rows.

Dataflow acknowledges a message once it is decoded. From then on, Dataflow's state holds the message. So
there is no nack: after a transient error, Dataflow repeats the batch until a day after the message's
publication. Then the message becomes a dead letter. Messages with a permanent error, and messages that kill
or hang their process, become dead letters too.
"""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
from apache_beam.io.gcp.pubsub import PubsubMessage, ReadFromPubSub, parse_subscription
from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions

from l2features.core.errors import ConfigError
from l2features.messages.parts import Delivery
from l2features.pubsub.subscription import Subscription
from l2features.pubsub.topic import TOPIC
from l2features.updates.updater import Update

from .options import pipeline_options
from .update_transforms import RecordFreshness, build

REPEAT_S = 86_400.0
"""Age of a message, in seconds, up to which Dataflow repeats a batch after a transient error."""
HANGS_MIN = 60
"""Minutes without progress after which a batch counts as hung; a slow graph may take half of this time."""
_MODE = "streaming_mode_"
_EXACTLY_ONCE, _AT_LEAST_ONCE = f"{_MODE}exactly_once", f"{_MODE}at_least_once"
_SERVICE_OPTIONS = ("--dataflow_service_options", "--dataflow_service_option")
_EXPERIMENTS = ("--experiments", "--experiment")


def streaming_flags(flags: Sequence[str]) -> list[str]:
    """Return the Beam flags of a streaming job: at-least-once, unless ``flags`` ask for exactly-once.

    At-least-once is cheaper, and may write a row twice. This is harmless: a row depends only on its id. If
    ``flags`` name both modes, exactly-once wins: the launcher of a template adds at-least-once to the
    user's flags.
    """
    options = pipeline_options(flags)
    service = options.view_as(GoogleCloudOptions).dataflow_service_options or []
    experiments = options.view_as(DebugOptions).experiments or []
    modes = [name for name in (*service, *experiments) if name.startswith(_MODE)]
    mode = _EXACTLY_ONCE if _EXACTLY_ONCE in modes else (modes or [_AT_LEAST_ONCE])[-1]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(*_SERVICE_OPTIONS, *_EXPERIMENTS, action="append")
    _, rest = parser.parse_known_args(flags)
    others = [(_EXPERIMENTS[0], name) for name in experiments] + [
        (_SERVICE_OPTIONS[0], name) for name in service
    ]
    kept = [f"{flag}={name}" for flag, name in others if name not in modes]
    hangs = f"--element_processing_timeout_minutes={HANGS_MIN}"
    return ["--streaming", hangs, *rest, *kept, f"{_SERVICE_OPTIONS[0]}={mode}"]


def _deliver(message: PubsubMessage, source: str, published: Any = beam.DoFn.TimestampParam) -> Delivery:
    key = f"{source}/{message.message_id or uuid.uuid4().hex}"
    data, attributes, seconds = message.data or b"", dict(message.attributes or {}), published.micros / 1e6
    return Delivery(key, data, attributes, last=True, overdue=True, published=max(0.0, seconds))


@dataclass
class Deliver(beam.PTransform):
    """Convert each `PubsubMessage`, whose timestamp is its publication time, to a `Delivery`."""

    source: str
    """Prefix of the keys of this subscription's messages."""

    def expand(self, messages: Any) -> Any:
        return messages | "Deliver" >> beam.Map(_deliver, self.source).with_output_types(Delivery)


@dataclass
class ReadSubscriptions(beam.PTransform):
    """Read `Delivery`s from subscriptions, ``projects/…/subscriptions/…``."""

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
    """Return a function that adds the job to a pipeline.

    Raises ConfigError if the path of a subscription or of the dead-letter topic is invalid.
    """
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
    repeating = replace(update, repeat_s=REPEAT_S, counted=True)

    def add(pipeline: Any) -> object:
        results = build(pipeline, ReadSubscriptions(paths), repeating, dead_letters, streaming=True)
        return results | "Record freshness" >> RecordFreshness(update)

    return add
