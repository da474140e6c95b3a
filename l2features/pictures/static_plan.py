"""The plan of a static export: its version, its levels and its shards. The plan is written first.

A job that is run again finds the plan and makes the same files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from ..core.errors import VersionError
from ..core.geometry import Geometry
from ..core.ids import Ids, group_starts
from ..versions.columns import L2_ID, MISSING, N_MISSING, N_NODES, ROOT_ID, unsigned
from ..versions.folders import Folder
from ..versions.lookup import VersionReader
from ..versions.manifest import BY_NODE, BY_ROOT, ROOTS, Layout
from ..versions.plan import evenly_spread
from ..volume.sharded import Sharding
from .levels import Counts, Level, chunk_counts, count_chunks, levels_of, make_levels
from .node_layers import NODE_LAYERS, ROOT
from .shard_sizes import (
    GZIP,
    IDENTITY,
    MURMUR,
    RAW,
    cell_sharding,
    list_sharding,
    minishard_bits,
    record_sharding,
)
from .static_index import Index, make_shard, row_dtype
from .version_nodes import columns_for, drawn_rows

FORMAT = 1
"""Format of the plans that this code writes, and the newest format that it reads."""
PLAN = "plan.json"
SAMPLE, SAMPLE_ROWS = 16, 4_000
"""Numbers of row ranges, and of rows in each, that are encoded to estimate the sizes of shards."""


class StaticPlan(BaseModel):
    """The planned content of an export. A part of the export is one shard of one index."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    dataset: str
    l2cache_id: str
    version: int = Field(ge=1)
    manifest: str = Field(description="sha256 of the version's manifest")
    layers: tuple[str, ...]
    segments: int = Field(ge=1)
    shard_size: int = Field(ge=1)
    cell_nodes: int = Field(ge=1)
    indexes: tuple[Index, ...] = ()

    def same_work(self, other: StaticPlan) -> bool:
        """Whether two plans make the same export."""
        return self.model_copy(update={"indexes": ()}) == other.model_copy(update={"indexes": ()})

    def __str__(self) -> str:
        return (
            f"version {self.version} of {self.dataset!r}, layers {','.join(self.layers)}, {self.segments} "
            f"segments, shards of {self.shard_size} bytes, cells of {self.cell_nodes} nodes"
        )


def digest(content: bytes) -> str:
    """Return the sha256 of a manifest, in hexadecimal digits."""
    return sha256(content).hexdigest()


def read_plan(folder: Folder) -> StaticPlan | None:
    """Return the plan in the folder of an export; None if the folder has no plan. Raises VersionError."""
    return folder.read_model(PLAN, StaticPlan, FORMAT, "is not the plan of an export: choose an empty folder")


def begin(folder: Folder, wanted: StaticPlan, indexes: Callable[[], Iterable[Index]]) -> StaticPlan:
    """Return the plan of an earlier run of the same export, or else write a new plan with these indexes.

    Raises VersionError if the folder has other files, or another export.
    """
    plan = read_plan(folder)
    if plan is None:
        others = [name for name in folder.names() if not name.startswith(f".{PLAN}.")]
        if others:
            raise VersionError(f"{folder.url} has {others[0]!r} but no {PLAN}: expected an empty folder")
        plan = wanted.model_copy(update={"indexes": tuple(indexes())})
        if not folder.create(PLAN, plan.model_dump_json(indent=1).encode() + b"\n"):
            plan = read_plan(folder)
    if plan is None or not plan.same_work(wanted):
        raise VersionError(f"{folder.url} has another export: {plan}: expected {wanted}, or an empty folder")
    return plan


# ------------------------------------------------------------------ indexes
def make_indexes(plan: StaticPlan, reader: VersionReader, geometry: Geometry) -> Iterator[Index]:
    """Yield the indexes of the plan's layers that draw nodes.

    Reads the ids of all nodes, and the rows of a sample of nodes.
    """
    layers = [layer for layer in plan.layers if layer in NODE_LAYERS]
    if not layers:
        return
    counts = chunk_counts(geometry)
    for table in reader.batches(BY_NODE, [ROOT_ID, L2_ID, MISSING]):
        count_chunks(counts, unsigned(table[L2_ID])[_computed(table)], geometry)
    levels = make_levels(counts, plan.cell_nodes)
    roots = reader.manifest.totals.roots
    tables = {
        layout: _sample(reader, layout, [*columns_for(layers), MISSING]) for layout in (BY_NODE, BY_ROOT)
    }
    for layer in layers:
        voxel, none = math.prod(geometry.resolution), np.empty(0, dtype=row_dtype(layer))
        rows, related = (
            np.concatenate([none, *(drawn_rows(table, layer, voxel) for table in tables[layout])])
            for layout in (BY_NODE, BY_ROOT)
        )
        sampled = sum(map(len, tables[BY_NODE]))
        share = len(rows) / sampled if sampled else 1.0
        sizes = _Sizes(layer, geometry, plan.shard_size)
        yield sizes.by_id(rows, round(int(counts.sum()) * share))
        of_roots = (
            (unsigned(table[ROOT_ID]), (table[N_NODES].to_numpy() - table[N_MISSING].to_numpy()) * share)
            for table in reader.batches(ROOTS, [ROOT_ID, N_NODES, N_MISSING])
        )
        yield sizes.related(related, of_roots, roots, counts.sum() * share)
        which = levels_of(rows["id"], levels)
        for depth, level in enumerate(levels):
            yield sizes.cells(f"level{depth}", level, rows[which == depth], counts, share * level.share)


def _computed(table: Any) -> npt.NDArray[np.bool_]:
    return ~table[MISSING].to_numpy()


def _sample(reader: VersionReader, layout: Layout, columns: Sequence[str]) -> list[Any]:
    """Return a sample of the computed nodes in the version's files of one `Layout`, as Arrow tables."""
    files = reader.manifest.files(layout)
    tables = list[Any]()
    for i in evenly_spread(len(files), SAMPLE):
        layer, file = files[i]
        parts = min(len(reader.files.footer(file).rows), max(1, file.rows // SAMPLE_ROWS))
        tables += [
            table.filter(pa.array(_computed(table))).slice(0, SAMPLE_ROWS)
            for part in evenly_spread(parts, max(1, SAMPLE // len(files)))
            for table in reader.file_batches(layer, file, columns, part, parts)
        ]
    return tables


class _Sizes:
    """Chooses the shards of a layer's indexes, by the encoded size of a sample of the layer's nodes."""

    def __init__(self, layer: str, geometry: Geometry, wanted: int) -> None:
        self.layer, self.geometry, self.wanted = layer, geometry, wanted

    def by_id(self, rows: np.ndarray, nodes: int) -> Index:
        """Return the index by node id, for ``nodes`` nodes of the same average size as the sampled rows."""
        index = Index(
            layer=self.layer, kind="by_id", key="by_id", sharding=Sharding(0, 0, 0, MURMUR, GZIP, RAW)
        )
        sharding = record_sharding(nodes, self._node_bytes(index, rows), self.wanted)
        return index.model_copy(update={"sharding": sharding})

    def related(
        self, rows: np.ndarray, roots: Iterable[tuple[Ids, np.ndarray]], count: int, nodes: float
    ) -> Index:
        """Return the index by root.

        ``rows`` are a sample of nodes, to estimate the bytes per node. ``roots`` yields tuples: ids of
        roots; the expected number of nodes of each. In all, there are ``count`` roots and ``nodes`` nodes.
        """
        index = Index(
            layer=self.layer,
            kind="related",
            key=f"rel_{ROOT}",
            sharding=Sharding(0, 0, 0, MURMUR, GZIP, GZIP),
        )
        size = self._node_bytes(index, rows)
        lists = ((ids, drawn * size) for ids, drawn in roots)
        sharding = list_sharding(lists, count, nodes * size, self.wanted)
        return index.model_copy(update={"sharding": sharding})

    def cells(self, key: str, level: Level, rows: np.ndarray, counts: Counts, share: float) -> Index:
        """Return the index of a level's cells, in files near the wanted size.

        ``rows`` are a sample of the level's nodes, to estimate the bytes per node. ``counts`` (x, y, z) is
        the number of nodes of each chunk. ``share`` is the fraction of these nodes that are in the level.
        """
        index = Index(
            layer=self.layer,
            kind="cells",
            key=key,
            sharding=Sharding(0, 0, 0, IDENTITY, GZIP, GZIP),
            level=level,
        )
        chunks = np.argwhere(counts)
        codes = level.cells(chunks, self.geometry.grid)
        order = np.argsort(codes)
        codes, nodes = codes[order], counts[tuple(chunks[order].T)]
        starts = group_starts(codes)
        bits = sum((n - 1).bit_length() for n in level.cell_grid(self.geometry.grid))
        nodes = np.add.reduceat(nodes, starts) if len(starts) else nodes
        sizes = nodes * (share * self._node_bytes(index, rows))
        sharding = cell_sharding(codes[starts], sizes, bits, self.wanted)
        shards = np.unique(sharding.places(codes[starts])[0])
        return index.model_copy(update={"sharding": sharding, "shards": tuple(shards.tolist())})

    def _node_bytes(self, index: Index, rows: np.ndarray) -> float:
        """Return the average bytes of a node in a shard of these rows; without rows, uncompressed bytes."""
        if not len(rows):
            return row_dtype(self.layer)["record"].itemsize + rows["id"].itemsize
        sharding = index.sharding._replace(minishard_bits=minishard_bits(len(rows)))
        content = make_shard(index.model_copy(update={"sharding": sharding}), rows, self.geometry).content
        return (len(content) - sharding.index_bytes) / len(rows)
