"""What changes from a version to its renewal: roots that were retired and made, and those to look up again.

A root with nodes that had no features is looked up again: if some have features now, it is retired and made
like an edited root.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import numpy as np

from ..core.errors import VersionError
from ..core.geometry import Geometry
from ..core.ids import Ids, as_ids, sorted_unique
from ..core.schema import SIZE
from ..graph.base import Graph
from ..store.base import Store
from .columns import L2_ID, ROOT_ID, unsigned
from .folders import Folder
from .lookup import VersionReader
from .manifest import MISSING_NODES, Manifest
from .parquet_files import ParquetFiles


class Changes(NamedTuple):
    """Sorted roots to remove from the base, and sorted roots to add."""

    retired: Ids
    made: Ids


def find_changes(
    folder: Folder, base: Manifest, graph: Graph, store: Store, geometry: Geometry, time: datetime
) -> Changes:
    """Return how a version at a time differs from its base. Raises GraphError, StoreError, VersionError."""
    changed = graph.changed_roots(geometry, base.timestamp, time)
    filled, listed = [as_ids([])], 0
    for roots, nodes in _missing(folder, base):
        listed += len(nodes)
        kept = ~np.isin(roots, changed.retired)
        found = store.read(nodes[kept], (SIZE,)).found
        filled.append(roots[kept][found])
    if listed != base.totals.missing:
        raise VersionError(
            f"version {base.number} lists {listed} nodes without features: expected {base.totals.missing} as "
            "its manifest says; --rebase makes a version without a base"
        )
    again = sorted_unique(np.concatenate(filled))
    return Changes(*(sorted_unique(np.concatenate([ids, again])) for ids in (changed.retired, changed.made)))


def _missing(folder: Folder, base: Manifest) -> Iterator[tuple[Ids, Ids]]:
    """Yield the roots and the ids of nodes that had no features, in parts."""
    reader = VersionReader(ParquetFiles(folder), base)
    for table in reader.batches(MISSING_NODES, [ROOT_ID, L2_ID]):
        if len(table):
            yield unsigned(table[ROOT_ID].to_numpy()), unsigned(table[L2_ID].to_numpy())
