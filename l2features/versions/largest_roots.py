"""The largest roots of a version, by their volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..core.ids import Ids
from ..neurons.neuron_summary import SUMMARIES
from .columns import ROOT_ID, root_schema, unsigned
from .lookup import VersionReader
from .version_roots import version_summaries

VOLUME = "size_nm3"


class LargestRoots(NamedTuple):
    """The largest roots (n,), largest first, and their summaries (n,).

    ``row_groups`` is the number of row groups that were read.
    """

    roots: Ids
    summaries: np.ndarray
    row_groups: int


class LargestRows(NamedTuple):
    """An Arrow table of the largest roots, largest first.

    ``row_groups`` is the number of row groups that were read.
    """

    table: Any
    row_groups: int


def largest_rows(reader: VersionReader, count: int, columns: Sequence[str] = ()) -> LargestRows:
    """Return ``root_id``, the volume and ``columns`` of the ``count`` largest roots of a version.

    Reads these columns of all roots, one row group at a time. Raises VersionError.
    """
    names = list(dict.fromkeys((ROOT_ID, VOLUME, *columns)))
    kept, groups = root_schema().empty_table().select(names), 0
    for table in reader.batches("roots", names):
        groups += 1
        table = pa.concat_tables([kept, table])
        order = np.lexsort((table[ROOT_ID].to_numpy(), -table[VOLUME].to_numpy()))
        kept = table.take(pa.array(order[:count]))
    return LargestRows(kept, groups)


def largest_roots(reader: VersionReader, count: int) -> LargestRoots:
    """Return the ``count`` largest roots of a version, with their summaries. Raises VersionError."""
    table, groups = largest_rows(reader, count)
    roots = unsigned(table[ROOT_ID])
    found = np.zeros(len(roots), dtype=SUMMARIES)
    step = max(1, reader.most_groups // max(1, len(reader.manifest.layers)))
    for first in range(0, len(roots), step):
        part = slice(first, first + step)
        summaries, read = version_summaries(reader, roots[part])
        found[part] = summaries.summary
        groups += read
    return LargestRoots(roots, found, groups)
