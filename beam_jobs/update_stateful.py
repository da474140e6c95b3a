"""PTransforms that group the elements of an unbounded stream by key.

All elements are in the global window, so none is late. Timers fire when the watermark passes their time.
Draining a job moves its watermark to the end of time, so all timers fire at once. A timer that fires sets no
other timer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.coders import FastPrimitivesCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)
from apache_beam.utils.timestamp import Timestamp

from l2features.updates.ledger import Plain, Tally, entry_of, plain_entry, unreported

from .counters import count

BATCH_MESSAGES = 200
"""Maximum number of message parts (nodes of a message in one chunk) that are computed together."""
BATCH_WAIT_S = 1.0
"""Seconds that the watermark moves while a message part waits for other parts in its chunk."""
REMEMBER_S = 3_600.0
"""Seconds that a message is remembered after its last `Entry`, to ignore repeated entries."""
LONG_S = 86_400.0
"""Seconds that an unsettled message waits for missing entries."""
logger = logging.getLogger(__name__)


class _BatchFn(beam.DoFn):
    VALUES = BagStateSpec("values", FastPrimitivesCoder())
    COUNT = ReadModifyWriteStateSpec("count", FastPrimitivesCoder())
    DUE = TimerSpec("due", TimeDomain.WATERMARK)

    def __init__(self, most: int, wait_s: float) -> None:
        self.most, self.wait_s = most, wait_s

    def process(
        self,
        element: tuple[Any, Plain],
        began: Any = beam.DoFn.TimestampParam,
        values: Any = beam.DoFn.StateParam(VALUES),  # noqa: B008
        count: Any = beam.DoFn.StateParam(COUNT),  # noqa: B008
        due: Any = beam.DoFn.TimerParam(DUE),  # noqa: B008
    ) -> Iterator[tuple[Any, list[Plain]]]:
        key, value = element
        if not key[0]:  # a message, not a part of one: it waits for nothing
            yield key, [value]
            return
        waiting = count.read() or 0
        if waiting + 1 >= self.most:
            due.clear()
            yield key, [*values.read(), value]
            values.clear()
            count.clear()
            return
        values.add(value)
        count.write(waiting + 1)
        if not waiting:
            due.set(began + self.wait_s)

    @on_timer(DUE)  # type: ignore[untyped-decorator]
    def on_due(
        self,
        key: Any = beam.DoFn.KeyParam,
        values: Any = beam.DoFn.StateParam(VALUES),  # noqa: B008
        count: Any = beam.DoFn.StateParam(COUNT),  # noqa: B008
    ) -> Iterable[tuple[Any, list[Plain]]]:
        batch = list(values.read())
        values.clear()
        count.clear()
        return [(key, batch)] if batch else []


@dataclass
class BatchByKey(beam.PTransform):
    """Batch pairs (key, value) to pairs (key, values).

    A batch ends with ``most`` values, or when the watermark is ``wait_s`` seconds past the timestamp of its
    first value. Keys are tuples. If the first item of a key is empty, its values are not batched: each is
    returned at once.
    """

    most: int = BATCH_MESSAGES
    wait_s: float = BATCH_WAIT_S

    def expand(self, keyed: Any) -> Any:
        return keyed | "Batch" >> beam.ParDo(_BatchFn(self.most, self.wait_s))


class _CollectFn(beam.DoFn):
    ENTRIES = BagStateSpec("entries", FastPrimitivesCoder())
    TALLY = ReadModifyWriteStateSpec("tally", FastPrimitivesCoder())
    FORGET = TimerSpec("forget", TimeDomain.WATERMARK)

    def process(
        self,
        element: tuple[str, Plain],
        published: Any = beam.DoFn.TimestampParam,
        entries: Any = beam.DoFn.StateParam(ENTRIES),  # noqa: B008
        tally: Any = beam.DoFn.StateParam(TALLY),  # noqa: B008
        forget: Any = beam.DoFn.TimerParam(FORGET),  # noqa: B008
    ) -> Iterator[tuple[str, list[Plain]]]:
        key, entry = element
        before = Tally(*(tally.read() or ()))
        after = before.add(entry_of(entry))
        if after == before:
            count(repeated=1)
            return
        tally.write(tuple(after))
        now = max(published, Timestamp.of(time.time()))  # after a seek, messages are old
        if after.settled:
            yield key, [*entries.read(), entry]
            entries.clear()
            forget.set(now + REMEMBER_S)
            return
        entries.add(entry)
        if before == Tally():
            forget.set(now + LONG_S)

    @on_timer(FORGET)  # type: ignore[untyped-decorator]
    def on_forget(
        self,
        key: Any = beam.DoFn.KeyParam,
        entries: Any = beam.DoFn.StateParam(ENTRIES),  # noqa: B008
        tally: Any = beam.DoFn.StateParam(TALLY),  # noqa: B008
    ) -> Iterable[tuple[str, list[Plain]]]:
        known = Tally(*(tally.read() or ()))
        reported = list(entries.read())
        entries.clear()
        tally.clear()
        if known.settled or known.expected is None:
            return []
        logger.error("message %s: results of some chunks were lost: the message becomes a dead letter", key)
        return [(key, [*reported, *map(plain_entry, unreported(map(entry_of, reported)))])]


@dataclass
class CollectByMessage(beam.PTransform):
    """Collect (key, `Entry`) to (key, all entries of the message), once no entry is missing.

    An entry is an `OpenMessage` or the `Report` of one part of the message, stored as a plain tuple. A report
    counts as lost if it is still missing `LONG_S` seconds after the first entry, by the watermark: a part
    that is still being processed would stop the watermark. The missing report is then replaced by one that
    refuses the message.
    """

    def expand(self, entries: Any) -> Any:
        return entries | "Collect" >> beam.ParDo(_CollectFn())
