"""Summaries of roots, read from a version."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.ids import Ids, as_ids, sorted_unique
from ..neurons.neuron_summary import SUMMARIES
from ..neurons.root_summaries import Collected, RootStatus, Summaries
from .columns import ROOT_ID, unsigned, vectors
from .lookup import FOREVER, VersionReader


def version_summaries(reader: VersionReader, roots: Ids, until: float = FOREVER) -> tuple[Summaries, int]:
    """Return a tuple: the status and summary of each root; the number of row groups read.

    A root that is not in the version has the status UNKNOWN. `Summaries.missing` is empty even if nodes lack
    features, since none can be added to a version. Raises VersionError, and VersionTimeout after ``until``
    (`time.monotonic`).
    """
    out = Collected(sorted_unique(as_ids(roots)), SUMMARIES)
    found = reader.roots(out.roots, until=until)
    known = unsigned(found.table[ROOT_ID])
    out.put(known, summaries_of(found.table))
    absent = np.setdiff1d(out.roots, known, assume_unique=True)
    reason = f"not in version {reader.manifest.number}"
    out.refuse(RootStatus.UNKNOWN, dict.fromkeys(absent.tolist(), reason))
    return out.result(as_ids(roots)), found.row_groups


def summaries_of(table: Any) -> np.ndarray:
    """Return the summaries in a table of roots, dtype `SUMMARIES`, in the same order."""
    records = np.zeros(len(table), dtype=SUMMARIES)
    for name in SUMMARIES.names or ():
        records[name] = vectors(table, name)
    return records
