"""The updater: decodes messages, divides them into parts by chunk, computes and writes the rows.

The nodes of a chunk are computed together, even if several messages name them. A message is done, is retried,
or becomes a dead letter, depending on the outcomes of its ids. A row depends only on its id, so messages may
arrive more than once and in any order.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np

from ..config.datasets import Dataset, datasets_of_table
from ..core.errors import (
    ConfigError,
    L2FeaturesError,
    StoreError,
    VolumeError,
    VolumeUnavailable,
    typed_message,
)
from ..core.ids import Ids, as_ids, sorted_unique
from ..core.schema import FEATURES, SIZE
from ..core.transient import is_transient
from ..ingest.compute import timed
from ..ingest.node_features import NodeFeatures
from ..messages.decoding import BadMessage, Reason, check_ids, decode
from ..messages.outcomes import Fate, Outcome
from ..messages.parts import DatasetChunk, Delivery, Member, all_ids, among, batches, by_place
from ..store.rewrites import Rewriting, end_rewrites
from .ledger import OpenMessage
from .message_attempts import Attempts, given_up
from .opened import OpenDatasets, Retries

MEMBERS_S = 60.0
"""Seconds during which the messages of a failed batch are retried one by one."""
logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Computed:
    """Rows to write for members (parts of messages) in a chunk, and the outcomes of the other ids.

    ``error`` is why the computation stopped, or why files of the chunk could not be read (HTTP 403).
    """

    place: DatasetChunk
    members: Sequence[Member]
    features: np.ndarray
    outcomes: list[Outcome]
    millis: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None


@dataclass(frozen=True)
class Update:
    """Settings for applying messages to data sets; small, since every worker receives them.

    Attributes:
        recompute: also compute and write nodes whose rows exist.
        attempts: maximum attempts at a call, with exponential backoff from ``pause_s`` seconds.
        repeat_s: if a message is younger than this, in seconds, a transient error is raised after the last
            attempt, so that the Beam runner repeats the call. All other errors become outcomes.
        counted: count attempts in the store, and give up messages that kill or hang their process.
        geometries: result of `read_geometries`.
    """

    datasets: tuple[Dataset, ...]
    recompute: bool = False
    attempts: int = 3
    pause_s: float = 0.5
    repeat_s: float = 0.0
    counted: bool = False
    geometries: tuple[tuple[str, str], ...] = ()

    def open(self) -> Updater:
        return Updater(self)


class Updater(OpenDatasets):
    """Applies messages to data sets. It is safe to share among threads."""

    def __init__(self, update: Update) -> None:
        super().__init__(update.datasets, update.geometries)
        self.update = update
        self._rewriting: dict[str, Rewriting] = {}
        self._retries = Retries(update.attempts, update.pause_s)

    def plan(self, delivery: Delivery) -> tuple[OpenMessage, list[tuple[DatasetChunk, Member]]]:
        """Decode a message; return a tuple: the message; its parts by data set and chunk.

        Errors become outcomes of the message.
        """
        try:
            request = decode(delivery.data, delivery.attributes)
        except BadMessage as error:
            return OpenMessage(delivery, frozenset(), (Outcome.refused(error.reason, str(error)),)), []
        parts: list[tuple[DatasetChunk, Member]] = []
        outcomes = [
            Outcome.refused(reason, f"{', '.join(values)} among the ids {reason.meaning}")
            for reason, values in request.refused.items()
        ]
        datasets = datasets_of_table(self.update.datasets, request.table_id, request.l2cache_id)
        if len(request.ids) and not datasets:
            cache = f" with the cache {request.l2cache_id!r}" if request.l2cache_id else ""
            detail = f"table {request.table_id!r}{cache} is in no data set"
            outcomes.append(Outcome.refused(Reason.UNKNOWN_TABLE, detail, request.ids))
        for number, dataset in enumerate(datasets if len(request.ids) else ()):
            try:
                geometry = self._retries.call(dataset.name, self.geometry, dataset.name)
            except Exception as error:
                outcomes.append(_failed(dataset.name, request.ids, error))
                continue
            ids, refused = check_ids(request.ids, geometry)
            outcomes += [Outcome.refused(why, "", bad, dataset.name) for why, bad in refused.items()]
            parts += [  # their numbers do not depend on errors of the other data sets
                (place, Member(delivery.key, share, number + part * len(datasets), delivery.published))
                for part, (place, share) in enumerate(by_place(dataset.name, geometry, ids))
            ]
        numbers = frozenset(member.part for _, member in parts)
        names = tuple(dataset.name for dataset in datasets)
        return OpenMessage(delivery, numbers, tuple(outcomes), names, request.operation_id), parts

    def compute(self, place: DatasetChunk, members: Sequence[Member]) -> Iterator[Computed]:
        """Compute the features of a chunk's nodes for members, which are parts of messages.

        After an error that a single message may have caused, each member is computed alone. Errors become
        outcomes. Only a transient error of a message younger than `Update.repeat_s` is raised; rows that
        were computed in the same batch are written first.
        """
        for batch in batches(members):
            if self.update.counted:
                yield from self._counted(place, batch)
            else:
                yield from self._checked(self._tried(place, batch))

    def _counted(self, place: DatasetChunk, batch: Sequence[Member]) -> Iterator[Computed]:
        """Count an attempt at each member, then compute the batch; members with too many attempts alone."""
        try:
            chunk_id = self.geometry(place.dataset).chunk_id(place.chunk)
            attempts = Attempts(self.store(place.dataset), chunk_id, batch)
            together, alone = self._retries.call(place.dataset, attempts.begin)
        except Exception as error:
            yield from self._checked([_stopped(place, batch, error)])
            return
        try:
            results = self._tried(place, together) if together else []
            if alone:
                self._end(place, attempts, together)
            for member in alone:
                results += self._alone(place, member, attempts)
            yield from self._checked(results)
        finally:
            self._end(place, attempts, batch)

    def _alone(self, place: DatasetChunk, member: Member, attempts: Attempts) -> list[Computed]:
        """Compute a member alone, after too many attempts in a batch; give it up after too many alone."""
        try:
            begun = self._retries.call(place.dataset, attempts.begin_alone, member)
        except Exception as error:
            return [_stopped(place, [member], error)]
        if not begun:
            return [_no_rows(place, [member], [given_up(place, member)])]
        results = self._tried(place, [member])
        self._end(place, attempts, [member])  # or it is blamed for the deaths at later members
        return results

    def _end(self, place: DatasetChunk, attempts: Attempts, members: Sequence[Member]) -> None:
        try:
            self._retries.call(place.dataset, attempts.end, members)
        except StoreError as error:
            logger.warning("chunk %s: cannot reset its counts of compute attempts: %s", place.chunk, error)

    def _tried(self, place: DatasetChunk, batch: Sequence[Member]) -> list[Computed]:
        """Compute a batch as a whole. If one message may have caused an error, compute each member alone.

        Members that are left after `MEMBERS_S` seconds are not computed, and get the error of the batch.
        """
        try:
            return [self._retries.call(place.dataset, self._compute, place, batch)]
        except Exception as error:
            if len(batch) == 1 or isinstance(error, (ConfigError, VolumeError, StoreError)):
                return [_stopped(place, batch, error)]
            until, results = time.monotonic() + MEMBERS_S, []
            for member in batch:
                try:
                    if time.monotonic() > until:
                        raise error
                    results.append(self._compute(place, [member]))
                except Exception as member_error:
                    results.append(_stopped(place, [member], member_error))
            return results

    def _checked(self, results: Sequence[Computed]) -> Iterator[Computed]:
        """Yield the results of a batch.

        If a result has an error after which the runner should repeat the call, write the rows of all results,
        and raise the error.
        """
        for result in results:
            if result.error and self._repeats(result.error, result.members):
                for computed in results:
                    list(self.write(computed))
                raise result.error
        yield from results

    def _repeats(self, error: Exception, members: Sequence[Member]) -> bool:
        """Return whether an error is transient, and the newest message is younger than `Update.repeat_s`."""
        newest = max(member.published for member in members)
        return is_transient(error) and time.time() < newest + self.update.repeat_s

    def write(self, computed: Computed) -> Iterator[tuple[Member, list[Outcome]]]:
        """Write rows durably, and yield each member with the outcomes of its ids."""
        rows, outcomes = computed.features, list(computed.outcomes)
        if len(rows):
            dataset, empty = computed.place.dataset, rows[SIZE] == 0
            try:
                with timed(computed.millis, "write"):
                    self._retries.call(dataset, self._write, dataset, rows)
            except Exception as error:
                if self._repeats(error, computed.members):
                    raise
                outcomes.append(_failed(dataset, rows["label"], error))
            else:
                outcomes.append(Outcome(Fate.WRITTEN, sorted_unique(rows["label"][~empty]), dataset))
                outcomes.append(Outcome(Fate.EMPTY, sorted_unique(rows["label"][empty]), dataset))
        for member in computed.members:
            shares = [replace(outcome, ids=among(member.ids, outcome.ids)) for outcome in outcomes]
            yield member, [share for share in shares if len(share.ids)]

    def _write(self, dataset: str, rows: np.ndarray) -> None:
        store = self.store(dataset)
        rewriting = self._rewriting.setdefault(dataset, Rewriting(store)) if self.update.recompute else None
        with rewriting.open() if rewriting else nullcontext():
            store.write(rows)

    def end_rewrites(self) -> None:
        """Tell readers of the tables that rows are no longer being replaced. Raises StoreError.

        Call this only if no other process replaces rows.
        """
        for dataset in self._rewriting:
            end_rewrites(self.store(dataset))

    def _compute(self, place: DatasetChunk, members: Sequence[Member]) -> Computed:
        ids, name = all_ids(members), place.dataset
        outcomes: list[Outcome] = []
        if not self.update.recompute:
            present = self.store(name).read(ids, (SIZE,)).found
            outcomes.append(Outcome(Fate.PRESENT, ids[present], name))
            ids = ids[~present]
        if not len(ids):
            return _no_rows(place, members, outcomes)
        result = self._known(place, ids)
        outcomes.append(Outcome(Fate.UNKNOWN, result.unknown, name, Reason.UNKNOWN_NODE))
        outcomes += [
            Outcome.refused(Reason.BAD_NODE, why, as_ids([node]), name) for node, why in result.errors.items()
        ]
        if len(result.unsure):
            what = f"{len(result.unsure)} ids, the first {result.unsure[0]}: {result.unsure_why}"
            outcomes.append(Outcome(Fate.FAILED, result.unsure, name, detail=what))
        denied = None
        if len(result.unsure) and result.forbidden:
            denied = VolumeUnavailable(f"chunk {place.chunk}: {result.unsure_why}: 403 Forbidden")
        return Computed(place, members, result.features, outcomes, result.millis, denied)

    def _known(self, place: DatasetChunk, ids: Ids) -> NodeFeatures:
        """Compute nodes. Retry nodes missing from the graph, because the graph may lag behind messages."""
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
            result.forbidden = max(result.forbidden, later.forbidden)
        return result


def _no_rows(place: DatasetChunk, members: Sequence[Member], outcomes: list[Outcome]) -> Computed:
    return Computed(place, members, np.zeros(0, FEATURES), outcomes)


def _stopped(place: DatasetChunk, members: Sequence[Member], error: Exception) -> Computed:
    outcome = _failed(place.dataset, all_ids(members), error, f"chunk {place.chunk}: ")
    return replace(_no_rows(place, members, [outcome]), error=error)


def _failed(dataset: str, ids: Ids, error: Exception, where: str = "") -> Outcome:
    if isinstance(error, L2FeaturesError):
        why = str(error)
    else:
        logger.error("data set %s: %sunexpected error", dataset, where, exc_info=error)
        why = typed_message(error)
    return Outcome(Fate.FAILED, sorted_unique(ids), dataset, detail=where + why.removeprefix(where))
