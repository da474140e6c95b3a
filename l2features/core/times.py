"""Parse and format times in UTC: ISO 8601 in, PyChunkedGraph's format out.

>>> parse_time("2026-11-21T02:27:44.5+02:00").isoformat()
'2026-11-21T00:27:44.500000+00:00'
>>> format_time(parse_time("2026-11-21T00:27:44Z"))
'2026-11-21 00:27:44'
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime

from .errors import ConfigError

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
TIME_PATTERN = (
    r"[0-9]{4}(-[0-9]{2}-[0-9]{2}|[0-9]{4})[Tt ]"
    r"[0-9]{2}(:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?|[0-9]{2}([0-9]{2}([.,][0-9]+)?)?)"
    r" ?([Zz]|UTC|[-+]([01][0-9]|2[0-3])(:?[0-5][0-9])?)?"
)
"""Pattern of the ISO 8601 times that `parse_time` reads, without surrounding spaces; also valid in RE2."""
EXPECTED_TIME = '"YYYY-MM-DD HH:MM:SS" (UTC), or ISO 8601 such as 2026-11-21T00:27:44.5+02:00'
FIRST_YEAR, LAST_YEAR = 1970, 2999
_TIME = re.compile(TIME_PATTERN)
_YEARS = f"expected a year from {FIRST_YEAR} to {LAST_YEAR}"
_ZULU = re.compile(r" ?(Z|z|UTC)$")


def parse_time(text: str) -> datetime:
    """Parse an ISO 8601 time to UTC. A time without an offset is UTC. Digits after microseconds are dropped.

    Raises ConfigError for other text, such as a date without a time, and for a year outside 1970 to 2999.
    """
    try:
        return utc_time(text)
    except ValueError as error:
        raise ConfigError(f"timestamp {text!r}: {error}") from error


def utc_time(text: str) -> datetime:
    """Parse a time as `parse_time` does, but raise ValueError instead of ConfigError."""
    time = _iso_time(text.strip())
    try:
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(_YEARS) from error
    if not FIRST_YEAR <= time.year <= LAST_YEAR:
        raise ValueError(_YEARS)
    return time


def format_time(time: datetime) -> str:
    """Return a time in UTC as tables store it: `TIME_FORMAT`, with milliseconds appended if not 0."""
    utc = time.astimezone(UTC)
    text = utc.strftime(TIME_FORMAT)
    return f"{text}.{utc.microsecond // 1000:03d}" if utc.microsecond >= 1000 else text


def iso_text(time: datetime, timespec: str = "seconds") -> str:
    """Return a time as ISO 8601 in UTC.

    >>> iso_text(parse_time("2026-11-21T02:27:44+02:00"))
    '2026-11-21T00:27:44Z'
    """
    return time.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def whole_ms(time: datetime) -> datetime:
    """Return a time rounded down to milliseconds, Bigtable's precision."""
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def _iso_time(text: str) -> datetime:
    with suppress(ValueError):
        return datetime.strptime(text, TIME_FORMAT)  # also 0:05:00, which is not ISO 8601
    if not _TIME.fullmatch(text):
        raise ValueError(f"expected {EXPECTED_TIME}")
    return datetime.fromisoformat(_ZULU.sub("+00:00", text).replace(" +", "+").replace(" -", "-"))
