"""The largest roots of a version, by their volume."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from ..core.errors import VersionError
from ..core.ids import Ids, as_ids
from ..neurons.neuron_summary import SUMMARIES
from .columns import ROOT_ID
from .lookup import FOREVER, VersionReader
from .root_rows import version_summaries

VOLUME = "size_nm3"


class LargestRoots(NamedTuple):
    """Roots (n,), the largest first, their summaries (n,), and how many row groups were read for them."""

    roots: Ids
    summaries: np.ndarray
    row_groups: int


def largest_roots(reader: VersionReader, count: int, until: float = FOREVER) -> LargestRoots:
    """Return the ``count`` largest roots of a version.

    Reads the volumes of all roots, a row group at a time, and then whole rows of those that are returned.
    Raises VersionError after ``until`` (monotonic time), and as the methods of `VersionReader`.
    """
    roots, volumes, groups = as_ids([]), np.zeros(0, dtype=np.int64), 0
    for table in reader.batches("roots", [ROOT_ID, VOLUME]):
        if time.monotonic() > until:
            raise VersionError("the version was not read in time")
        groups += 1
        roots = np.concatenate([roots, table[ROOT_ID].to_numpy().astype(np.uint64)])
        volumes = np.concatenate([volumes, table[VOLUME].to_numpy()])
        order = np.lexsort((roots, -volumes))[:count]
        roots, volumes = roots[order], volumes[order]
    found = np.zeros(len(roots), dtype=SUMMARIES)
    step = max(1, reader.most_groups // max(1, len(reader.manifest.layers)))
    for first in range(0, len(roots), step):
        part = slice(first, first + step)
        summaries, read = version_summaries(reader, roots[part], until)
        found[part] = summaries.summary
        groups += read
    return LargestRoots(roots, found, groups)
