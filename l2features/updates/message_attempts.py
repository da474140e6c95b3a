"""Attempts at messages, counted in the store before they begin, to find messages that kill their process.

A Beam runner repeats work whose process died, and does not report how often. So an attempt is counted before
it begins, and the count is cleared when it ends. A message with too many counted attempts is computed alone.
If it then has too many counted attempts alone, it is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ..ingest.steps import ATTEMPTS, GIVEN_UP
from ..messages.decoding import Reason
from ..messages.outcomes import Outcome
from ..messages.parts import DatasetChunk, Member
from ..store.base import Store

_ALONE = "alone-"
_DIGEST_BYTES = 12


class Attempts:
    """Counts attempts at members (parts of messages) in one chunk, in the data set's store."""

    def __init__(self, store: Store, chunk_id: int, members: Sequence[Member]) -> None:
        self.store, self.chunk_id, self.members = store, chunk_id, members
        self.works = {_work(member): None for member in members}
        self._counts: dict[str, int] = {}

    def begin(self) -> tuple[list[Member], list[Member]]:
        """Count an attempt to compute each member.

        Returns a tuple: the members to compute together; the members with more than `ATTEMPTS` attempts, to
        compute alone. Raises StoreError.
        """
        works = [*self.works, *(_ALONE + work for work in self.works if len(self.works) == 1)]
        self._counts = dict(zip(works, self.store.count_attempts(self.chunk_id, works), strict=True))
        together = [member for member in self.members if self._counts[_work(member)] <= ATTEMPTS]
        return together, [member for member in self.members if self._counts[_work(member)] > ATTEMPTS]

    def begin_alone(self, member: Member) -> bool:
        """Count an attempt to compute a member alone; return False after too many. Raises StoreError."""
        work = _ALONE + _work(member)
        if work not in self._counts:
            [self._counts[work]] = self.store.count_attempts(self.chunk_id, [work])
        return self._counts[work] <= ATTEMPTS

    def end(self, members: Sequence[Member]) -> None:
        """Clear the attempt counts of members whose computation ended. Raises StoreError."""
        works = {_work(member): None for member in members}
        self.store.clear_attempts(self.chunk_id, [*works, *(_ALONE + work for work in works)])


def given_up(place: DatasetChunk, member: Member) -> Outcome:
    """Return the outcome of a message's part that kills or hangs every process that computes the part."""
    detail = f"chunk {place.chunk}: {GIVEN_UP}"
    return Outcome.refused(Reason.STILL_FAILED, detail, member.ids, place.dataset)


def _work(member: Member) -> str:
    """Return a short name for a part of a message, the same in every process."""
    named = f"{member.part} {member.key}".encode()
    return hashlib.blake2b(named, digest_size=_DIGEST_BYTES).hexdigest()
