"""The course of the chaos test: publishing, counting what is done, and disturbances."""

from __future__ import annotations

import contextlib
import heapq
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l2features.core.errors import L2FeaturesError
from l2features.core.ids import Ids, as_ids
from l2features.core.schema import SIZE
from l2features.store.base import open_store
from l2features.updates.backoff import FIRST_PAUSE_S
from tests.e2e.chaos.checks import messages_left
from tests.e2e.chaos.messages import Good, Parcel
from tests.e2e.chaos.updater import RestartedUpdater
from tests.e2e.chaos.world import World

KILL, PAUSE, OUTAGE = "kill", "pause", "outage"
PAUSE_S, OUTAGE_S = (3.0, 8.0), (10.0, 15.0)
ANSWERS, OUTAGE_LIMIT_S = 20, 60.0
"""An outage continues until so many requests were answered with 500, or until this time limit."""
BLIND = 0.2
"""Share of the disturbances that do not wait for progress since the previous one."""
PROGRESS_S, REST_S = 45.0, 4.0
"""Maximum wait for progress before a disturbance, and maximum rest after this wait."""
LIMIT_S, STOP_S = 900.0, 60.0
"""Maximum wait until all is done, and until the updater exits."""
SETTLED_S = 30.0
"""Wait after all rows exist: duplicates may still be retried."""
MORE_S = 3.0
ROUNDS = 5
LATE, LATE_S = 0.03, 2.0
"""Share of the edits whose rows are written after their message, and how long after it at most."""
PUBLISHED_S = 0.05
BATCH = 20
LOOK_S, STORE_S = 1.0, 5.0


class Publisher:
    """Publishes messages in order, until the share of them that `allow` sets is published.

    Writes an edit's graph rows before its first message. For a few edits, writes them shortly after it.
    """

    def __init__(self, world: World, parcels: Sequence[Parcel], random: np.random.Generator) -> None:
        self.world, self.parcels, self.random = world, parcels, random
        self.published = 0
        self.late = 0
        self.errors: list[str] = []
        self._allowed = 0
        self._seen: set[tuple[str, int]] = set()
        self._heap: list[tuple[float, int, Good]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def busy(self) -> bool:
        return self._thread.is_alive()

    def allow(self, share: float) -> None:
        self._allowed = round(share * len(self.parcels))

    def _work(self) -> None:
        try:
            while (self.published < len(self.parcels) or self._heap) and not self._ended.is_set():
                while self._heap and self._heap[0][0] <= time.monotonic():
                    self._write(heapq.heappop(self._heap)[2])
                ready = self.parcels[self.published : min(self._allowed, self.published + BATCH)]
                ready = ready[: 1 + int(self.random.integers(BATCH))]
                for parcel in ready:
                    self._prepare(parcel)
                self.world.publish(ready)
                self.published += len(ready)
                self._ended.wait(PUBLISHED_S)
        except Exception as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    def _prepare(self, parcel: Parcel) -> None:
        """Write the graph rows that a message needs, or schedule them for a little later."""
        good = parcel.good
        if good is None or (key := (good.target.name, good.edit.operation_id)) in self._seen:
            return
        self._seen.add(key)
        if self.random.random() >= LATE:
            self._write(good)
            return
        self.late += 1
        due = time.monotonic() + self.random.uniform(0, LATE_S)
        heapq.heappush(self._heap, (due, len(self._seen), good))

    def _write(self, good: Good) -> None:
        self.world.write_rows(good.target, good.edit.cells)


class Tally:
    """Every second, counts new ids that have no rows yet, and poison messages without a dead letter."""

    def __init__(self, world: World, parcels: Sequence[Parcel], letters: Path) -> None:
        goods = [parcel.good for parcel in parcels if parcel.good]
        self.letters = letters
        self._missing: dict[str, Ids] = {}
        self._stores = {}
        for name in world.targets:
            ids = {node for good in goods if good.target.name == name for node in good.edit.new_l2_ids}
            self._missing[name] = as_ids(sorted(ids))
            dataset = world.dataset(name)
            self._stores[name] = open_store(dataset.store, dataset.l2cache_id, STORE_S)
        self._unburied = {parcel.letter_name for parcel in parcels if parcel.reason}
        self.total = self.left
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="tally", daemon=True)

    def __enter__(self) -> Tally:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for store in self._stores.values():
            store.close()

    @property
    def left(self) -> int:
        return sum(map(len, self._missing.values())) + len(self._unburied)

    @property
    def done(self) -> int:
        return self.total - self.left

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            self._unburied = {name for name in self._unburied if not (self.letters / f"{name}.json").exists()}
            for name, ids in self._missing.items():
                with contextlib.suppress(L2FeaturesError):  # it may be stopped
                    self._missing[name] = ids[~self._stores[name].read(ids, (SIZE,)).found]


@dataclass
class Figures:
    """Results of a `Storm`: durations in seconds, and ids of messages left at the end."""

    pauses: list[float] = field(default_factory=list)
    outages: list[float] = field(default_factory=list)
    storm_s: float = 0.0
    finish_s: float = 0.0
    """From the last disturbance until no row or dead letter was missing."""
    rounds: int = 0
    """How often the updater was ended to see whether messages were left."""
    left: list[str] = field(default_factory=list)


class Storm:
    """Kills, pauses and outages in random order, while messages are published."""

    def __init__(
        self,
        world: World,
        updater: RestartedUpdater,
        publisher: Publisher,
        tally: Tally,
        progress: Any,
        attempts: int,
    ) -> None:
        self.world, self.updater, self.publisher, self.tally = world, updater, publisher, tally
        self.progress = progress
        self.figures = Figures()
        self.longest_pause_s = FIRST_PAUSE_S * 2 ** (attempts - 2) + MORE_S
        """Longest backoff of a message that has attempts left, plus a margin."""
        self._outage: threading.Thread | None = None

    def rage(self, kills: int, pauses: int, outages: int, random: np.random.Generator) -> None:
        steps = [KILL] * kills + [PAUSE] * pauses + [OUTAGE] * outages
        begun = time.monotonic()
        for number, step in enumerate(random.permutation(steps).tolist()):
            self.publisher.allow((number + 1) / len(steps))
            if random.random() > BLIND:
                before = self.tally.done
                self.wait(PROGRESS_S, lambda before=before: self.tally.done > before)  # type: ignore[misc]
            self.wait(random.uniform(0, REST_S))
            if step == KILL:
                self.updater.kill(random)
            elif step == PAUSE:
                self._pause(random.uniform(*PAUSE_S))
            else:
                self._fail(random.uniform(*OUTAGE_S))
        self.publisher.allow(1.0)
        self.wait(OUTAGE_LIMIT_S, lambda: not self._failing)
        self.figures.storm_s = time.monotonic() - begun

    def finish(self, quiet_s: float) -> None:
        """Wait until all rows exist and leases of killed processes expired; then stop the updater.

        If messages are left, the updater runs again for some time.
        """
        begun = time.monotonic()
        self.wait(LIMIT_S, lambda: not self.tally.left and not self.publisher.busy)
        self.figures.finish_s = time.monotonic() - begun
        self.wait(max(min(SETTLED_S, quiet_s), quiet_s - self.figures.finish_s))
        self.updater.stop(STOP_S)
        for round_ in range(1, ROUNDS + 1):
            self.figures.rounds = round_
            self.figures.left = messages_left(self.world.subscriptions, self.longest_pause_s)
            if not self.figures.left:
                break
            self.updater.start()
            self.wait(2 * self.longest_pause_s)
            self.updater.stop(STOP_S)

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            time.sleep(0.2)
            self._show()

    def _show(self) -> None:
        kills = sum(self.updater.kills.values())
        self.progress.set_postfix_str(
            f"{self.publisher.published} published, {kills} kills, {len(self.figures.pauses)} pauses, "
            f"{len(self.figures.outages)} outages",
            refresh=False,
        )
        self.progress.update(self.tally.done - self.progress.n)

    def _pause(self, seconds: float) -> None:
        self.world.bigtable.pause()
        try:
            self.wait(seconds)
        finally:
            self.world.bigtable.process.send_signal(signal.SIGCONT)
        self.figures.pauses.append(seconds)

    @property
    def _failing(self) -> bool:
        return self._outage is not None and self._outage.is_alive()

    def _fail(self, seconds: float) -> None:
        """Let the graph server answer 500 in the background."""
        self.wait(OUTAGE_LIMIT_S, lambda: not self._failing)
        self._outage = threading.Thread(target=self._outlast, args=(seconds,), name="outage", daemon=True)
        self._outage.start()

    def _outlast(self, seconds: float) -> None:
        server, begun = self.world.server, time.monotonic()
        enough = server.failures + ANSWERS
        server.failing.set()
        time.sleep(seconds)
        while server.failures < enough and time.monotonic() < begun + OUTAGE_LIMIT_S:
            time.sleep(LOOK_S)
        server.failing.clear()
        self.figures.outages.append(time.monotonic() - begun)
