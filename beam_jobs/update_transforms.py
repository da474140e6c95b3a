"""PTransforms of the updates: messages to rows, and to what became of each message.

Their logic lives in `l2features.updates`. What runners keep of parts and of messages are plain values
(`l2features.updates.plain`), as a job on Dataflow may be replaced while they wait.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from l2features.messages.outcomes import Fate, Verdict
from l2features.messages.parts import Delivery, Place, batches
from l2features.pubsub.dead_letters import DeadLetter, dead_letter, open_dead_letters
from l2features.updates.ledger import Opened, Report, close_account
from l2features.updates.lending import give_back, lend
from l2features.updates.plain import Plain, entry_of, member_of, plain_entry, plain_member
from l2features.updates.updater import Computed, Update

from .transforms import NAMESPACE, count_saturated
from .update_stateful import BatchByKey, CollectByMessage

PARTS, OPENED, LETTERS, RESULTS = "parts", "opened", "letters", "results"
logger = logging.getLogger(__name__)


class MessageResult(NamedTuple):
    """What became of a message: its key, the verdict, and the number of its ids by fate.

    ``datasets`` are those that it means; it was ``published`` so many seconds after 1970, 0 if not known;
    ``operation_id`` is an edit's.
    """

    key: str
    verdict: str
    counts: dict[str, int]
    why: str
    datasets: tuple[str, ...] = ()
    published: float = 0.0
    operation_id: int | None = None


def _count(name: str, by: int = 1) -> None:
    Metrics.counter(NAMESPACE, name).inc(by)


class _UpdateFn(beam.DoFn):
    """What holds the update and borrows the process' updater."""

    def __init__(self, update: Update) -> None:
        self.update = update

    def setup(self) -> None:
        self.updater = lend(self.update)

    def teardown(self) -> None:
        give_back(self.update)


class _DecodeFn(_UpdateFn):
    def process(self, delivery: Delivery) -> Iterator[Any]:
        split = self.updater.split(delivery)
        parts = frozenset(member.part for _, member in split.parts)
        opened = Opened(delivery, parts, tuple(split.outcomes), split.datasets, split.operation_id)
        yield TaggedOutput(OPENED, (delivery.key, plain_entry(opened)))
        for place, member in split.parts:
            yield tuple(place), plain_member(member)


@dataclass
class DecodeMessages(beam.PTransform):
    """`Delivery` to (`Place`, `Member`), and to (key, `Opened`) (output ``opened``), all as plain values."""

    update: Update

    def expand(self, deliveries: Any) -> Any:
        decode = beam.ParDo(_DecodeFn(self.update)).with_output_types(
            tuple[tuple[str, int, int, int], Any], **{OPENED: tuple[str, Any]}
        )
        return deliveries | "Decode" >> decode.with_outputs(OPENED, main=PARTS)


def split_group(group: tuple[Plain, Iterable[Plain]]) -> Iterator[tuple[Plain, list[Plain]]]:
    """Yield a group as batches that are computed at once."""
    place, members = group
    for batch in batches([member_of(member) for member in members]):
        yield place, [plain_member(member) for member in batch]


@dataclass
class GroupInStream(beam.PTransform):
    """(`Place`, `Member`), plain values, to batches (`Place`, `Member`s).

    Each batch is an element by itself: a repeated one delays neither other batches nor their timers.
    """

    def expand(self, parts: Any) -> Any:
        split = beam.FlatMap(split_group).with_output_types(tuple[tuple[str, int, int, int], Any])
        return parts | BatchByKey() | "Split" >> split | "Spread" >> beam.Reshuffle()


class _ComputeNodesFn(_UpdateFn):
    def process(self, group: tuple[Plain, Iterable[Plain]]) -> Iterator[Computed]:
        place, members = Place(*group[0]), sorted(map(member_of, group[1]), key=lambda member: member.key)
        _count("groups")
        for computed in self.updater.compute(place, members):
            for step, millis in computed.millis.items():
                Metrics.distribution(NAMESPACE, f"{step}_ms").update(round(millis))
            count_saturated(computed.features)
            yield computed


@dataclass
class ComputeNodes(beam.PTransform):
    """(`Place`, `Member`s), plain values, to `Computed`: a chunk is read once for all nodes of a group."""

    update: Update

    def expand(self, groups: Any) -> Any:
        return groups | "Compute" >> beam.ParDo(_ComputeNodesFn(self.update))


class _WriteNodesFn(_UpdateFn):
    def process(self, computed: Computed) -> Iterator[tuple[str, Plain]]:
        before = computed.millis.get("write", 0.0)
        found = list(self.updater.write(computed))
        written = computed.millis.get("write", 0.0) - before
        if len(computed.features):
            Metrics.distribution(NAMESPACE, "write_ms").update(round(written))
        for member, outcomes in found:
            yield member.key, plain_entry(Report(member.part, tuple(outcomes)))


@dataclass
class WriteNodes(beam.PTransform):
    """`Computed` to rows that are durable, and then to (key, `Report` as a plain value)."""

    update: Update

    def expand(self, computed: Any) -> Any:
        write = beam.ParDo(_WriteNodesFn(self.update)).with_output_types(tuple[str, Any])
        return computed | "Write" >> write


class _SettleFn(beam.DoFn):
    def process(self, message: tuple[str, Iterable[Plain]]) -> Iterator[Any]:
        key, entries = message
        opened, settled = close_account(map(entry_of, entries))
        counts = {str(fate): settled.counts[fate] for fate in Fate if settled.counts[fate]}
        for fate, ids in counts.items():
            _count(f"ids_{fate}", ids)
        _count(f"messages_{settled.verdict}")
        published = opened.delivery.published
        if published and settled.verdict is not Verdict.RETRY:
            lag = max(0, round(1000 * (time.time() - published)))
            Metrics.distribution(NAMESPACE, "lag_ms").update(lag)
        if settled.verdict is not Verdict.DONE:
            level = logging.ERROR if settled.verdict is Verdict.DEAD else logging.WARNING
            logger.log(level, "message %s: %s: %s", key, _WORDS[settled.verdict], settled.why)
        if settled.verdict is Verdict.DEAD:
            yield TaggedOutput(LETTERS, dead_letter(opened.delivery, settled.causes))
        yield MessageResult(
            key,
            str(settled.verdict),
            counts,
            settled.why,
            opened.datasets,
            published,
            opened.operation_id,
        )


_WORDS = {Verdict.RETRY: "failed, and may succeed later", Verdict.DEAD: "refused"}


@dataclass
class SettleMessages(beam.PTransform):
    """All that is told of messages, by their keys, to `MessageResult` and `DeadLetter` (output ``letters``).

    Every key must be of one message. It is settled when all of it has come.
    """

    streaming: bool = False

    def expand(self, entries: Any) -> Any:
        return (
            entries
            | "Group by message" >> (CollectByMessage() if self.streaming else beam.GroupByKey())
            | "Settle" >> beam.ParDo(_SettleFn()).with_outputs(LETTERS, main=RESULTS)
        )


class _KeepFn(beam.DoFn):
    def __init__(self, where: str) -> None:
        self.where = where

    def setup(self) -> None:
        self.letters = open_dead_letters(self.where)

    def process(self, letter: DeadLetter) -> None:
        self.letters.put(letter)
        _count("dead_letters")

    def teardown(self) -> None:
        self.letters.close()


@dataclass
class KeepDeadLetters(beam.PTransform):
    """`DeadLetter` to a folder or a topic (`l2features.pubsub.dead_letters.open_dead_letters`)."""

    where: str

    def expand(self, letters: Any) -> Any:
        return letters | "Keep" >> beam.ParDo(_KeepFn(self.where))


@dataclass
class UpdateResults:
    """PCollections of what became of the messages (`MessageResult`), and of the `DeadLetter`s among them.

    ``reports`` has an element for each part of a message that was worked on.
    """

    results: Any
    letters: Any
    reports: Any


def build(
    pipeline: Any,
    messages: beam.PTransform,
    update: Update,
    dead_letters: beam.PTransform | None = None,
    streaming: bool = False,
) -> UpdateResults:
    """Add the update to a pipeline. ``messages`` gives deliveries, and ``dead_letters`` keeps letters.

    A pipeline that is ``streaming`` never ends: it computes what has come for a chunk after a short wait.
    """
    deliveries = pipeline | "Messages" >> messages
    decoded = deliveries | "Decode messages" >> DecodeMessages(update)
    reports = (
        decoded[PARTS]
        | "Group by chunk" >> (GroupInStream() if streaming else beam.GroupByKey())
        | "Compute nodes" >> ComputeNodes(update)
        | "Write nodes" >> WriteNodes(update)
    )
    entries = (decoded[OPENED], reports) | "All of a message" >> beam.Flatten()
    settled = entries | "Settle messages" >> SettleMessages(streaming)
    if dead_letters is not None:
        settled[LETTERS] | "Keep dead letters" >> dead_letters
    return UpdateResults(settled[RESULTS], settled[LETTERS], reports)
