"""PTransforms that group what belongs together in a stream, where no end of it tells that all has come.

There are no windows: what would be late for one would be dropped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.coders import FastPrimitivesCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)

from l2features.updates.ledger import Tally
from l2features.updates.plain import Plain, entry_of

from .transforms import NAMESPACE

BATCH_MESSAGES = 200
"""Most parts of messages that are computed together."""
BATCH_WAIT_S = 1.0
"""How long a part of a message waits at most for others of its chunk."""
REMEMBER_S = 3_600.0
"""How long it is known that a message was settled, so that what is told again of it means nothing."""
LONG_S = 86_400.0
"""After so long, what has come of a message that never came itself is forgotten: it was settled before."""
logger = logging.getLogger(__name__)


@dataclass
class BatchByKey(beam.PTransform):
    """(key, value) to (key, values), each time after a short wait or when there are many."""

    most: int = BATCH_MESSAGES
    wait_s: float = BATCH_WAIT_S

    def expand(self, keyed: Any) -> Any:
        return keyed | "Batch" >> beam.GroupIntoBatches(self.most, self.wait_s)


class _CollectFn(beam.DoFn):
    ENTRIES = BagStateSpec("entries", FastPrimitivesCoder())
    TALLY = ReadModifyWriteStateSpec("tally", FastPrimitivesCoder())
    FORGET = TimerSpec("forget", TimeDomain.REAL_TIME)

    def process(
        self,
        element: tuple[str, Plain],
        entries: Any = beam.DoFn.StateParam(ENTRIES),  # noqa: B008
        tally: Any = beam.DoFn.StateParam(TALLY),  # noqa: B008
        forget: Any = beam.DoFn.TimerParam(FORGET),  # noqa: B008
    ) -> Iterator[tuple[str, list[Plain]]]:
        key, entry = element
        before = Tally(*(tally.read() or ()))
        after = before.add(entry_of(entry))
        if after == before:
            Metrics.counter(NAMESPACE, "repeated").inc()
            return
        tally.write(tuple(after))
        if after.settled:
            yield key, [*entries.read(), entry]
            entries.clear()
            forget.set(time.time() + REMEMBER_S)
            return
        entries.add(entry)
        if before == Tally():
            forget.set(time.time() + LONG_S)

    @on_timer(FORGET)  # type: ignore[untyped-decorator]
    def forget(
        self,
        key: Any = beam.DoFn.KeyParam,
        entries: Any = beam.DoFn.StateParam(ENTRIES),  # noqa: B008
        tally: Any = beam.DoFn.StateParam(TALLY),  # noqa: B008
        forget: Any = beam.DoFn.TimerParam(FORGET),  # noqa: B008
    ) -> None:
        known = Tally(*(tally.read() or ()))
        if known.expected is not None and not known.settled:
            logger.warning("message %s: not all of its parts are settled yet", key)
            forget.set(time.time() + LONG_S)
            return
        entries.clear()
        tally.clear()


@dataclass
class CollectByMessage(beam.PTransform):
    """(key, plain `Entry`) to (key, all that is told of the message), once, when nothing of it is missing."""

    def expand(self, entries: Any) -> Any:
        return entries | "Collect" >> beam.ParDo(_CollectFn())
