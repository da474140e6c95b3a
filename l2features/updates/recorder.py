"""Records how fresh each table is, in a note (a named JSON text) of the table, while messages are applied.

A process has one `Recorder`, which collects figures: message counts, lag, backlog, and newest operation. A
`Flusher` writes the figures in a thread::

    recorder = open_recorder(update.datasets)
    flusher = Flusher(recorder)
    recorder.applied(["minnie"], published, operation_id)  # the rows of a message are durable
    recorder.backlog(12, oldest_published)  # leased messages that are not done
    flusher.wake()  # as often as you like: writes due figures, and logs errors
    flusher.finish()  # at the end

Times are seconds since 1970; a ``published`` of 0 is unknown. All methods are safe to call from any thread.
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

from ..config.datasets import Dataset
from ..core.errors import L2FeaturesError
from ..store.base import Store, open_store
from ..store.notes import put_note, replaceable_note
from .freshness import NOTE, Backlog, Lag, Operation, UpdaterRecord, Updates
from .lag_history import NOTE as HISTORY_NOTE
from .lag_history import Pending, UpdateHistory

WRITE_S, ALIVE_S = 5.0, 60.0
"""Seconds between writes of changed figures, and of unchanged figures as a heartbeat."""
FLUSH_S, FINISH_S, STORE_DEADLINE_S = 10.0, 1.0, 5.0
"""Seconds until a flush starts no more writes; until `Flusher.finish` returns; until a store call fails."""
LAG_MESSAGES, LAG_S = 1000, 3600.0
"""Maximum number of messages, and their maximum age in seconds, from which the lag is computed."""
FORGOTTEN = timedelta(minutes=10)
"""Updaters that have written no record for this time are removed from the note by other updaters."""
MAX_UPDATERS = 50
log = logging.getLogger(__name__)


class _Figures:
    """Message count, lags and newest operation of one process for one data set."""

    def __init__(self) -> None:
        self.operation: tuple[float, int] | None = None
        """Publication time of the newest operation's message, and the operation's id."""
        self.newest = 0.0
        self.messages = 0
        self.lags: deque[tuple[float, float]] = deque(maxlen=LAG_MESSAGES)
        self.pending = Pending()
        self.changed = True
        self.tried_at = float("-inf")

    def add(self, published: float, operation_id: int | None, now: float) -> None:
        self.messages += 1
        self.newest = max(self.newest, published)
        if operation_id is not None:
            self.operation = max(self.operation or (0.0, 0), (published, operation_id))
        lag = max(0.0, now - published) if published > 0 else None
        if lag is not None:
            self.lags.append((now, lag))
        self.pending.add(lag)
        self.changed = True

    def merge(self, kept: Updates) -> None:
        """Take the newest operation and the newest publication time from the table's note, if newer."""
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
    """Collects this process's message counts, lags and backlog, and writes them to the tables' notes.

    Args:
        datasets: data sets whose tables get a record of this process even before the first message.
        who: name of this process among the updaters of a table; by default host, process id and a random
            part.
    """

    def __init__(
        self, open_store: Callable[[str], Store], datasets: Iterable[str] = (), who: str = ""
    ) -> None:
        # Containers share host names and process 1, hence the random part.
        self.who = (who or f"{socket.gethostname()[:60]}-{os.getpid()}-{uuid.uuid4().hex}")[:100]
        self._open_store = open_store
        self._since = time.time()
        self._lock, self._flushing = threading.Lock(), threading.Lock()
        self._figures = {name: _Figures() for name in datasets}
        self._backlog: Backlog | None = None
        self._stores: dict[str, Store] = {}
        self._problems: dict[str, str] = {}

    def applied(
        self,
        datasets: Iterable[str],
        published: float,
        operation_id: int | None = None,
        now: float | None = None,
    ) -> None:
        """Count a message whose rows are durable, for each of these data sets."""
        now = time.time() if now is None else now
        with self._lock:
            for name in datasets:
                self._figures.setdefault(name, _Figures()).add(published, operation_id, now)

    def refused(self, datasets: Iterable[str], reasons: Iterable[str]) -> None:
        """Count a dead letter for each of these data sets; for all known data sets if none is given."""
        names, reasons = list(datasets), list(reasons)
        with self._lock:
            for name in names or self._figures:
                figures = self._figures.setdefault(name, _Figures())
                figures.pending.refuse(reasons)
                figures.changed = True

    def backlog(self, messages: int, oldest: float | None = None) -> None:
        """Set the number of unfinished messages, and when the oldest was published."""
        backlog = Backlog(messages=messages, oldest=_known(oldest or 0.0))
        with self._lock:
            if backlog != self._backlog:
                self._backlog = backlog
                for figures in self._figures.values():
                    figures.changed = True

    def flush(self, now: float | None = None, final: bool = False) -> None:
        """Write the data sets' figures that are due; with ``final``, all figures. Errors are logged.

        Changed figures are due `WRITE_S` seconds after the last attempt to write them; unchanged ones, after
        `ALIVE_S`. After `FLUSH_S` seconds, a call starts no further write. If another call is writing, this
        call returns at once; with ``final``, it waits.
        """
        if not self._flushing.acquire(blocking=final):
            return
        try:
            now = time.time() if now is None else now
            until = time.monotonic() + FLUSH_S
            with self._lock:
                due = [(f.tried_at, name) for name, f in self._figures.items() if final or f.due(now)]
            for _, name in sorted(due):
                if time.monotonic() < until:
                    self._write(name, now, final)
        finally:
            self._flushing.release()

    def close(self) -> None:
        """Close the stores."""
        with self._flushing:
            for store in self._stores.values():
                store.close()
            self._stores.clear()

    def _write(self, name: str, now: float, final: bool) -> None:
        figures = self._figures[name]
        with self._lock:
            figures.tried_at, figures.changed = now, False
        try:
            if name not in self._stores:
                self._stores[name] = self._open_store(name)
            store = self._stores[name]
            kept = replaceable_note(store, NOTE, Updates)
            put_note(store, NOTE, self._updates(figures, kept, now).model_dump(mode="json"))
            if figures.pending.due(now) or final:
                self._add_to_history(store, figures, now)
        except L2FeaturesError as error:
            with self._lock:
                figures.changed = True
            if self._problems.get(name) != str(error):  # once, until it changes or is solved
                log.warning("data set %s: cannot record its freshness: %s", name, error)
            self._problems[name] = str(error)
        else:
            self._problems.pop(name, None)

    def _add_to_history(self, store: Store, figures: _Figures, now: float) -> None:
        kept = replaceable_note(store, HISTORY_NOTE, UpdateHistory)
        with self._lock:
            pending, figures.pending = figures.pending, Pending(now)
            backlog = self._backlog.messages if self._backlog else None
        try:
            history = pending.added_to(kept, backlog, now)
            put_note(store, HISTORY_NOTE, history.model_dump(mode="json"))
        except L2FeaturesError:
            with self._lock:
                figures.pending.take_back(pending)
            raise

    def _updates(self, figures: _Figures, kept: Updates | None, now: float) -> Updates:
        """Return the note to write: this process's record, and those of other updaters.

        ``kept`` is the note in the table. Its records that are older than `FORGOTTEN` are left out.
        """
        time_ = _time(now)
        others = kept.updaters if kept else []
        living = [u for u in others if u.name != self.who and abs(time_ - u.time) <= FORGOTTEN]
        with self._lock:
            if kept:
                figures.merge(kept)
            operation = figures.operation
            this = UpdaterRecord(
                name=self.who,
                since=_time(self._since),
                time=time_,
                messages=figures.messages,
                lag=figures.lag(now),
                backlog=self._backlog,
            )
            newest = _known(figures.newest)
        updaters = sorted([this, *living], key=lambda updater: updater.time, reverse=True)
        return Updates(
            newest_operation=operation
            and Operation(operation_id=operation[1], published=_known(operation[0])),
            newest_message=newest,
            updaters=updaters[:MAX_UPDATERS],
        )


class Flusher:
    """Writes a recorder's figures in its own thread, so that a slow store does not delay messages."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self._final = recorder, False
        self._wake, self._written = threading.Event(), threading.Event()
        threading.Thread(target=self._run, name="freshness", daemon=True).start()

    def wake(self) -> None:
        """Let the thread write due figures soon."""
        self._wake.set()

    def finish(self, timeout_s: float = FINISH_S) -> bool:
        """Let the thread write all figures; return False if this takes longer than ``timeout_s`` seconds."""
        self._written.clear()
        self._final = True
        self._wake.set()
        return self._written.wait(timeout_s)

    def _run(self) -> None:
        """Flush after each `wake`, and once more `WRITE_S` seconds later, for figures that were not due."""
        again = False
        while True:
            again = self._wake.wait(WRITE_S if again else None)
            self._wake.clear()
            if final := self._final:  # a request during the flush stays set
                self._final = False
            try:
                self.recorder.flush(final=final)
            except Exception:  # a defect: the next flush may succeed
                log.exception("freshness: flush failed")
            if final:
                self._written.set()


def open_recorder(datasets: Iterable[Dataset]) -> Recorder:
    """Return the recorder of a process that updates these data sets."""
    by_name = {dataset.name: dataset for dataset in datasets}

    def store_of(name: str) -> Store:
        return open_store(by_name[name].store, by_name[name].l2cache_id, STORE_DEADLINE_S)

    return Recorder(store_of, by_name)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds, 3), UTC)


def _known(seconds: float) -> datetime | None:
    return _time(seconds) if seconds > 0 else None


def _seconds(time_: datetime | None) -> float:
    return time_.timestamp() if time_ else 0.0
