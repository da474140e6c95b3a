"""Content negotiation: the offered media type that a client prefers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from werkzeug.datastructures import MIMEAccept

from .error_responses import ApiError, shown

_QUALITY = re.compile(r"\s*q\s*=\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*", re.I)


def accepted(header: str | None, offered: Sequence[str]) -> str:
    """Return the media type in ``offered`` that the Accept header ``header`` prefers.

    If the header prefers several types equally, the type that it names most specifically wins. If this is a
    tie too, the first in ``offered`` wins. Parameters of media types are ignored. None and "" accept every
    type. Raises ApiError 406 if the header accepts no offered type.
    """
    best = _preferred(header or "", tuple(offered))
    if best is None:
        raise not_acceptable(header or "", offered)
    return best


@lru_cache(1_000)
def _preferred(header: str, offered: tuple[str, ...]) -> str | None:
    ranges = MIMEAccept([_range(part) for part in header.split(",") if part.strip()])
    return ranges.best_match(offered) if ranges else offered[0]


def not_acceptable(header: str, offered: Sequence[str]) -> ApiError:
    """Return the error 406 for an Accept header that accepts no offered media type."""
    message = f"Accept: {shown(header)} cannot be met: expected {', '.join(offered)} or */*"
    return ApiError(406, "not_acceptable", message, field="Accept", value=header)


def _range(part: str) -> tuple[str, float]:
    """Parse one media range of an Accept header; return the range and its quality.

    Also parses what werkzeug's parser drops: ``*`` for ``*/*``, and ``q=.2``. An invalid quality counts as 1.
    """
    name, *parameters = part.split(";")
    qualities = [float(match[1]) for match in map(_QUALITY.fullmatch, parameters) if match]
    kind = name.strip().lower()
    return "*/*" if kind == "*" else kind, qualities[0] if qualities else 1.0
