"""What an updater keeps with its tables of how fresh they are.

Whoever applies messages keeps one `Recorder` for the process::

    recorder = Recorder(lambda name: open_store(url_of[name], table_of[name], deadline_s=5), datasets)
    recorder.applied(["minnie"], published, operation_id)  # the rows of a message are durable
    recorder.backlog(12, oldest_published)  # what is held or known and not done; oldest None where unknown
    recorder.flush()  # as often as wanted: it writes what is due, and logs what cannot be written
    recorder.flush(final=True)  # at the end
    recorder.close()

Times are seconds since 1970; a ``published`` of 0 is not known. All methods may be called from any thread.
`applied` and `backlog` never wait for a store. `flush` does, up to twice the deadline of a store and about
`FLUSH_S` in all: call it from a thread of its own. While one call of it runs, others return at once, except a
final one, which waits. It raises nothing for a store that does not answer: figures stay for the next time.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import numpy as np

from ..core.errors import L2FeaturesError
from ..store.base import Store
from ..store.notes import BadNote, NewerNote, put_note
from .freshness import NOTE, Backlog, Lag, Operation, Updater, Updates, read_updates

WRITE_S, ALIVE_S = 5.0, 60.0
"""What has changed is written after so long, and what has not after so long: a sign of life."""
FLUSH_S = 10.0
LAG_MESSAGES, LAG_S = 1000, 3600.0
"""The lag is that of the last so many messages, done in the last so many seconds."""
FORGOTTEN = timedelta(minutes=10)
"""An updater that has not written for so long is left out by the next to write."""
MAX_UPDATERS = 50
log = logging.getLogger(__name__)


class _Figures:
    """What one process knows of one data set."""

    def __init__(self) -> None:
        self.operation: tuple[float, int] | None = None
        """When the newest was published, and its id."""
        self.newest = 0.0
        self.messages = 0
        self.lags: deque[tuple[float, float]] = deque(maxlen=LAG_MESSAGES)
        self.changed = True
        self.tried_at = float("-inf")

    def add(self, published: float, operation_id: int | None, now: float) -> None:
        self.messages += 1
        self.newest = max(self.newest, published)
        if operation_id is not None:
            self.operation = max(self.operation or (0.0, 0), (published, operation_id))
        if published > 0:
            self.lags.append((now, max(0.0, now - published)))
        self.changed = True

    def merge(self, kept: Updates) -> None:
        """Take over what the table knows that is newer."""
        self.newest = max(self.newest, _seconds(kept.newest_message))
        if kept.newest_operation:
            known = (_seconds(kept.newest_operation.published), kept.newest_operation.operation_id)
            self.operation = max(self.operation or known, known)

    def due(self, now: float) -> bool:
        wait = WRITE_S if self.changed else ALIVE_S
        return not 0 <= now - self.tried_at < wait

    def lag(self, now: float) -> Lag | None:
        recent = [lag for at, lag in self.lags if now - at <= LAG_S]
        if not recent:
            return None
        median, p99, most = np.percentile(recent, [50, 99, 100]).round(3).tolist()
        return Lag(messages=len(recent), median_s=median, p99_s=p99, max_s=most)


class Recorder:
    """The figures of this process, by data set; ``who`` tells it from other updaters of the same tables.

    ``datasets`` are those for which it says that it lives before there is a message.
    """

    def __init__(
        self, open_store: Callable[[str], Store], datasets: Iterable[str] = (), who: str = ""
    ) -> None:
        self.who = (who or _new_name())[:100]
        self._open_store = open_store
        self._since = time.time()
        self._lock, self._flushing = threading.Lock(), threading.Lock()
        self._figures = {name: _Figures() for name in datasets}
        self._backlog: tuple[int, float] | None = None
        self._stores: dict[str, Store] = {}
        self._problems: dict[str, str] = {}

    def applied(
        self,
        datasets: Iterable[str],
        published: float,
        operation_id: int | None = None,
        now: float | None = None,
    ) -> None:
        """A message is done: its rows in these data sets are durable."""
        now = time.time() if now is None else now
        with self._lock:
            for name in datasets:
                self._figures.setdefault(name, _Figures()).add(published, operation_id, now)

    def backlog(self, messages: int, oldest: float | None = None) -> None:
        """Messages that are not done, and when the oldest of them was published."""
        backlog = (messages, oldest or 0.0)
        with self._lock:
            if backlog != self._backlog:
                self._backlog = backlog
                for figures in self._figures.values():
                    figures.changed = True

    def flush(self, now: float | None = None, final: bool = False) -> None:
        """Write what is due, or everything that has changed where this is the ``final`` call."""
        if not self._flushing.acquire(blocking=final):
            return
        try:
            now = time.time() if now is None else now
            until = time.monotonic() + FLUSH_S
            with self._lock:
                due = [(f.tried_at, name) for name, f in self._figures.items() if final or f.due(now)]
            for _, name in sorted(due):
                if time.monotonic() < until:
                    self._write(name, now)
        finally:
            self._flushing.release()

    def close(self) -> None:
        """Let go of the stores."""
        with self._flushing:
            for store in self._stores.values():
                store.close()
            self._stores.clear()

    def _write(self, name: str, now: float) -> None:
        figures = self._figures[name]
        with self._lock:
            figures.tried_at, figures.changed = now, False
        try:
            if name not in self._stores:
                self._stores[name] = self._open_store(name)
            store = self._stores[name]
            kept = self._kept(store)
            put_note(store, NOTE, self._updates(figures, kept, now).model_dump(mode="json"))
        except L2FeaturesError as error:
            with self._lock:
                figures.changed = True
            self._warn(name, str(error))
        else:
            self._problems.pop(name, None)

    def _kept(self, store: Store) -> Updates | None:
        try:
            return read_updates(store)
        except NewerNote:
            raise
        except BadNote as error:
            log.warning("%s; it is written anew", error)
            return None

    def _updates(self, figures: _Figures, kept: Updates | None, now: float) -> Updates:
        """What is to be kept, given what is kept: own figures, and those of other updaters that live."""
        time_ = _time(now)
        others = kept.updaters if kept else []
        living = [u for u in others if u.name != self.who and abs(time_ - u.time) <= FORGOTTEN]
        with self._lock:
            if kept:
                figures.merge(kept)
            operation = figures.operation
            own = Updater(
                name=self.who,
                since=_time(self._since),
                time=time_,
                messages=figures.messages,
                lag=figures.lag(now),
                backlog=_backlog(self._backlog),
            )
            newest = _known(figures.newest)
        updaters = sorted([own, *living], key=lambda updater: updater.time, reverse=True)
        return Updates(
            newest_operation=operation
            and Operation(operation_id=operation[1], published=_known(operation[0])),
            newest_message=newest,
            updaters=updaters[:MAX_UPDATERS],
        )

    def _warn(self, name: str, problem: str) -> None:
        """Once, until it changes or goes away."""
        if self._problems.get(name) != problem:
            log.warning("data set %s: cannot keep how fresh it is: %s", name, problem)
        self._problems[name] = problem


def _new_name() -> str:
    """Host, process, and a random part: containers share host names, and often all have process 1."""
    return f"{socket.gethostname()[:60]}-{os.getpid()}-{uuid.uuid4().hex}"


def _time(seconds: float) -> datetime:
    """UTC, to the millisecond."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)


def _backlog(known: tuple[int, float] | None) -> Backlog | None:
    return known and Backlog(messages=known[0], oldest=_known(known[1]))


def _known(seconds: float) -> datetime | None:
    return _time(seconds) if seconds > 0 else None


def _seconds(time_: datetime | None) -> float:
    return time_.timestamp() if time_ else 0.0
