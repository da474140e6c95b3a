"""How fresh the tables are that an update writes, kept with them by the processes that apply it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from l2features.store import Store, open_store
from l2features.updates.outcomes import Verdict
from l2features.updates.recorder import Recorder
from l2features.updates.updater import Update

from .update_transforms import MessageResult

STORE_DEADLINE_S = 5.0


def open_recorder(update: Update) -> Recorder:
    """What keeps the figures of this process with the tables of an update's data sets."""
    datasets = {dataset.name: dataset for dataset in update.datasets}

    def store_of(name: str) -> Store:
        return open_store(datasets[name].store, datasets[name].l2cache_id, STORE_DEADLINE_S)

    return Recorder(store_of, datasets)


@functools.cache
def _process_recorder(update: Update) -> Recorder:
    return open_recorder(update)


_opening = threading.Lock()


class _RecordFn(beam.DoFn):
    def __init__(self, update: Update) -> None:
        self.update = update

    def setup(self) -> None:
        with _opening:
            self.recorder = _process_recorder(self.update)

    def process(self, result: MessageResult) -> Iterable[None]:
        if result.verdict != Verdict.RETRY:
            self.recorder.applied(result.datasets, result.published, result.operation_id)
        return ()

    def finish_bundle(self) -> None:
        self.recorder.flush()

    def teardown(self) -> None:
        self.recorder.flush(final=True)


@dataclass
class RecordFreshness(beam.PTransform):
    """`MessageResult`s to the figures that are kept with the tables, every few seconds, by each process.

    A process has no backlog: what waits, waits in the runner and in Pub/Sub. A table that cannot be written
    to is named in the log, and holds up no message.
    """

    update: Update

    def expand(self, results: Any) -> Any:
        return results | "Record" >> beam.ParDo(_RecordFn(self.update))
