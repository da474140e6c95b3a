"""The roots that change in a renewal: a new version that reuses the files of an older one, its base.

Edits retire and make roots. A root also changes if missing features of its nodes were computed since the base
version: its old rows are retired, and it is added again.
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
    """Sorted ids: the roots that a new version removes from its base version, and the roots that it adds."""

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
    """Yield batches of nodes without features in ``base``: the root of each node (n,), and node ids (n,)."""
    reader = VersionReader(ParquetFiles(folder), base)
    for table in reader.batches(MISSING_NODES, [ROOT_ID, L2_ID]):
        if len(table):
            yield unsigned(table[ROOT_ID].to_numpy()), unsigned(table[L2_ID].to_numpy())
