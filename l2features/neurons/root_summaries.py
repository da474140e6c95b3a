"""The status of roots, and the summaries of many roots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from ..core.errors import L2FeaturesError
from ..core.ids import Ids, as_ids, sorted_unique


class RootStatus(IntEnum):
    """Status of an id that was requested as a root."""

    READY = 0
    """The features of all the root's nodes have been computed."""
    INCOMPLETE = 1
    """Some of the root's nodes have no features yet."""
    UNKNOWN = 2
    """The root is missing from the graph, or malformed there."""
    NOT_A_ROOT = 3
    """The id is not in the layer of the roots."""
    TOO_LARGE = 4
    """The root has more nodes than the limit."""


SUMMARIZED = (RootStatus.READY, RootStatus.INCOMPLETE)
"""The status of roots that have a summary."""
UNKNOWN, NOT_A_ROOT = "unknown to the graph", "not a root of this data set"
"""Default reasons of roots without a summary."""


class RootError(L2FeaturesError):
    """A root's nodes cannot be returned.

    If the root is too large, ``size`` is the number of its nodes, or a lower bound; otherwise 0.
    """

    def __init__(self, root: int, status: RootStatus, reason: str, size: int = 0) -> None:
        super().__init__(f"root {root}: {reason}")
        self.root, self.status, self.reason, self.size = root, status, reason, size


@dataclass(frozen=True)
class Summaries:
    """Summaries of roots in the requested order, repeats included.

    Attributes:
        roots: (n,) ids.
        status: (n,) values of `RootStatus`.
        summary: (n,) dtype `SUMMARIES` or `GRAPH_SUMMARIES`; 0 or NaN unless status is ready or incomplete.
        missing: sorted, unique ids of the L2 nodes without features, of all roots.
        sizes: maps each root that is too large to its number of nodes, or to a lower bound.
        reasons: maps roots to why they have no summary, or to what is unexpected about their nodes.
    """

    roots: Ids
    status: npt.NDArray[np.int8]
    summary: np.ndarray
    missing: Ids
    sizes: Mapping[int, int]
    reasons: Mapping[int, str]

    @property
    def summarized(self) -> npt.NDArray[np.bool_]:
        """Which roots have a summary, shape (n,)."""
        return np.isin(self.status, SUMMARIZED)


@dataclass
class Collected:
    """Collects the summaries of sorted, unique roots; the status of each root is UNKNOWN at first."""

    roots: Ids
    dtype: np.dtype
    missing: list[Ids] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.status = np.full(len(self.roots), RootStatus.UNKNOWN, dtype=np.int8)
        self.summary = np.zeros(len(self.roots), dtype=self.dtype)
        for name in self.dtype.names or ():
            if self.dtype[name].base.kind == "f":
                self.summary[name] = np.nan

    def put(self, roots: Ids, summary: np.ndarray) -> None:
        """Store the summaries of roots, and set their status to READY or INCOMPLETE."""
        at = np.searchsorted(self.roots, roots)
        self.summary[at] = summary
        self.status[at] = np.where(summary["n_missing"] == 0, RootStatus.READY, RootStatus.INCOMPLETE)

    def refuse(self, status: RootStatus, reasons: Mapping[int, str]) -> None:
        """Set the status of roots that have no summary; ``reasons`` maps each root to the reason."""
        self.status[np.searchsorted(self.roots, as_ids(list(reasons)))] = status
        self.reasons |= reasons

    def too_large(self, sizes: Mapping[int, int], most: int) -> None:
        """Set the status of roots with more than ``most`` nodes to TOO_LARGE.

        ``sizes`` maps each root to its number of nodes, or to a lower bound.
        """
        self.refuse(RootStatus.TOO_LARGE, {root: too_large(size, most) for root, size in sizes.items()})
        self.sizes |= sizes

    def result(self, roots: Ids) -> Summaries:
        """Return the summaries of these roots, in this order."""
        at = np.searchsorted(self.roots, roots)
        missing = sorted_unique(np.concatenate([as_ids([]), *self.missing]))
        return Summaries(roots, self.status[at], self.summary[at], missing, self.sizes, self.reasons)


def too_large(size: int, most: int) -> str:
    """Return the message for a root with more L2 nodes than ``most``."""
    return f"{size} L2 nodes or more, expected {most} at most"
