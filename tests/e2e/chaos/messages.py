"""Messages of the chaos test, with expected outcomes: edits, missing ids, and all kinds of poison."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from l2features.core.geometry import Geometry
from l2features.core.ids import L2
from l2features.core.unpickle import MAX_BYTES
from l2features.messages.decoding import EDIT_IDS, Message, Reason, missing_message
from l2features.messages.parts import Delivery
from l2features.pubsub.letter import dead_letter
from l2features.testing.synthetic import LAYER_SHIFT, Edit

POISON, MISSING = 0.02, 0.01
"""Numbers of poison messages and of requests for missing ids, as shares of the number of edits."""
DUPLICATES, MIXED, LOW = 0.1, 0.01, 0.3
"""Share of messages published twice; shares of edits that also name bad ids, and that have low priority."""


@dataclass(frozen=True)
class Target:
    """A data set whose graph is edited, and its edits in order."""

    name: str
    table: str
    l2cache_id: str
    geometry: Geometry
    edits: Sequence[Edit]


_TOPICS = {"true": "high", "false": "low", "": "missing"}


class Good(NamedTuple):
    """An edit of a data set. The edit's rows must be in the graph before its messages can succeed."""

    target: Target
    edit: Edit


@dataclass(frozen=True)
class Parcel:
    """A message, its edit if it has one, and the reason if it becomes a dead letter."""

    message: Message
    good: Good | None = None
    reason: Reason | None = None
    bad_ids: tuple[int, ...] = ()

    @property
    def topic(self) -> str:
        return _TOPICS[self.message.attributes.get("remesh_priority", "")]

    @property
    def letter_name(self) -> str:
        return dead_letter(Delivery("", self.message.data, self.message.attributes), []).name


def make_parcels(targets: Sequence[Target], random: np.random.Generator, witness: Path) -> list[Parcel]:
    """Return all messages in the order in which they are published."""
    goods = [Good(target, edit) for target in targets for edit in target.edits]
    some = [goods[i] for i in random.permutation(len(goods))]
    n_mixed, n_missing, n_poison = (round(share * len(goods)) for share in (MIXED, MISSING, POISON))
    poison = Poison(targets, random, witness)
    parcels = [poison.mixed(good) for good in some[:n_mixed]]
    parcels += [Parcel(_edit(good, random), good=good) for good in some[n_mixed:]]
    parcels += [_missing(good) for good in some[:n_missing]]
    parcels += [_of_nothing(target) for target in targets]
    parcels += [poison.next() for _ in range(max(n_poison, len(poison.kinds)))]
    again = random.permutation(len(parcels))[: round(DUPLICATES * len(parcels))]
    parcels += [parcels[i] for i in again]
    return [parcels[i] for i in random.permutation(len(parcels))]


def _edit(good: Good, random: np.random.Generator) -> Message:
    return good.edit.message(good.target.table, high=random.random() > LOW)


def _missing(good: Good) -> Parcel:
    ids = np.array(good.edit.new_l2_ids, dtype=np.uint64)
    return Parcel(missing_message(ids, good.target.name, good.target.l2cache_id), good=good)


def _of_nothing(target: Target) -> Parcel:
    """Return an empty message of missing ids. PCGL2Cache publishes one even if no ids are missing."""
    return Parcel(Message(b"", {"table_id": target.name, "l2_cache_id": target.l2cache_id}))


class _Command:
    """Runs a shell command when unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (self.command,)


class Poison:
    """Makes messages with permanent errors, cycling through the kinds."""

    def __init__(self, targets: Sequence[Target], random: np.random.Generator, witness: Path) -> None:
        self.targets, self.random, self.command = targets, random, f"touch {witness}"
        self._count = 0
        self.target = targets[0]
        """The data set that the next message is about."""
        self.kinds: list[Callable[[], Parcel]] = [
            lambda: self._pickle(self.random.bytes(64) + b"\xff.", Reason.BAD_PICKLE),
            lambda: self._pickle(self._dump([1, 2])[:-9], Reason.BAD_PICKLE),
            lambda: self._pickle(pickle.dumps(_Command(self.command)), Reason.BAD_PICKLE),
            lambda: self._pickle(self._dump(_Command(self.command)), Reason.BAD_PICKLE),
            lambda: self._pickle(self._dump(_bomb()), Reason.BAD_PICKLE),
            lambda: self._pickle(b"\x80\x04]r\xff\xff\xff\x7f.", Reason.BAD_PICKLE),
            lambda: self._pickle(b"", Reason.BAD_PICKLE),
            lambda: self._pickle(self.random.bytes(MAX_BYTES + 1), Reason.TOO_LARGE),
            lambda: self._pickle(pickle.dumps([self._count]), Reason.BAD_EDIT),
            lambda: self._pickle(pickle.dumps({"operation_id": self._count}), Reason.BAD_EDIT),
            lambda: self._pickle(self._dump([0] * (EDIT_IDS + 1)), Reason.TOO_MANY_IDS),
            lambda: self._pickle(self._dump(["12", 1.5, None]), Reason.NOT_AN_INTEGER),
            lambda: self._pickle(self._dump([-1, 1 << 64]), Reason.OUT_OF_RANGE),
            self._without_table,
            self._of_unknown_table,
            self._of_odd_length,
            *(lambda kind=kind: self._of_bad_ids(*kind()) for kind in self._bad_ids()),
        ]

    def next(self) -> Parcel:
        """Return a message of the next kind. The data set changes after each cycle of all kinds."""
        parcel = self.kinds[self._count % len(self.kinds)]()
        self._advance()
        return parcel

    def mixed(self, good: Good) -> Parcel:
        """Return an edit that also names bad ids."""
        self.target = good.target
        kinds = self._bad_ids()
        bad, reason = kinds[self._count % len(kinds)]()
        data = self._dump([*good.edit.new_l2_ids[:1], *bad, *good.edit.new_l2_ids[1:]])
        self._advance()
        return replace(self._edit_parcel(data, good.target.table, reason, bad), good=good)

    def _advance(self) -> None:
        self._count += 1
        self.target = self.targets[self._count // len(self.kinds) % len(self.targets)]

    def _dump(self, ids: Any) -> bytes:
        return pickle.dumps({"operation_id": 1_000_000 + self._count, "new_lvl2_ids": ids})

    def _pickle(self, data: bytes, reason: Reason) -> Parcel:
        return self._edit_parcel(data, self.target.table, reason)

    def _edit_parcel(
        self, data: bytes, table: str | None, reason: Reason, bad: tuple[int, ...] = ()
    ) -> Parcel:
        high = ("true", "false")[self._count % 2]
        attributes = {"user_id": str(self._count), "remesh_priority": high, "remesh": "true"}
        if table is not None:
            attributes["table_id"] = table
        return Parcel(Message(data, attributes), reason=reason, bad_ids=bad)

    def _without_table(self) -> Parcel:
        return self._edit_parcel(self._dump([1]), None, Reason.NO_TABLE)

    def _of_unknown_table(self) -> Parcel:
        some = self.target.edits[0].new_l2_ids
        return self._edit_parcel(
            self._dump(list(some)), "no_such_table", Reason.UNKNOWN_TABLE, tuple(sorted(some))
        )

    def _of_odd_length(self) -> Parcel:
        attributes = {"table_id": self.target.name, "l2_cache_id": self.target.l2cache_id}
        return Parcel(Message(self.random.bytes(8 * 5 + 3), attributes), reason=Reason.BAD_LENGTH)

    def _of_bad_ids(self, bad: tuple[int, ...], reason: Reason) -> Parcel:
        return self._edit_parcel(self._dump(list(bad)), self.target.table, reason, bad)

    def _bad_ids(self) -> list[Callable[[], tuple[tuple[int, ...], Reason]]]:
        """Return a function per kind of bad id; each returns sorted ids and the expected reason."""

        def chunk_id(*chunk: int) -> int:
            return self.target.geometry.layout.chunk_id(*chunk)

        def last(count: int) -> int:
            return self.target.geometry.layout.last_id(chunk_id(0, 1, 0)) - count

        def beyond(more: int) -> int:
            x, y, z = self.target.geometry.grid
            return chunk_id(x + more, y, z)

        return [
            lambda: ((self._count + 1, (L2 + 1 << LAYER_SHIFT) + self._count), Reason.OTHER_LAYER),
            lambda: ((beyond(0) + 1, beyond(9) + self._count + 1), Reason.OUTSIDE_GRID),
            lambda: ((chunk_id(0, 0, 0), chunk_id(1, 0, 1)), Reason.NO_SEGMENT),
            lambda: ((last(self._count),), Reason.UNKNOWN_NODE),
        ]


def _bomb() -> list[Any]:
    """Return nested lists that pickle small but have 2^60 leaves."""
    bomb: list[Any] = []
    for _ in range(60):
        bomb = [bomb, bomb]
    return bomb
