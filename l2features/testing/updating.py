"""A running updater with emulators, a topic, a subscription, and a client that publishes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from ..core.geometry import Chunk
from ..core.ids import Ids, as_ids
from ..core.schema import SIZE
from ..store.base import Store, open_store
from .em import (
    STORE_URL,
    TABLE,
    EditMessage,
    Editor,
    EmDataset,
    make_crops,
    make_dataset,
    read_labels,
    write_children,
)
from .emulators import Emulator, PubSubEmulator
from .feed import Feed

ROOT = Path(__file__).resolve().parents[2]
CHUNK_SIZE, GRID = (256, 256, 128), (2, 2, 1)
"""Chunk size and grid of the data set that `em_updater` makes."""
ACK_DEADLINE_S = 60
MAX_MESSAGES = 1_000
"""Maximum number of messages in one publish request."""
STOP_S, START_S, PUBLISH_S = 60.0, 120.0, 60.0


@contextlib.contextmanager
def emulators() -> Iterator[None]:
    """Run emulators during the block; set BIGTABLE_EMULATOR_HOST and PUBSUB_EMULATOR_HOST to their addresses.

    SIGTERM then acts like Ctrl-C, so that this process cleans up.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as running:
        for kind in (Emulator, PubSubEmulator):
            emulator = kind()
            running.callback(emulator.stop)
            os.environ[emulator.variable] = emulator.host
        yield


class TimedFeed(Feed):
    """A topic for edits and its subscription; `publish_one` returns the time of publication."""

    def __init__(self) -> None:
        super().__init__("edits", ACK_DEADLINE_S)

    def publish_one(self, data: bytes, attributes: Mapping[str, str]) -> float:
        """Publish a message; return ``time.perf_counter`` just before sending."""
        began = time.perf_counter()
        message = {"data": data, "attributes": dict(attributes)}
        self._publisher.publish(topic=self.topic, messages=[message], retry=None, timeout=PUBLISH_S)
        return began

    def publish_all(self, edits: Sequence[EditMessage]) -> None:
        for first in range(0, len(edits), MAX_MESSAGES):
            part = edits[first : first + MAX_MESSAGES]
            messages = [{"data": edit.data, "attributes": edit.attributes} for edit in part]
            self._publisher.publish(topic=self.topic, messages=messages)


class UpdaterProcess:
    """The updater as an operator starts it; its output goes to ``log``. Use it in ``with``."""

    def __init__(self, config: Path, feed: Feed, dead_letters: Path, log: Path, workers: int = 2) -> None:
        self.log, self.dead_letters = log, dead_letters
        command = [sys.executable, "-m", "beam_jobs.update", "--config", str(config)]
        command += ["--subscriptions", feed.subscription, "--dead_letters", str(dead_letters)]
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [*command, "--workers", str(workers)], cwd=ROOT, stdout=out, stderr=out, env=dict(os.environ)
            )

    def __enter__(self) -> UpdaterProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def processes(self) -> list[psutil.Process]:
        """The updater and all its descendants."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def check(self) -> None:
        """Raise RuntimeError, with the log's end, if the updater exited."""
        if self.process.poll() is not None:
            status, log = self.process.returncode, self.log.read_text()[-3000:]
            raise RuntimeError(f"the updater ended with status {status}:\n{log}")

    def stop(self) -> int | None:
        """Stop the updater with SIGTERM, and return its exit status; kill processes that remain."""
        if self.process.poll() is None:
            processes = self.processes
            self.process.send_signal(signal.SIGTERM)
            _, left = psutil.wait_procs(processes, STOP_S)
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait()
        return self.process.returncode


class EmUpdater(NamedTuple):
    """A running updater, and its data set, subscription and store."""

    dataset: EmDataset
    feed: TimedFeed
    store: Store
    updater: UpdaterProcess


@contextlib.contextmanager
def em_updater(shared: Path, workers: int = 2) -> Iterator[EmUpdater]:
    """Run emulators, and an updater of a new data set of four EM chunks, with files in a temporary folder."""
    with tempfile.TemporaryDirectory() as name, emulators():
        folder = Path(name).resolve()
        crops = make_crops(read_labels(shared, CHUNK_SIZE[2]), CHUNK_SIZE, 4)
        dataset, feed = make_dataset(folder, crops, GRID), TimedFeed()
        log, dead = folder / "updater.log", folder / "dead"
        with (
            closing(open_store(STORE_URL, TABLE)) as store,
            UpdaterProcess(dataset.config, feed, dead, log, workers) as updater,
        ):
            yield EmUpdater(dataset, feed, store, updater)


def wait_for_rows(
    store: Store, ids: Sequence[int] | Ids, updater: UpdaterProcess, seconds: float, poll_s: float = 0.1
) -> float:
    """Wait until the store has the rows of all ``ids``; return ``time.perf_counter`` at that moment.

    Raises RuntimeError if the updater exits, or after ``seconds``.
    """
    missing, until = as_ids(ids), time.monotonic() + seconds
    while True:
        missing = missing[~store.read(missing, (SIZE,)).found]
        if not len(missing):
            return time.perf_counter()
        updater.check()
        if time.monotonic() > until:
            log = updater.log.read_text()[-3000:]
            raise RuntimeError(f"{len(missing)} rows missing after {seconds:g} s, e.g. {missing[:3]}:\n{log}")
        time.sleep(poll_s)


def warm_up(
    dataset: EmDataset, chunks: Sequence[Chunk], feed: Feed, store: Store, updater: UpdaterProcess, n: int = 6
) -> None:
    """Make the updater open the data set: publish ``n`` edits one by one, and wait for the rows of each."""
    editor = Editor(dataset, seed=1)
    for number in range(n):
        ids = editor.split(chunks[number % len(chunks)])
        write_children({node: dataset.children[node] for node in ids})
        edit = dataset.edit(ids)
        feed.publish(edit.data, attributes=edit.attributes)
        wait_for_rows(store, ids, updater, START_S)


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median, the 90th and 99th percentiles, and the largest value."""
    values = np.array(seconds)
    return {
        "median": float(np.median(values)),
        "p90": float(np.percentile(values, 90)),
        "p99": float(np.percentile(values, 99)),
        "max": float(values.max()),
    }
