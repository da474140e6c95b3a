"""The roots that change from a version to its renewal.

These are the roots that edits retired or made, and the roots with nodes whose missing features were computed
since. The latter are treated like edited roots: their old rows are retired, and they are made again.
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
    """Return the roots that change from ``base`` to a version at ``time``.

    Raises GraphError, StoreError or VersionError.
    """
    changed = graph.changed_roots(geometry, base.timestamp, time)
    filled, listed = [as_ids([])], 0
    for roots, nodes in _missing(folder, base):
        listed += len(nodes)
        kept = ~np.isin(roots, changed.retired)
        found = store.read(nodes[kept], (SIZE,)).found
        filled.append(roots[kept][found])
    if listed != base.totals.missing:
        raise VersionError(
            f"version {base.number} lists {listed} nodes without features, but its manifest says "
            f"{base.totals.missing}: make a fresh version with --rebase"
        )
    again = sorted_unique(np.concatenate(filled))
    return Changes(*(sorted_unique(np.concatenate([ids, again])) for ids in (changed.retired, changed.made)))


def _missing(folder: Folder, base: Manifest) -> Iterator[tuple[Ids, Ids]]:
    """Yield tuples: roots, (n,); ids of the nodes of these roots that have no features in ``base``, (n,)."""
    reader = VersionReader(ParquetFiles(folder), base)
    for table in reader.batches(MISSING_NODES, [ROOT_ID, L2_ID]):
        if len(table):
            yield unsigned(table[ROOT_ID].to_numpy()), unsigned(table[L2_ID].to_numpy())
