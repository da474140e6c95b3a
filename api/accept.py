"""Content negotiation: the offered media type that a client prefers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from .errors import ApiError, shown

_QUALITY = re.compile(r"\s*q\s*=\s*([0-9]*\.?[0-9]*)\s*", re.I)


class _Range(NamedTuple):
    """A media range of the header, such as ``text/*``; a quality of 0 excludes it."""

    kind: str
    subtype: str
    quality: float

    def matches(self, media_type: str) -> bool:
        kind, _, subtype = media_type.partition("/")
        return self.kind in ("*", kind) and self.subtype in ("*", subtype)

    @property
    def specificity(self) -> int:
        return (self.kind != "*") + (self.subtype != "*")


def accepted(header: str | None, offered: Sequence[str]) -> str:
    """Return the offered media type that the client prefers; ties go to the most specific, then the first.

    Media type parameters are ignored. A missing or empty header accepts everything. Raises ApiError 406 where
    no offered type is accepted.
    """
    ranges = [_range(part) for part in (header or "").split(",") if part.strip()]
    if not ranges:
        return offered[0]
    best = max(offered, key=lambda media_type: _preference(media_type, ranges))
    if _preference(best, ranges)[0] <= 0:
        raise not_acceptable(header or "", offered)
    return best


def not_acceptable(header: str, offered: Sequence[str]) -> ApiError:
    """Return the error for a client that accepts no offered type."""
    message = f"Accept: {shown(header)} cannot be met: expected {', '.join(offered)} or */*"
    return ApiError(406, "not_acceptable", message, field="Accept", value=header)


def _range(part: str) -> _Range:
    """Parse one media range; an invalid quality counts as 1."""
    name, *parameters = part.split(";")
    found = [match[1] for match in map(_QUALITY.fullmatch, parameters) if match and match[1] not in ("", ".")]
    kind, _, subtype = name.strip().lower().partition("/")
    return _Range(kind, subtype or ("*" if kind == "*" else ""), float(found[0]) if found else 1.0)


def _preference(media_type: str, ranges: Sequence[_Range]) -> tuple[float, int]:
    """Return quality and specificity of the most specific range that contains a media type."""
    matching = [(r.specificity, r.quality) for r in ranges if r.matches(media_type)]
    specificity, quality = max(matching, default=(0, 0.0))
    return quality, specificity
