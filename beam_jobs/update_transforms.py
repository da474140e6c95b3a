"""PTransforms of the updates: write the rows of messages, and return one `MessageResult` per message.

The logic of the steps is in `l2features.updates`. Runners store only plain values, such as tuples and strings
(see `l2features.updates.ledger`): if a job on Dataflow is replaced while messages are in flight, the new code
must read what the old code stored.
"""

from __future__ import annotations

import functools
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam

from l2features.messages.outcomes import Verdict
from l2features.messages.parts import DatasetChunk, Delivery, batches
from l2features.pubsub.dead_letters import open_dead_letters
from l2features.pubsub.recorded import read_message
from l2features.updates.apply import MessageResult, message_result
from l2features.updates.ledger import (
    Plain,
    Report,
    close_account,
    entry_of,
    member_of,
    plain_entry,
    plain_member,
)
from l2features.updates.recorder import Flusher, open_recorder
from l2features.updates.updater import Update, Updater

from .counters import count, measure
from .transforms import observe
from .update_stateful import BatchByKey, CollectByMessage

_lock = threading.Lock()
_updaters: dict[Update, tuple[Updater, int]] = {}


def acquire_updater(update: Update) -> Updater:
    """Return this process's updater for ``update``. Each call needs a later `release_updater`."""
    with _lock:
        updater, users = _updaters.get(update) or (update.open(), 0)
        _updaters[update] = updater, users + 1
        return updater


def release_updater(update: Update) -> None:
    """Undo one `acquire_updater`. The last release closes the updater."""
    with _lock:
        updater, users = _updaters.pop(update)
        if users > 1:
            _updaters[update] = updater, users - 1
            return
    updater.close()


class _UpdateFn(beam.DoFn):
    def __init__(self, update: Update) -> None:
        self.update = update

    def setup(self) -> None:
        self.updater = acquire_updater(self.update)

    def teardown(self) -> None:
        release_updater(self.update)


@dataclass
class ReadRecorded(beam.PTransform):
    """Read `Delivery`s from files, each with its file's path as the key."""

    files: Sequence[Path]

    def expand(self, begin: Any) -> Any:
        return begin | "Files" >> beam.Create(list(self.files)) | "Read" >> beam.Map(read_message)


class _DecodeFn(_UpdateFn):
    def process(self, delivery: Delivery) -> Iterator[tuple[Plain, Plain]]:
        opened, parts = self.updater.plan(delivery)
        no_place = DatasetChunk("", zlib.crc32(delivery.key.encode()), 0, 0)
        yield tuple(no_place), (delivery.key, plain_entry(opened))
        for place, member in parts:
            yield tuple(place), plain_member(member)


@dataclass
class DecodeMessages(beam.PTransform):
    """Decode each `Delivery`; return pairs of plain tuples.

    Each part of the message becomes a pair (`DatasetChunk`, `Member`). One more pair is for the message as a
    whole: (`DatasetChunk` with an empty data set, (message's key, `OpenMessage`)).
    """

    update: Update

    def expand(self, deliveries: Any) -> Any:
        decode = beam.ParDo(_DecodeFn(self.update))
        return deliveries | "Decode" >> decode.with_output_types(tuple[tuple[str, int, int, int], Any])


def split_group(group: tuple[Plain, Iterable[Plain]]) -> Iterator[tuple[Plain, list[Plain]]]:
    """Split the `Member`s of a chunk into batches of at most `parts.BATCH_IDS` ids; yield (chunk, batch)."""
    place, values = group
    if not DatasetChunk(*place).dataset:
        yield place, list(values)
        return
    for batch in batches([member_of(value) for value in values]):
        yield place, [plain_member(member) for member in batch]


@dataclass
class GroupInStream(beam.PTransform):
    """Group pairs (`DatasetChunk`, `Member`) to batches (`DatasetChunk`, list of `Member`), as plain tuples.

    The batches are reshuffled: if one fails later, the runner retries it alone and repeats no batching.
    """

    def expand(self, parts: Any) -> Any:
        split = beam.FlatMap(split_group).with_output_types(tuple[tuple[str, int, int, int], Any])
        return parts | BatchByKey() | "Split" >> split | "Spread" >> beam.Reshuffle()


class _ComputeNodesFn(_UpdateFn):
    def process(self, group: tuple[Plain, Iterable[Any]]) -> Iterator[tuple[str, Plain]]:
        place = DatasetChunk(*group[0])
        if not place.dataset:
            yield from group[1]
            return
        count(groups=1)
        members = sorted(map(member_of, group[1]), key=lambda member: member.key)
        for computed in self.updater.compute(place, members):
            written = list(self.updater.write(computed))
            observe(computed.features, computed.millis)
            for member, outcomes in written:
                yield member.key, plain_entry(Report(member.part, tuple(outcomes)))


@dataclass
class ComputeNodes(beam.PTransform):
    """Compute and write the rows of each (`DatasetChunk`, `Member`s); return (key, `Report`) per member.

    The nodes of a group are computed together, so that a chunk is read once for several messages. Pairs
    (key, `OpenMessage`), which come with an empty data set, are returned unchanged.
    """

    update: Update

    def expand(self, groups: Any) -> Any:
        compute = beam.ParDo(_ComputeNodesFn(self.update))
        return groups | "Compute" >> compute.with_output_types(tuple[str, Any])


def _settle(message: tuple[str, Iterable[Plain]]) -> MessageResult:
    result = message_result(*close_account(map(entry_of, message[1])))
    count(**result.counters())
    if result.lag_ms is not None:
        measure(lag_ms=result.lag_ms)
    return result


@dataclass
class SettleMessages(beam.PTransform):
    """Settle messages: return one `MessageResult` when all (key, `Entry`) of a message have arrived."""

    streaming: bool = False

    def expand(self, entries: Any) -> Any:
        collect = CollectByMessage() if self.streaming else beam.GroupByKey()
        return entries | "Group by message" >> collect | "Settle" >> beam.Map(_settle)


class _KeepFn(beam.DoFn):
    def __init__(self, where: str) -> None:
        self.where = where

    def setup(self) -> None:
        self.letters = open_dead_letters(self.where) if self.where else None

    def process(self, result: MessageResult) -> Iterator[Any]:
        if self.letters and result.letter:
            self.letters.put(result.letter)
            count(dead_letters=1)
        yield result._replace(letter=None)

    def teardown(self) -> None:
        if self.letters:
            self.letters.close()


@dataclass
class KeepDeadLetters(beam.PTransform):
    """Write the dead letter of each refused message to the folder or topic, if one is given."""

    where: str

    def expand(self, results: Any) -> Any:
        return results | "Keep" >> beam.ParDo(_KeepFn(self.where))


@functools.cache
def _process_flusher(update: Update) -> Flusher:
    return Flusher(open_recorder(update.datasets))


class _RecordFn(beam.DoFn):
    def __init__(self, update: Update) -> None:
        self.update = update

    def setup(self) -> None:
        with _lock:
            self.flusher = _process_flusher(self.update)

    def process(self, result: MessageResult) -> Iterable[None]:
        if result.verdict != Verdict.RETRY:
            self.flusher.recorder.applied(result.datasets, result.published, result.operation_id)
        if result.verdict == Verdict.DEAD:
            self.flusher.recorder.refused(result.datasets, result.reasons)
        return ()

    def finish_bundle(self) -> None:
        self.flusher.wake()

    def teardown(self) -> None:
        self.flusher.finish()


@dataclass
class RecordFreshness(beam.PTransform):
    """Record in each table how current it is: newest operation, lag, and number of messages.

    Each process writes every few seconds. It does not record the backlog, since messages wait in the runner
    and in Pub/Sub. If a table cannot be written, the error is logged, and messages are not delayed.
    """

    update: Update

    def expand(self, results: Any) -> Any:
        return results | "Record" >> beam.ParDo(_RecordFn(self.update))


def build(
    pipeline: Any, messages: beam.PTransform, update: Update, dead_letters: str = "", streaming: bool = False
) -> Any:
    """Add the steps that apply messages to a pipeline; return a `MessageResult` per message.

    The transform ``messages`` reads the messages, as `Delivery`s. A ``streaming`` pipeline never ends: before
    it computes the nodes of a chunk, it waits briefly for further nodes of the chunk.
    """
    return (
        pipeline
        | "Messages" >> messages
        | "Decode messages" >> DecodeMessages(update)
        | "Group by chunk" >> (GroupInStream() if streaming else beam.GroupByKey())
        | "Compute nodes" >> ComputeNodes(update)
        | "Settle messages" >> SettleMessages(streaming)
        | "Keep dead letters" >> KeepDeadLetters(dead_letters)
    )
