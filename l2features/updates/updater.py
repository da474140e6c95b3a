"""What messages mean: which nodes to compute, and what becomes of each message.

A message is split by data set and chunk; nodes that several messages name in a chunk are computed together;
and the outcomes of its ids, wherever they come from, settle the message. Rows are a function of the id alone,
so that a message may come twice, late, or with others in any order: the table is the same.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from ..compute import read_geometry, timed
from ..config import Dataset, datasets_of_table
from ..errors import ConfigError, GraphError, L2FeaturesError, StoreError, StoreUnavailable, VolumeError
from ..geometry import Geometry
from ..ids import Ids, as_ids, sorted_unique
from ..messages import BadMessage, Reason, check_ids, decode
from ..nodes import NodeFeatures, NodeSource
from ..schema import FEATURES, SIZE
from ..store import Store, open_store
from ..volume import open_volume
from .outcomes import Fate, Outcome
from .parts import Delivery, Member, Place, all_ids, among, batches, by_place
from .retries import Retries

MEMBERS_S = 60.0
"""How long the messages of a group that failed are tried one by one."""
INSISTED = (StoreUnavailable, GraphError)
"""Errors that are nobody's fault who sends a message."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Split:
    """The parts of a message, and what is known of the rest of its ids.

    ``datasets`` are those that it means, and ``operation_id`` is an edit's.
    """

    parts: Sequence[tuple[Place, Member]] = ()
    outcomes: Sequence[Outcome] = ()
    datasets: tuple[str, ...] = ()
    operation_id: int | None = None


@dataclass(eq=False)
class Computed:
    """Rows to be written for the members of a chunk, and what is known of all other ids of theirs."""

    place: Place
    members: Sequence[Member]
    features: np.ndarray
    outcomes: list[Outcome]
    millis: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """How messages are applied to data sets, small enough to travel to every worker.

    What may pass is tried ``attempts`` times, with pauses that double from ``pause_s``. After that, for
    ``insist_s`` from the publication of a message, and from when the updater was opened, a store that is away
    and an error of the graph are raised, for who can repeat the call, and otherwise told as failures of ids.
    """

    datasets: tuple[Dataset, ...]
    recompute: bool = False
    attempts: int = 3
    pause_s: float = 0.5
    insist_s: float = 0.0

    def open(self) -> Updater:
        return Updater(self)


class Updater:
    """Applies messages; opens stores, segmentations and graphs as messages come to need them.

    Threads may share it: of each there is one for a data set.
    """

    def __init__(self, update: Update) -> None:
        self.update = update
        self.opened = time.time()
        self._datasets = {dataset.name: dataset for dataset in update.datasets}
        self._opening = {name: threading.RLock() for name in self._datasets}
        self._stores: dict[str, Store] = {}
        self._geometries: dict[str, Geometry] = {}
        self._sources: dict[str, NodeSource] = {}
        self._retries = Retries(update.attempts, update.pause_s)

    def split(self, delivery: Delivery) -> Split:
        """What a message asks for, by data set and chunk. It never raises for what a message holds."""
        try:
            request = decode(delivery.data, delivery.attributes)
        except BadMessage as error:
            return Split(outcomes=[Outcome.refused(error.reason, str(error))])
        parts: list[tuple[Place, Member]] = []
        outcomes = [
            Outcome.refused(reason, f"{', '.join(words)} among the ids {reason.meaning}")
            for reason, words in request.refused.items()
        ]
        datasets = datasets_of_table(self.update.datasets, request.table_id, request.l2cache_id)
        names = tuple(dataset.name for dataset in datasets)
        if not len(request.ids):
            return Split(parts, outcomes, names, request.operation_id)
        if not datasets:
            cache = f" with the cache {request.l2cache_id!r}" if request.l2cache_id else ""
            detail = f"table {request.table_id!r}{cache} belongs to no data set"
            outcomes.append(Outcome.refused(Reason.UNKNOWN_TABLE, detail, request.ids))
        for number, dataset in enumerate(datasets):
            try:
                geometry = self._retries.call(dataset.name, self.geometry, dataset.name)
            except Exception as error:
                self._insist(error, delivery)
                outcomes.append(_failed(dataset.name, request.ids, error))
                continue
            ids, refused = check_ids(request.ids, geometry)
            outcomes += [Outcome.refused(why, "", bad, dataset.name) for why, bad in refused.items()]
            parts += [  # numbered in the same way, whatever becomes of the other data sets
                (place, Member(delivery.key, own, number + part * len(datasets), delivery.published))
                for part, (place, own) in enumerate(by_place(dataset.name, geometry, ids))
            ]
        return Split(parts, outcomes, names, request.operation_id)

    def compute(self, place: Place, members: Sequence[Member]) -> Iterator[Computed]:
        """The features of a chunk's nodes that messages name; it never raises for what a chunk holds.

        Where that fails, and not for the chunk or the store, each message's nodes are tried by themselves.
        """
        for batch in batches(members):
            try:
                yield self._retries.call(place.dataset, self._compute, place, batch)
            except Exception as error:
                if len(batch) == 1 or isinstance(error, (ConfigError, VolumeError, StoreError)):
                    yield self._nothing(place, batch, error)
                else:
                    yield from self._compute_members(place, batch, error)

    def _compute_members(
        self, place: Place, members: Sequence[Member], error: Exception
    ) -> Iterator[Computed]:
        """Each message's nodes by themselves, as far as time allows; ``error`` is what stopped them all."""
        until = time.monotonic() + MEMBERS_S
        failed: list[tuple[Member, Exception]] = []
        for member in members:
            if time.monotonic() > until:
                failed.append((member, error))
                continue
            try:
                yield self._compute(place, [member])
            except Exception as own_error:
                failed.append((member, own_error))
        for member, why in failed:
            yield self._nothing(place, [member], why)

    def _nothing(self, place: Place, members: Sequence[Member], error: Exception) -> Computed:
        """No rows: all ids may be tried again."""
        self._insist(error, *members)
        outcome = _failed(place.dataset, all_ids(members), error, f"chunk {place.chunk}: ")
        return Computed(place, members, np.zeros(0, FEATURES), [outcome])

    def _insist(self, error: Exception, *messages: Delivery | Member) -> None:
        """Raise an error that may pass, if one of the messages is not too old for it."""
        until = max(self.opened, *(message.published for message in messages)) + self.update.insist_s
        if self.update.insist_s and isinstance(error, INSISTED) and time.time() < until:
            raise error

    def write(self, computed: Computed) -> Iterator[tuple[Member, list[Outcome]]]:
        """Make rows durable; gives the outcomes of each member's ids."""
        rows, outcomes = computed.features, list(computed.outcomes)
        if len(rows):
            dataset, empty = computed.place.dataset, rows[SIZE] == 0
            try:
                with timed(computed.millis, "write"):
                    self._retries.call(dataset, self.store(dataset).write, rows)
            except Exception as error:
                self._insist(error, *computed.members)
                outcomes.append(_failed(dataset, rows["label"], error))
            else:
                outcomes.append(Outcome(Fate.WRITTEN, sorted_unique(rows["label"][~empty]), dataset))
                outcomes.append(Outcome(Fate.EMPTY, sorted_unique(rows["label"][empty]), dataset))
        for member in computed.members:
            own = [(outcome, among(member.ids, outcome.ids)) for outcome in outcomes]
            yield member, [outcome.of(ids) for outcome, ids in own if len(ids)]

    def store(self, name: str) -> Store:
        """The store of a data set."""
        with self._opening[name]:
            if name not in self._stores:
                dataset = self._datasets[name]
                self._stores[name] = open_store(dataset.store, dataset.l2cache_id)
            return self._stores[name]

    def geometry(self, name: str) -> Geometry:
        """The geometry of a data set, from its table or else from its segmentation."""
        with self._opening[name]:
            if name not in self._geometries:
                dataset, known = self._datasets[name], self.store(name).geometry()
                self._geometries[name] = known or read_geometry(dataset, open_volume(dataset))
            return self._geometries[name]

    def close(self) -> None:
        """Let go of connections."""
        with ExitStack() as all_of_them:
            for source in self._sources.values():
                all_of_them.callback(source.close)
            for store in self._stores.values():
                all_of_them.callback(store.close)
        self._sources, self._stores = {}, {}

    def _source(self, name: str) -> NodeSource:
        with self._opening[name]:
            if name not in self._sources:
                self._sources[name] = NodeSource(self._datasets[name], self.geometry(name))
            return self._sources[name]

    def _compute(self, place: Place, members: Sequence[Member]) -> Computed:
        ids, name = all_ids(members), place.dataset
        outcomes: list[Outcome] = []
        if not self.update.recompute:
            there = self.store(name).read(ids, (SIZE,)).found
            outcomes.append(Outcome(Fate.PRESENT, ids[there], name))
            ids = ids[~there]
        if not len(ids):
            return Computed(place, members, np.zeros(0, FEATURES), outcomes)
        result = self._known(place, ids)
        outcomes.append(Outcome(Fate.UNKNOWN, result.unknown, name, Reason.UNKNOWN_NODE))
        outcomes += [
            Outcome.refused(Reason.BAD_NODE, why, as_ids([node]), name) for node, why in result.errors.items()
        ]
        if len(result.unsure):
            what = f"{len(result.unsure)} ids, the first {result.unsure[0]}: {result.unsure_why}"
            outcomes.append(Outcome(Fate.FAILED, result.unsure, name, detail=what))
        return Computed(place, members, result.features, outcomes, result.millis)

    def _known(self, place: Place, ids: Ids) -> NodeFeatures:
        """The features of nodes; the graph is asked again for those that it did not know, as it may lag."""
        source = self._source(place.dataset)
        result = source.compute(place.chunk, ids)
        waits = iter(self._retries.pauses())
        while len(result.unknown) and (pause := next(waits, None)) is not None:
            time.sleep(pause)
            later = source.compute(place.chunk, result.unknown)
            result.features = np.concatenate([result.features, later.features])
            result.unknown, result.errors = later.unknown, result.errors | later.errors
            result.unsure = sorted_unique(np.concatenate([result.unsure, later.unsure]))
            result.unsure_why = result.unsure_why or later.unsure_why
        return result


def apply_messages(updater: Updater, deliveries: Iterable[Delivery]) -> dict[str, list[Outcome]]:
    """Apply messages, those that name the same chunk together; gives the outcomes by their keys."""
    groups: dict[Place, list[Member]] = {}
    outcomes: dict[str, list[Outcome]] = {}
    for delivery in deliveries:
        split = updater.split(delivery)
        outcomes.setdefault(delivery.key, []).extend(split.outcomes)
        for place, member in split.parts:
            groups.setdefault(place, []).append(member)
    for place, members in groups.items():
        for computed in updater.compute(place, members):
            for member, found in updater.write(computed):
                outcomes[member.key].extend(found)
    return outcomes


def _failed(dataset: str, ids: Ids, error: Exception, where: str = "") -> Outcome:
    """What became of ids that an error stopped, which may pass."""
    if isinstance(error, L2FeaturesError):
        why = str(error)
    else:
        logger.error("data set %s: %s", dataset, where, exc_info=error)
        why = f"{type(error).__name__}: {error}"
    return Outcome(Fate.FAILED, sorted_unique(ids), dataset, detail=where + why.removeprefix(where))
