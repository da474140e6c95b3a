"""What is told of a message: that it came, and then of each of its parts what became of the ids.

Everything may be told twice and in any order, as in a stream that delivers at least once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ..messages.decoding import Reason
from ..messages.outcomes import Outcome, Settled, settle
from ..messages.parts import Delivery

UNREPORTED = "the result of a part of the message was lost"


@dataclass(frozen=True, eq=False)
class Opened:
    """A message and the numbers of its parts; ``outcomes`` are of what is in none of them."""

    delivery: Delivery
    parts: frozenset[int]
    outcomes: tuple[Outcome, ...] = ()
    datasets: tuple[str, ...] = ()
    operation_id: int | None = None


@dataclass(frozen=True, eq=False)
class Report:
    """What became of the ids of a part."""

    part: int
    outcomes: tuple[Outcome, ...]


Entry = Opened | Report


class Tally(NamedTuple):
    """What has been told of a message so far; sets of parts are bits of bytes, as it is read for every part.

    ``expected`` is None until the message itself is told of.
    """

    expected: bytes | None = None
    told: bytes = b""
    settled: bool = False

    def add(self, entry: Entry) -> Tally:
        """With one entry more; the same tally where it says nothing new."""
        if self.settled or (isinstance(entry, Opened) and self.expected is not None):
            return self
        if isinstance(entry, Opened):
            return self._replace(expected=_bits(entry.parts))._checked()
        told = int.from_bytes(self.told, "little")
        if told >> entry.part & 1:
            return self
        return self._replace(told=_to_bytes(told | 1 << entry.part))._checked()

    def _checked(self) -> Tally:
        if self.expected is None:
            return self
        expected, told = (int.from_bytes(bits, "little") for bits in (self.expected, self.told))
        return self._replace(settled=expected & told == expected)


def close_account(entries: Iterable[Entry]) -> tuple[Opened, Settled]:
    """The verdict on a message, from all that is told of it."""
    opened: Opened | None = None
    reports: dict[int, Report] = {}
    for entry in entries:
        if isinstance(entry, Opened):
            opened = opened or entry
        else:
            reports.setdefault(entry.part, entry)
    if opened is None or not opened.parts <= reports.keys():
        told = f"{len(reports)} parts" if opened is None else f"{len(reports)} of {len(opened.parts)} parts"
        raise ValueError(f"a message cannot be settled, as only {told} are told of")
    outcomes = [*opened.outcomes, *(o for part in sorted(opened.parts) for o in reports[part].outcomes)]
    return opened, settle(outcomes, opened.delivery.last, opened.delivery.overdue)


def unreported(entries: Iterable[Entry]) -> list[Report]:
    """Reports, as refused, of the parts of a message that none of its entries is of."""
    reported = list(entries)
    known = {entry.part for entry in reported if isinstance(entry, Report)}
    missing = sorted({part for e in reported if isinstance(e, Opened) for part in e.parts} - known)
    return [Report(part, (Outcome.refused(Reason.STILL_FAILED, UNREPORTED),)) for part in missing]


def _bits(parts: Iterable[int]) -> bytes:
    bits = bytearray()
    for part in parts:
        bits.extend(bytes(max(0, part // 8 + 1 - len(bits))))
        bits[part // 8] |= 1 << part % 8
    return bytes(bits)


def _to_bytes(bits: int) -> bytes:
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")
