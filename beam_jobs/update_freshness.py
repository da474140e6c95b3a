"""How fresh the tables are that an update writes, kept with them by the processes that apply it."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from l2features.messages.outcomes import Verdict
from l2features.store.base import Store, open_store
from l2features.updates.recorder import WRITE_S, Recorder
from l2features.updates.updater import Update

from .update_transforms import MessageResult

logger = logging.getLogger(__name__)
STORE_DEADLINE_S = 5.0
FINISH_S = 1.0
"""How long the end of a process waits for its last figures."""


def open_recorder(update: Update) -> Recorder:
    """What keeps the figures of this process with the tables of an update's data sets."""
    datasets = {dataset.name: dataset for dataset in update.datasets}

    def store_of(name: str) -> Store:
        return open_store(datasets[name].store, datasets[name].l2cache_id, STORE_DEADLINE_S)

    return Recorder(store_of, datasets)


class Flusher:
    """Writes a recorder's figures in a thread of its own, so that a slow store delays no message."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self._final = recorder, False
        self._wake, self._written = threading.Event(), threading.Event()
        threading.Thread(target=self._run, name="freshness", daemon=True).start()

    def wake(self) -> None:
        """Have what is due written soon."""
        self._wake.set()

    def finish(self, timeout_s: float = FINISH_S) -> bool:
        """Have everything written; returns whether it was in time."""
        self._written.clear()
        self._final = True
        self._wake.set()
        return self._written.wait(timeout_s)

    def _run(self) -> None:
        """Write what is due when it is asked for and, as figures are due some time later, once more."""
        again = False
        while True:
            again = self._wake.wait(WRITE_S if again else None)
            self._wake.clear()
            if final := self._final:  # one that is asked for in between stays asked for
                self._final = False
            try:
                self.recorder.flush(final=final)
            except Exception:  # a defect: the next figures may still be written
                logger.exception("freshness: figures were not written")
            if final:
                self._written.set()


@functools.cache
def _process_flusher(update: Update) -> Flusher:
    return Flusher(open_recorder(update))


_opening = threading.Lock()


class _RecordFn(beam.DoFn):
    def __init__(self, update: Update) -> None:
        self.update = update

    def setup(self) -> None:
        with _opening:
            self.flusher = _process_flusher(self.update)

    def process(self, result: MessageResult) -> Iterable[None]:
        if result.verdict != Verdict.RETRY:
            self.flusher.recorder.applied(result.datasets, result.published, result.operation_id)
        return ()

    def finish_bundle(self) -> None:
        self.flusher.wake()

    def teardown(self) -> None:
        self.flusher.finish()


@dataclass
class RecordFreshness(beam.PTransform):
    """`MessageResult`s to the figures that are kept with the tables, every few seconds, by each process.

    A process has no backlog: what waits, waits in the runner and in Pub/Sub. A table that cannot be written
    to is named in the log, and holds up no message.
    """

    update: Update

    def expand(self, results: Any) -> Any:
        return results | "Record" >> beam.ParDo(_RecordFn(self.update))
