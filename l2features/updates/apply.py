"""Apply batches of messages without a Beam pipeline: decode, divide by chunk, compute, write, settle."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..messages.outcomes import Fate, Outcome, Settled, Verdict, settle
from ..messages.parts import DatasetChunk, Delivery, Member
from ..pubsub.dead_letters import DeadLetters
from ..pubsub.letter import DeadLetter, dead_letter
from .ledger import OpenMessage
from .updater import Updater

logger = logging.getLogger(__name__)


class MessageResult(NamedTuple):
    """The result of a message: its `Verdict`, and the number of its ids for each `Fate`.

    Attributes:
        published: publication time in seconds since 1970; 0 if unknown.
        letter: the dead letter of a refused message until it is written; else None.
        reasons: the reason codes of a refused message.
    """

    key: str
    verdict: str
    counts: dict[str, int]
    why: str
    datasets: tuple[str, ...] = ()
    published: float = 0.0
    operation_id: int | None = None
    letter: DeadLetter | None = None
    reasons: tuple[str, ...] = ()

    @property
    def lag_ms(self) -> int | None:
        """Milliseconds since publication; None if that is unknown, or if the message will be retried."""
        if not self.published or self.verdict == Verdict.RETRY:
            return None
        return max(0, round(1000 * (time.time() - self.published)))

    def counters(self) -> Counter[str]:
        """Return the increments of the metrics ``messages_…`` and ``ids_…``."""
        ids = {f"ids_{fate}": number for fate, number in self.counts.items()}
        return Counter({f"messages_{self.verdict}": 1, **ids})


def message_result(opened: OpenMessage, settled: Settled) -> MessageResult:
    """Return the result of a message, and log it if the message is refused or will be retried."""
    key, reasons = opened.delivery.key, {str(cause.reason) for cause in settled.causes if cause.reason}
    if settled.verdict is Verdict.DEAD:
        logger.error("message %s: refused: %s", key, settled.why)
    elif settled.verdict is Verdict.RETRY:
        logger.warning("message %s: failed, will be retried: %s", key, settled.why)
    return MessageResult(
        key,
        str(settled.verdict),
        {str(fate): settled.counts[fate] for fate in Fate if settled.counts[fate]},
        settled.why,
        opened.datasets,
        opened.delivery.published,
        opened.operation_id,
        dead_letter(opened.delivery, settled.causes) if settled.verdict is Verdict.DEAD else None,
        tuple(sorted(reasons)) if settled.verdict is Verdict.DEAD else (),
    )


def apply_messages(
    updater: Updater, deliveries: Iterable[Delivery], on_progress: Callable[[], object] = lambda: None
) -> dict[str, list[Outcome]]:
    """Apply messages, grouped by chunk; return the outcomes by message key."""
    return {key: outcomes for key, (_, outcomes) in _applied(updater, deliveries, on_progress).items()}


def apply_batch(
    updater: Updater,
    deliveries: Iterable[Delivery],
    letters: DeadLetters | None = None,
    on_progress: Callable[[], object] = lambda: None,
) -> list[MessageResult]:
    """Apply messages, and return their results when all rows and dead letters are durable.

    ``on_progress`` is called each time that rows of a chunk are written. Raises DeadLetterError if a dead
    letter cannot be written.
    """
    results = []
    for opened, outcomes in _applied(updater, deliveries, on_progress).values():
        settled = settle(outcomes, opened.delivery.last, opened.delivery.overdue)
        result = message_result(opened, settled)
        if letters and result.letter:
            letters.put(result.letter)
        results.append(result._replace(letter=None))
    return results


def _applied(
    updater: Updater, deliveries: Iterable[Delivery], on_progress: Callable[[], object]
) -> dict[str, tuple[OpenMessage, list[Outcome]]]:
    groups: dict[DatasetChunk, list[Member]] = {}
    messages: dict[str, tuple[OpenMessage, list[Outcome]]] = {}
    for delivery in deliveries:
        opened, parts = updater.plan(delivery)
        messages.setdefault(delivery.key, (opened, []))[1].extend(opened.outcomes)
        for place, member in parts:
            groups.setdefault(place, []).append(member)
    for place, members in groups.items():
        for computed in updater.compute(place, members):
            for member, outcomes in updater.write(computed):
                messages[member.key][1].extend(outcomes)
            on_progress()
    return messages
